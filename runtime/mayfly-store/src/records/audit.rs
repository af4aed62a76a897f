//! The trail of changes: a row in the transaction of each. Prices and credit, which are the ledger's, leave theirs too.

use std::time::{SystemTime, UNIX_EPOCH};

use mayfly_registry::{Actor, AuditQuery, AuditRow, actor};
use mayfly_types::{KeyId, LevelId, ProjectId, RequestId, TenantId};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::rows::{execute, json, many, one, to_json};
use crate::DbError;

/// Who writes, and when: taken down before the write is queued, because the writer's thread knows no actor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By {
    actor: Option<Actor>,
    at: i64,
}

impl By {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { actor: actor::current(), at: i64::try_from(since.as_micros()).unwrap_or(i64::MAX) }
    }

    /// None for the system itself.
    pub(super) fn key(self) -> Option<KeyId> {
        self.actor.map(|actor| actor.key)
    }

    /// The system itself, or a key that belongs to no tenant.
    pub(super) fn is_operator(self, connection: &Connection) -> Result<bool, DbError> {
        let Some(actor) = self.actor else { return Ok(true) };
        let sql = "SELECT tenant IS NULL FROM key WHERE id = ?1";
        Ok(one(connection, sql, [actor.key.to_bytes()], |row| Ok(row.get(0)?))?.unwrap_or(false))
    }
}

/// A change to be written down.
#[derive(Debug)]
pub(crate) struct AuditEntry {
    /// Whose thing was changed; none is the host's.
    pub(crate) tenant: Option<TenantId>,
    /// The project it belongs to; none if it is not one project's.
    pub(crate) project: Option<ProjectId>,
    /// What was done, for example `price.add`.
    pub(crate) action: &'static str,
    /// To what: a name or an id.
    pub(crate) target: String,
    /// What else is worth knowing. An object; small; nothing that opens a door.
    pub(crate) details: serde_json::Value,
}

/// Whose a level is: tenant and project, as far as it has them.
pub(crate) fn owners(
    connection: &Connection,
    level: LevelId,
) -> Result<(Option<TenantId>, Option<ProjectId>), DbError> {
    let (sql, id) = match level {
        LevelId::Tenant(id) => ("SELECT id, NULL FROM tenant WHERE id = ?1", id.to_bytes()),
        LevelId::Project(id) => ("SELECT tenant, id FROM project WHERE id = ?1", id.to_bytes()),
        LevelId::Deployment(id) => (
            "SELECT p.tenant, p.id FROM deployment d JOIN project p ON p.id = d.project WHERE d.id = ?1",
            id.to_bytes(),
        ),
        LevelId::Key(id) => ("SELECT tenant, project FROM key WHERE id = ?1", id.to_bytes()),
    };
    let found = one(connection, sql, [id], |row| {
        Ok((
            row.get::<_, Option<_>>(0)?.map(TenantId::from_bytes),
            row.get::<_, Option<_>>(1)?.map(ProjectId::from_bytes),
        ))
    })?;
    Ok(found.unwrap_or_default())
}

/// Adds a row.
pub(crate) fn enter(connection: &Connection, by: By, entry: &AuditEntry) -> Result<(), DbError> {
    let sql = "INSERT INTO audit (at, actor, request, tenant, project, action, target, details)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let values = params![
        by.at,
        by.actor.map(|actor| actor.key.to_bytes()),
        by.actor.and_then(|actor| actor.request).map(RequestId::to_bytes),
        entry.tenant.map(TenantId::to_bytes),
        entry.project.map(ProjectId::to_bytes),
        entry.action,
        entry.target,
        to_json(&entry.details)?,
    ];
    execute(connection, sql, values).map(drop)
}

/// Adds a row about something of one project.
pub(super) fn enter_for_project(
    connection: &Connection,
    by: By,
    project: ProjectId,
    action: &'static str,
    target: impl FnOnce(&str) -> String,
    details: serde_json::Value,
) -> Result<(), DbError> {
    let sql = "SELECT tenant, name FROM project WHERE id = ?1";
    let found = one(connection, sql, [project.to_bytes()], |row| {
        Ok((TenantId::from_bytes(row.get(0)?), row.get::<_, String>(1)?))
    })?;
    let (tenant, name) = found.ok_or(DbError::NotFound("project"))?;
    let entry = AuditEntry { tenant: Some(tenant), project: Some(project), action, target: target(&name), details };
    enter(connection, by, &entry)
}

fn to_row(row: &Row<'_>) -> Result<AuditRow, DbError> {
    Ok(AuditRow {
        id: row.get("id")?,
        at: row.get("at")?,
        actor: row.get::<_, Option<_>>("actor")?.map(KeyId::from_bytes),
        request: row.get::<_, Option<_>>("request")?.map(RequestId::from_bytes),
        tenant: row.get::<_, Option<_>>("tenant")?.map(TenantId::from_bytes),
        project: row.get::<_, Option<_>>("project")?.map(ProjectId::from_bytes),
        action: row.get("action")?,
        target: row.get("target")?,
        details: json(row, "details")?,
    })
}

/// The newest rows that `query` lets through.
pub(super) fn log(connection: &Connection, query: &AuditQuery) -> Result<Vec<AuditRow>, DbError> {
    let filters: [(&str, Option<Value>); 6] = [
        ("id < ?", query.below.map(Value::from)),
        ("at >= ?", query.since.map(Value::from)),
        ("at < ?", query.until.map(Value::from)),
        ("actor = ?", query.actor.map(|id| Value::Blob(id.to_bytes().to_vec()))),
        ("tenant = ?", query.tenant.map(|id| Value::Blob(id.to_bytes().to_vec()))),
        ("project = ?", query.project.map(|id| Value::Blob(id.to_bytes().to_vec()))),
    ];
    let mut sql = "SELECT * FROM audit WHERE 1".to_owned();
    let mut values = Vec::new();
    for (filter, value) in filters {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(filter);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(Value::from(query.limit));
    many(connection, &sql, params_from_iter(values), to_row)
}
