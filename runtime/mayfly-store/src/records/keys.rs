//! API keys.

use std::sync::Arc;

use mayfly_registry::{ChangeKind, Key, KeyScope, Slot};
use mayfly_types::{DeploymentId, KeyId, ProjectId, TenantId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::audit::{AuditEntry, By, enter};
use super::changes::note;
use super::deployments;
use super::limits;
use super::rows::{self, execute, many, one};
use super::tenants;
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
        deployments: match row.get_ref("deployments")? {
            ValueRef::Null => Vec::new(),
            _text => rows::json(row, "deployments")?,
        },
        slot: to_slot(row)?,
        limits: Arc::new(rows::limits(row)?),
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
        last_used_at: row.get("last_used_at")?,
    })
}

fn to_slot(row: &Row<'_>) -> Result<Option<(DeploymentId, Slot)>, DbError> {
    let (of, slot): (Option<[u8; 16]>, Option<String>) = (row.get("slot_of")?, row.get("slot")?);
    let (Some(of), Some(text)) = (of, slot) else { return Ok(None) };
    let slot = Slot::ALL.into_iter().find(|slot| slot.as_str() == text);
    let slot = slot.ok_or_else(|| DbError::damaged("key", "its slot is neither primary nor secondary"))?;
    Ok(Some((DeploymentId::from_bytes(of), slot)))
}

pub(super) fn insert(connection: &Connection, by: By, key: &Key) -> Result<(), DbError> {
    if let Some(tenant) = key.tenant {
        tenants::live_tenant(connection, tenant)?;
    }
    if let Some(project) = key.project {
        tenants::live_project(connection, project)?;
    }
    add(connection, key, limits::keeps(by.is_operator(connection)?, &key.limits))?;
    let details = json!({
        "prefix": key.prefix,
        "label": key.label,
        "scopes": key.scopes,
        "deployments": key.deployments,
        "expires_at": key.expires_at,
    });
    tell(connection, by, key, "key.create", details)
}

/// Writes down a change of `key`.
fn tell(
    connection: &Connection,
    by: By,
    key: &Key,
    action: &'static str,
    details: serde_json::Value,
) -> Result<(), DbError> {
    let entry = AuditEntry { tenant: key.tenant, project: key.project, action, target: key.id.to_string(), details };
    enter(connection, by, &entry)
}

/// `operators`: its limits were set by the operator.
fn add(connection: &Connection, key: &Key, operators: bool) -> Result<(), DbError> {
    rows::insert(
        connection,
        "INSERT INTO key (id, tenant, project, label, prefix, hash, scopes, deployments, slot_of, slot, limits,
                          created_at, expires_at, revoked_at, last_used_at, limits_by_operator)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            key.id.to_bytes(),
            key.tenant.map(TenantId::to_bytes),
            key.project.map(ProjectId::to_bytes),
            key.label,
            key.prefix,
            key.hash,
            rows::to_json(&key.scopes)?,
            (!key.deployments.is_empty()).then(|| rows::to_json(&key.deployments)).transpose()?,
            key.slot.map(|(of, _slot)| of.to_bytes()),
            key.slot.map(|(_of, slot)| slot.as_str()),
            rows::limits_text(&key.limits)?,
            key.created_at,
            key.expires_at,
            key.revoked_at,
            key.last_used_at,
            operators,
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

pub(super) fn revoke(connection: &Connection, by: By, id: KeyId, at: i64) -> Result<(), DbError> {
    let Some(key) = by_id(connection, id)? else { return Err(DbError::NotFound("key")) };
    if key.revoked_at.is_some() {
        return Ok(());
    }
    if key.scopes.contains(&KeyScope::Admin) && !other_admin_lives(connection, id, at)? {
        return Err(DbError::Taken("this is the last admin key that works; make another one first".to_owned()));
    }
    end(connection, &key, at)?;
    tell(connection, by, &key, "key.revoke", json!({ "prefix": key.prefix }))
}

fn end(connection: &Connection, key: &Key, at: i64) -> Result<(), DbError> {
    execute(connection, "UPDATE key SET revoked_at = ?2 WHERE id = ?1", params![key.id.to_bytes(), at])?;
    note(connection, &ChangeKind::Key(key.id, key.hash))
}

/// The live keys of a deployment's own two.
pub(super) fn of_slots(connection: &Connection, deployment: DeploymentId) -> Result<Vec<Key>, DbError> {
    let sql = "SELECT * FROM key WHERE slot_of = ?1 AND slot IS NOT NULL AND revoked_at IS NULL ORDER BY slot";
    many(connection, sql, [deployment.to_bytes()], to_key)
}

/// A deployment that goes takes its own two keys with it.
pub(super) fn end_of_slots(connection: &Connection, deployment: DeploymentId, at: i64) -> Result<(), DbError> {
    of_slots(connection, deployment)?.iter().try_for_each(|key| end(connection, key, at))
}

/// A project that goes takes the keys bound to it with it; how many.
pub(super) fn end_of_project(connection: &Connection, project: ProjectId, at: i64) -> Result<usize, DbError> {
    let sql = "SELECT * FROM key WHERE project = ?1 AND revoked_at IS NULL";
    end_all(connection, &many(connection, sql, [project.to_bytes()], to_key)?, at)
}

/// A tenant that goes takes its keys with it; how many.
pub(super) fn end_of_tenant(connection: &Connection, tenant: TenantId, at: i64) -> Result<usize, DbError> {
    let sql = "SELECT * FROM key WHERE tenant = ?1 AND revoked_at IS NULL";
    end_all(connection, &many(connection, sql, [tenant.to_bytes()], to_key)?, at)
}

fn end_all(connection: &Connection, keys: &[Key], at: i64) -> Result<usize, DbError> {
    keys.iter().try_for_each(|key| end(connection, key, at))?;
    Ok(keys.len())
}

/// Puts the secret of `new` into its slot.
pub(super) fn rotate(connection: &Connection, by: By, new: &Key) -> Result<Key, DbError> {
    let Some((deployment, slot)) = new.slot else { return Err(DbError::NotFound("slot of the key")) };
    deployments::by_id(connection, deployment)?.ok_or(DbError::NotFound("deployment"))?;
    let sql = "SELECT * FROM key WHERE slot_of = ?1 AND slot = ?2 ORDER BY revoked_at IS NULL DESC, id DESC LIMIT 1";
    let last = one(connection, sql, params![deployment.to_bytes(), slot.as_str()], to_key)?;
    let key = match last {
        Some(live) if live.revoked_at.is_none() => {
            let sql = "UPDATE key SET prefix = ?2, hash = ?3, created_at = ?4, last_used_at = NULL WHERE id = ?1";
            execute(connection, sql, params![live.id.to_bytes(), new.prefix, new.hash, new.created_at])?;
            note(connection, &ChangeKind::Key(live.id, new.hash))?;
            Key { prefix: new.prefix.clone(), hash: new.hash, created_at: new.created_at, last_used_at: None, ..live }
        }
        ended => {
            // The slot keeps the limits that its last key had, whoever set them.
            let (limits, operators) = match ended {
                Some(ended) => (ended.limits, limits::are_operators(connection, "key", ended.id.to_bytes())?),
                None => (Arc::clone(&new.limits), limits::keeps(by.is_operator(connection)?, &new.limits)),
            };
            let key = Key { limits, ..new.clone() };
            add(connection, &key, operators)?;
            key
        }
    };
    let details = json!({ "deployment": deployment, "slot": slot, "prefix": key.prefix });
    tell(connection, by, &key, "key.rotate", details)?;
    Ok(key)
}

/// Notes uses. Nobody who caches keys needs to know: no version.
pub(super) fn note_used(connection: &Connection, used: &[(KeyId, i64)]) -> Result<(), DbError> {
    let sql = "UPDATE key SET last_used_at = ?2 WHERE id = ?1 AND ifnull(last_used_at < ?2, 1)";
    used.iter().try_for_each(|(id, at)| execute(connection, sql, params![id.to_bytes(), at]).map(drop))
}

fn other_admin_lives(connection: &Connection, id: KeyId, at: i64) -> Result<bool, DbError> {
    let sql =
        "SELECT * FROM key WHERE tenant IS NULL AND revoked_at IS NULL AND id <> ?1 AND ifnull(expires_at > ?2, 1)";
    let keys = many(connection, sql, params![id.to_bytes(), at], to_key)?;
    Ok(keys.iter().any(|key| key.scopes.contains(&KeyScope::Admin)))
}
