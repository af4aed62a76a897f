//! [`KeyValue`] in SQLite: what guests keep, each deployment's apart.
//!
//! Guests share the database with records and ledger, so they get few of its turns: a deployment that writes in a loop
//! slows other guests' writes, not the settling of calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use mayfly_host::{KeyValue, KeyValueError, KeyValueLimits, KeyValuePage};
use mayfly_types::DeploymentId;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::DbError;
use crate::db::Db;

/// Writes of guests in the writer's queue at once; the rest wait within their calls.
const WRITES_QUEUED_MAX: usize = 16;
/// Reads of guests at once: below the number of reading connections, so that one is left for everything else.
const READS_MAX: usize = 2;

type Answer<T> = Result<T, KeyValueError>;

/// The guests' data in a [`crate::Store`].
#[derive(Debug, Clone)]
pub(crate) struct SqliteKeyValue {
    db: Db,
    writing: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

impl From<DbError> for KeyValueError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Failed { detail } => Self::Failed { detail },
            other => Self::Failed { detail: other.to_string() },
        }
    }
}

impl SqliteKeyValue {
    pub(crate) fn new(db: Db) -> Self {
        let turns = |count| Arc::new(Semaphore::new(count));
        Self { db, writing: turns(WRITES_QUEUED_MAX), reading: turns(READS_MAX) }
    }

    /// Runs `work` on a read connection.
    async fn read<T, F>(&self, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        let turn = turn(&self.reading).await?;
        let work = move |connection: &Connection| {
            let _until_done = turn;
            work(connection)
        };
        Ok(self.db.read(work).await?)
    }

    /// Runs `work` on the writer, for a deployment that is there. What `work` refuses it refuses before it writes.
    async fn write<T, F>(&self, of: DeploymentId, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Kept<'_>) -> Result<Answer<T>, DbError> + Send + 'static,
    {
        let turn = turn(&self.writing).await?;
        let work = move |connection: &Connection| {
            let _until_done = turn;
            let sql = "SELECT EXISTS (SELECT 1 FROM deployment WHERE id = ?1 AND deleted_at IS NULL)";
            let id = of.to_bytes();
            let there: bool = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
            if !there {
                return Ok(Err(KeyValueError::Gone));
            }
            work(&Kept { connection, id })
        };
        self.db.write(work).await?
    }
}

/// A place that is taken until the work is done, also when nobody waits for it any more.
async fn turn(turns: &Arc<Semaphore>) -> Answer<OwnedSemaphorePermit> {
    let closed = |_closed| KeyValueError::Failed { detail: "the store is closed".to_owned() };
    Arc::clone(turns).acquire_owned().await.map_err(closed)
}

/// The data of one deployment, within a transaction.
struct Kept<'a> {
    connection: &'a Connection,
    id: [u8; 16],
}

/// What a deployment keeps.
#[derive(Debug, Default)]
struct Used {
    keys: i64,
    bytes: i64,
    last: i64,
}

impl Kept<'_> {
    fn used(&self) -> Result<Used, DbError> {
        let sql = "SELECT keys, bytes, last FROM keyvalue_use WHERE deployment = ?1";
        let to_used = |row: &rusqlite::Row<'_>| Ok(Used { keys: row.get(0)?, bytes: row.get(1)?, last: row.get(2)? });
        let used = self.connection.prepare_cached(sql)?.query_row([self.id], to_used).optional()?;
        Ok(used.unwrap_or_default())
    }

    fn note(&self, used: &Used) -> Result<(), DbError> {
        let sql = "INSERT INTO keyvalue_use (deployment, keys, bytes, last) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (deployment) DO UPDATE SET keys = ?2, bytes = ?3, last = ?4";
        self.connection.prepare_cached(sql)?.execute(params![self.id, used.keys, used.bytes, used.last])?;
        Ok(())
    }

    /// Bytes of the value, if the key is there.
    fn length(&self, key: &str) -> Result<Option<i64>, DbError> {
        let sql = "SELECT length(value) FROM keyvalue WHERE deployment = ?1 AND key = ?2";
        Ok(self.connection.prepare_cached(sql)?.query_row(params![self.id, key], |row| row.get(0)).optional()?)
    }

    fn set(&self, entries: &BTreeMap<String, Vec<u8>>, limits: KeyValueLimits) -> Result<Answer<()>, DbError> {
        let mut used = self.used()?;
        let before = (used.keys, used.bytes);
        for (key, value) in entries {
            let old = self.length(key)?;
            used.keys += i64::from(old.is_none());
            used.bytes += size(value.len()) - old.unwrap_or(0) + if old.is_none() { size(key.len()) } else { 0 };
        }
        // What shrinks is taken also where the limit was lowered meanwhile.
        if used.keys > before.0 && used.keys > whole(limits.keys_max) {
            return Ok(Err(full("keyvalue.keys_max", limits.keys_max, "keys")));
        }
        if used.bytes > before.1 && used.bytes > whole(limits.bytes_max) {
            return Ok(Err(full("keyvalue.bytes_max", limits.bytes_max, "bytes of keys and values")));
        }
        let sql = "INSERT INTO keyvalue (deployment, key, number, value) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (deployment, key) DO UPDATE SET value = ?4";
        let mut set = self.connection.prepare_cached(sql)?;
        for (key, value) in entries {
            used.last += 1;
            set.execute(params![self.id, key, used.last, value])?;
        }
        self.note(&used)?;
        Ok(Ok(()))
    }

    fn delete(&self, keys: &[String]) -> Result<(), DbError> {
        let mut used = self.used()?;
        let mut delete = self.connection.prepare_cached("DELETE FROM keyvalue WHERE deployment = ?1 AND key = ?2")?;
        for key in keys {
            let Some(length) = self.length(key)? else { continue };
            delete.execute(params![self.id, key])?;
            used.keys -= 1;
            used.bytes -= length + size(key.len());
        }
        self.note(&used)
    }

    fn increment(&self, key: String, delta: u64, limits: KeyValueLimits) -> Result<Answer<u64>, DbError> {
        let number = match value(self.connection, self.id, &key)? {
            None => Some(0),
            Some(value) => std::str::from_utf8(&value).ok().and_then(|text| text.parse::<u64>().ok()),
        };
        let Some(number) = number else { return Ok(Err(KeyValueError::NotANumber)) };
        let Some(sum) = number.checked_add(delta) else { return Ok(Err(KeyValueError::Overflow)) };
        let entry = BTreeMap::from([(key, sum.to_string().into_bytes())]);
        Ok(self.set(&entry, limits)?.map(|()| sum))
    }
}

fn value(connection: &Connection, id: [u8; 16], key: &str) -> Result<Option<Vec<u8>>, DbError> {
    let sql = "SELECT value FROM keyvalue WHERE deployment = ?1 AND key = ?2";
    Ok(connection.prepare_cached(sql)?.query_row(params![id, key], |row| row.get(0)).optional()?)
}

fn full(name: &str, limit: u64, unit: &str) -> KeyValueError {
    KeyValueError::Full { limit: format!("{name} = {limit} {unit}") }
}

fn size(length: usize) -> i64 {
    i64::try_from(length).expect("no allocation is larger")
}

/// A limit as the database counts.
fn whole(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[async_trait]
impl KeyValue for SqliteKeyValue {
    async fn get_many(&self, of: DeploymentId, keys: Vec<String>) -> Answer<Vec<Option<Vec<u8>>>> {
        let work =
            move |connection: &Connection| keys.iter().map(|key| value(connection, of.to_bytes(), key)).collect();
        self.read(work).await
    }

    async fn set_many(&self, of: DeploymentId, entries: Vec<(String, Vec<u8>)>, limits: KeyValueLimits) -> Answer<()> {
        let entries = entries.into_iter().collect();
        self.write(of, move |kept| kept.set(&entries, limits)).await
    }

    async fn delete_many(&self, of: DeploymentId, keys: Vec<String>) -> Answer<()> {
        match self.write(of, move |kept| kept.delete(&keys).map(Ok)).await {
            // Everything has been deleted.
            Err(KeyValueError::Gone) => Ok(()),
            done => done,
        }
    }

    async fn exists(&self, of: DeploymentId, key: String) -> Answer<bool> {
        self.read(move |connection| Kept { connection, id: of.to_bytes() }.length(&key).map(|found| found.is_some()))
            .await
    }

    async fn list_keys(&self, of: DeploymentId, cursor: Option<u64>, limit: u32) -> Answer<KeyValuePage> {
        let after = cursor.map_or(0, whole);
        let work = move |connection: &Connection| {
            let sql = "SELECT number, key FROM keyvalue WHERE deployment = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
            let mut list = connection.prepare_cached(sql)?;
            let rows = list.query_map(params![of.to_bytes(), after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let rows = rows.collect::<Result<Vec<(i64, String)>, _>>()?;
            // A full page may be the last one: then the next is empty.
            let more = u32::try_from(rows.len()) == Ok(limit);
            let cursor = rows.last().filter(|_| more).and_then(|(number, _)| u64::try_from(*number).ok());
            Ok(KeyValuePage { keys: rows.into_iter().map(|(_, key)| key).collect(), cursor })
        };
        self.read(work).await
    }

    async fn increment(&self, of: DeploymentId, key: String, delta: u64, limits: KeyValueLimits) -> Answer<u64> {
        self.write(of, move |kept| kept.increment(key, delta, limits)).await
    }
}
