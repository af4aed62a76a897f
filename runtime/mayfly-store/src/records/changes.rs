//! The change log: one row for each record, with the version of its newest change.

use mayfly_registry::{Change, ChangeKind};
use mayfly_types::{DeploymentId, KeyId, ModelId, ProjectId, TenantId};
use rusqlite::{Connection, params};

use super::rows::{execute, many, one};
use crate::DbError;

/// Notes a change, in the transaction that makes it.
pub(super) fn note(connection: &Connection, kind: &ChangeKind) -> Result<(), DbError> {
    let (code, id, hash) = match kind {
        ChangeKind::Tenant(id) => (0, id.to_bytes(), None),
        ChangeKind::Project(id) => (1, id.to_bytes(), None),
        ChangeKind::Key(id, hash) => (2, id.to_bytes(), Some(*hash)),
        ChangeKind::Model(id) => (3, id.to_bytes(), None),
        ChangeKind::Deployment(id) => (4, id.to_bytes(), None),
    };
    let sql = "INSERT OR REPLACE INTO change (kind, id, hash) VALUES (?1, ?2, ?3)";
    execute(connection, sql, params![code, id, hash]).map(|_one| ())
}

pub(super) fn version(connection: &Connection) -> Result<i64, DbError> {
    // Not the highest row: AUTOINCREMENT remembers versions whose rows were replaced, and so must we.
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'change'";
    Ok(one(connection, sql, [], |row| Ok(row.get(0)?))?.unwrap_or(0))
}

pub(super) fn since(connection: &Connection, version: i64, limit: u32) -> Result<Vec<Change>, DbError> {
    let sql = "SELECT version, kind, id, hash FROM change WHERE version > ?1 ORDER BY version LIMIT ?2";
    many(connection, sql, params![version, limit], |row| {
        let id: [u8; 16] = row.get(2)?;
        let kind = match row.get::<_, i64>(1)? {
            0 => ChangeKind::Tenant(TenantId::from_bytes(id)),
            1 => ChangeKind::Project(ProjectId::from_bytes(id)),
            2 => ChangeKind::Key(KeyId::from_bytes(id), row.get(3)?),
            3 => ChangeKind::Model(ModelId::from_bytes(id)),
            4 => ChangeKind::Deployment(DeploymentId::from_bytes(id)),
            other => return Err(DbError::damaged("change", other)),
        };
        Ok(Change { version: row.get(0)?, kind })
    })
}
