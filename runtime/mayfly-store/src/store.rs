//! Opens the data folder: lock, node, database, artifacts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mayfly_host::KeyValue;
use mayfly_registry::{Artifacts, ModelPin, Owner, Records};
use rusqlite::params;

use crate::artifacts::FileArtifacts;
use crate::db::{Db, Opening};
use crate::folder::{FolderLock, private_file, private_folder};
use crate::keyvalue::SqliteKeyValue;
use crate::records::{SqliteRecords, pins};
use crate::{Config, DbError, StoreError, migrations};

/// This node and this start of it: what it writes can be told from what others write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// Made at the first start on this folder.
    pub id: [u8; 16],
    /// Counts the starts; 1 for the first.
    pub boot: i64,
}

/// The embedded store: one folder, used by one server at a time.
///
/// `mayfly.db` (records and ledger), `redo/` (rows of the ledger on their way into it), `artifacts/` (components and model packages), `node/` (this node's id, its
/// compiled code, its prepacked copies of models, its staging folder). Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) db: Db,
    pub(crate) node: Node,
    artifacts: FileArtifacts,
    key_values: SqliteKeyValue,
    code: PathBuf,
    models: PathBuf,
    workers: PathBuf,
}

impl Store {
    /// Opens `folder`, made if it is not there. Blocking: call it before the server serves.
    ///
    /// # Errors
    /// [`StoreError`]; a folder of another server, or of a newer version, is left as it was.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, &Config::default())
    }

    /// As [`Store::open`], with settings.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(folder: &Path, config: &Config) -> Result<Self, StoreError> {
        let io = |what| move |source| StoreError::Io { what, source };
        private_folder(folder).map_err(io("the folder itself"))?;
        let lock = FolderLock::take(&folder.join("lock"))?;
        let node_folder = folder.join("node");
        private_folder(&node_folder).map_err(io("node/"))?;
        let id = node_id(&node_folder.join("id"))?;
        let file = folder.join("mayfly.db");
        private_file(&file).map_err(io("mayfly.db"))?;
        let opening = Opening { path: &file, redo: &folder.join("redo"), config };
        let (db, node) = Db::open(opening, lock, |connection| {
            migrations::migrate(connection)?;
            Ok(Node { id, boot: count_boot(connection, id)? })
        })?;
        let artifacts = FileArtifacts::open(&folder.join("artifacts"), &node_folder.join("staging"), None)
            .map_err(io("artifacts/"))?;
        let key_values = SqliteKeyValue::new(db.clone());
        let [code, models, workers] = ["code", "models", "workers"].map(|name| node_folder.join(name));
        Ok(Self { db, node, artifacts, key_values, code, models, workers })
    }

    /// What the database of `folder` has of pinned models, each with its owner and name, the oldest first; nothing where
    /// there is none yet. The folder is not opened: a server may be at work on it. Blocking.
    ///
    /// # Errors
    /// [`DbError`] if it cannot be read.
    pub fn peek_pins(folder: &Path) -> Result<Vec<(Owner, String, ModelPin)>, DbError> {
        pins::peek(folder)
    }

    /// Tenants, projects, keys, models, deployments.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::new(SqliteRecords(self.db.clone()))
    }

    /// Components and model packages.
    pub fn artifacts(&self) -> Arc<dyn Artifacts> {
        Arc::new(self.artifacts.clone())
    }

    /// What guests keep.
    pub fn key_values(&self) -> Arc<dyn KeyValue> {
        Arc::new(self.key_values.clone())
    }

    /// Where the host keeps compiled code: on this node, never shared.
    pub fn code_folder(&self) -> &Path {
        &self.code
    }

    /// Where prepacked copies of models are kept: on this node, never shared.
    pub fn models_folder(&self) -> &Path {
        &self.models
    }

    /// Where each worker process's view of its models is kept: on this node, never shared.
    pub fn workers_folder(&self) -> &Path {
        &self.workers
    }

    /// This node and this start of it.
    pub fn node(&self) -> Node {
        self.node
    }

    /// Makes everything that was accepted durable and lets go of the folder. Later operations fail.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

/// Reads this node's id, or makes one.
fn node_id(path: &Path) -> Result<[u8; 16], StoreError> {
    let io = |source| StoreError::Io { what: "node/id", source };
    match std::fs::read(path) {
        Ok(bytes) => bytes.as_slice().try_into().map_err(|_length| {
            io(std::io::Error::new(std::io::ErrorKind::InvalidData, "the file is damaged (16 bytes expected)"))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = mayfly_types::RequestId::new().to_bytes();
            // Complete or not there: a kill in between must not leave an id nobody can read.
            let draft = path.with_extension("new");
            let write = || {
                use std::io::Write as _;
                let mut file = private_file(&draft)?;
                file.set_len(0)?;
                file.write_all(&id)?;
                file.sync_all()?;
                std::fs::rename(&draft, path)
            };
            write().map_err(io)?;
            Ok(id)
        }
        Err(error) => Err(io(error)),
    }
}

fn count_boot(connection: &rusqlite::Connection, id: [u8; 16]) -> Result<i64, DbError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
    let sql = "INSERT INTO node (id, boot, started_at) VALUES (?1, 1, ?2)
               ON CONFLICT (id) DO UPDATE SET boot = boot + 1, started_at = ?2 RETURNING boot";
    Ok(connection.query_row(sql, params![id, now], |row| row.get(0))?)
}
