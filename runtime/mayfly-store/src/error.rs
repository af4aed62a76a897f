//! What can go wrong with the store.

use mayfly_registry::{ArtifactError, RecordsError};

/// The store's folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another server works on it.
    #[error("the data folder is in use by another server{}; stop it first or choose another folder", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The other server's process, if it is known.
        pid: Option<u32>,
    },
    /// A newer Mayfly has written it.
    #[error(
        "the data folder was written by a newer version (format {found}, this version knows {known}); use that version"
    )]
    Newer {
        /// The format in the folder.
        found: i64,
        /// The newest format this version knows.
        known: i64,
    },
    /// The database file belongs to another program.
    #[error("the file mayfly.db in the data folder is not one of ours; choose another folder")]
    Foreign,
    /// The redo log was written by another data folder's server.
    #[error(
        "the folder redo in the data folder belongs to another database; put the one back that was copied with mayfly.db"
    )]
    ForeignLog,
    /// The folder or a file in it could not be made or read.
    #[error("the data folder could not be used: {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database could not be opened.
    #[error("the database in the data folder could not be opened")]
    Database(#[from] DbError),
}

/// A read or a write was not done. A write that failed has changed nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DbError {
    /// There is no such record.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The name is taken, or the record is in use.
    #[error("{0}")]
    Taken(String),
    /// Only the operator may.
    #[error("{0}")]
    Operators(String),
    /// As many reads or writes as the store holds back are waiting.
    #[error("the store cannot keep up ({waiting} operations are waiting)")]
    Busy {
        /// Operations waiting.
        waiting: usize,
    },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The file or its file system cannot be written.
    #[error("the store is read-only")]
    ReadOnly,
    /// The disk failed; a file system that became read-only while it was open is told like this, too.
    #[error("the disk failed")]
    Disk {
        /// For the log.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Anything else SQLite said, or a panic in one of our closures.
    #[error("the database failed")]
    Failed {
        /// For the log.
        detail: String,
    },
}

impl DbError {
    /// A row that does not hold what we once wrote.
    pub(crate) fn damaged(what: &str, detail: impl std::fmt::Display) -> Self {
        Self::Failed { detail: format!("a stored {what} is damaged: {detail}") }
    }
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly,
            Some(ErrorCode::SystemIoFailure) => Self::Disk { detail: error.to_string() },
            _ => Self::Failed { detail: error.to_string() },
        }
    }
}

impl From<DbError> for RecordsError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::NotFound(what) => Self::NotFound(what),
            DbError::Taken(text) => Self::Taken(text),
            DbError::Operators(text) => Self::Operators(text),
            DbError::Full | DbError::ReadOnly => Self::Unwritable(error.to_string()),
            DbError::Disk { detail } => Self::Unwritable(detail),
            DbError::Failed { detail } => Self::Failed { detail },
            DbError::Busy { .. } | DbError::Closed => Self::Failed { detail: error.to_string() },
        }
    }
}

/// An artifact operation failed at `what`.
pub(crate) fn artifact_error(what: &str, error: &std::io::Error) -> ArtifactError {
    use std::io::ErrorKind;
    let unwritable =
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem);
    ArtifactError::Failed { detail: format!("{what}: {error}"), unwritable }
}
