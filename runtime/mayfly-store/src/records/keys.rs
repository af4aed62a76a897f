//! API keys.

use mayfly_registry::{ChangeKind, Key, KeyScope};
use mayfly_types::{KeyId, ProjectId, TenantId};
use rusqlite::{Connection, Row, params};

use super::changes::note;
use super::rows::{self, execute, many, one};
use crate::DbError;

fn to_key(row: &Row<'_>) -> Result<Key, DbError> {
    Ok(Key {
        id: KeyId::from_bytes(row.get("id")?),
        tenant: row.get::<_, Option<_>>("tenant")?.map(TenantId::from_bytes),
        project: row.get::<_, Option<_>>("project")?.map(ProjectId::from_bytes),
        label: row.get("label")?,
        prefix: row.get("prefix")?,
        hash: row.get("hash")?,
        scopes: rows::json(row, "scopes")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
    })
}

pub(super) fn insert(connection: &Connection, key: &Key) -> Result<(), DbError> {
    rows::insert(
        connection,
        "INSERT INTO key (id, tenant, project, label, prefix, hash, scopes, created_at, expires_at, revoked_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            key.id.to_bytes(),
            key.tenant.map(TenantId::to_bytes),
            key.project.map(ProjectId::to_bytes),
            key.label,
            key.prefix,
            key.hash,
            rows::to_json(&key.scopes)?,
            key.created_at,
            key.expires_at,
            key.revoked_at,
        ],
        || "there is such a key already".to_owned(),
        "tenant or project",
    )?;
    note(connection, &ChangeKind::Key(key.id, key.hash))
}

pub(super) fn by_id(connection: &Connection, id: KeyId) -> Result<Option<Key>, DbError> {
    one(connection, "SELECT * FROM key WHERE id = ?1", [id.to_bytes()], to_key)
}

pub(super) fn by_hash(connection: &Connection, hash: &[u8; 32]) -> Result<Option<Key>, DbError> {
    one(connection, "SELECT * FROM key WHERE hash = ?1", [hash], to_key)
}

pub(super) fn all(connection: &Connection, tenant: Option<TenantId>) -> Result<Vec<Key>, DbError> {
    match tenant {
        Some(tenant) => {
            let sql = "SELECT * FROM key WHERE tenant = ?1 ORDER BY id";
            many(connection, sql, [tenant.to_bytes()], to_key)
        }
        None => many(connection, "SELECT * FROM key ORDER BY id", [], to_key),
    }
}

pub(super) fn revoke(connection: &Connection, id: KeyId, at: i64) -> Result<(), DbError> {
    let Some(key) = by_id(connection, id)? else { return Err(DbError::NotFound("key")) };
    if key.revoked_at.is_some() {
        return Ok(());
    }
    if key.scopes.contains(&KeyScope::Admin) && !other_admin_lives(connection, id, at)? {
        return Err(DbError::Taken("this is the last admin key that works; make another one first".to_owned()));
    }
    execute(connection, "UPDATE key SET revoked_at = ?2 WHERE id = ?1", params![id.to_bytes(), at])?;
    note(connection, &ChangeKind::Key(id, key.hash))
}

fn other_admin_lives(connection: &Connection, id: KeyId, at: i64) -> Result<bool, DbError> {
    let sql =
        "SELECT * FROM key WHERE tenant IS NULL AND revoked_at IS NULL AND id <> ?1 AND ifnull(expires_at > ?2, 1)";
    let keys = many(connection, sql, params![id.to_bytes(), at], to_key)?;
    Ok(keys.iter().any(|key| key.scopes.contains(&KeyScope::Admin)))
}
