//! Model packages under names.

use mayfly_registry::{ChangeKind, Model, Owner};
use mayfly_types::{Digest, ModelId, ProjectId};
use rusqlite::{Connection, Row, params};

use super::changes::note;
use super::rows::{self, execute, many, name, one};
use crate::DbError;

/// How many deployments a refusal names.
const USERS_NAMED_MAX: usize = 5;

fn owner_bytes(owner: Owner) -> Option<[u8; 16]> {
    match owner {
        Owner::Host => None,
        Owner::Project(project) => Some(project.to_bytes()),
    }
}

fn to_model(row: &Row<'_>) -> Result<Model, DbError> {
    let owner: Option<[u8; 16]> = row.get("owner")?;
    Ok(Model {
        id: ModelId::from_bytes(row.get("id")?),
        owner: owner.map_or(Owner::Host, |id| Owner::Project(ProjectId::from_bytes(id))),
        name: name(row, "name")?,
        digest: Digest::from_bytes(row.get("digest")?),
        info: rows::json(row, "info")?,
        approved: row.get("approved")?,
        created_at: row.get("created_at")?,
    })
}

pub(super) fn insert(connection: &Connection, model: &Model) -> Result<(), DbError> {
    if let Some(older) = named(connection, model.owner, model.name.as_str())? {
        unname(connection, older.id)?;
    }
    rows::insert(
        connection,
        "INSERT INTO model (id, owner, name, digest, info, approved, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            model.id.to_bytes(),
            owner_bytes(model.owner),
            model.name.as_str(),
            model.digest.as_bytes(),
            rows::to_json(&model.info)?,
            model.approved,
            model.created_at,
        ],
        || format!("there is a model `{}` already", model.name),
        "project",
    )?;
    note(connection, &ChangeKind::Model(model.id))
}

pub(super) fn by_id(connection: &Connection, id: ModelId) -> Result<Option<Model>, DbError> {
    one(connection, "SELECT * FROM model WHERE id = ?1", [id.to_bytes()], to_model)
}

pub(super) fn named(connection: &Connection, owner: Owner, name: &str) -> Result<Option<Model>, DbError> {
    let sql = "SELECT * FROM model WHERE ifnull(owner, x'') = ifnull(?1, x'') AND name = ?2 AND named = 1";
    one(connection, sql, params![owner_bytes(owner), name], to_model)
}

pub(super) fn all(connection: &Connection, project: Option<ProjectId>) -> Result<Vec<Model>, DbError> {
    match project {
        Some(project) => {
            let sql = "SELECT * FROM model WHERE named = 1 AND (owner IS NULL OR owner = ?1) ORDER BY name, owner";
            many(connection, sql, [project.to_bytes()], to_model)
        }
        None => many(connection, "SELECT * FROM model WHERE named = 1 ORDER BY name, owner", [], to_model),
    }
}

pub(super) fn approve(connection: &Connection, id: ModelId) -> Result<(), DbError> {
    match execute(connection, "UPDATE model SET approved = 1 WHERE id = ?1 AND named = 1", [id.to_bytes()])? {
        0 => Err(DbError::NotFound("model")),
        _ => note(connection, &ChangeKind::Model(id)),
    }
}

pub(super) fn remove(connection: &Connection, id: ModelId) -> Result<(), DbError> {
    let sql = "SELECT name FROM model WHERE id = ?1 AND named = 1";
    let Some(model) = one(connection, sql, [id.to_bytes()], |row| name(row, "name"))? else {
        return Err(DbError::NotFound("model"));
    };
    let sql = "SELECT deployment.name FROM revision_model
               JOIN deployment ON deployment.active = revision_model.revision
               WHERE revision_model.model = ?1 AND deployment.deleted_at IS NULL ORDER BY 1";
    let users = many(connection, sql, [id.to_bytes()], |row| Ok(row.get::<_, String>(0)?))?;
    if users.is_empty() {
        return unname(connection, id);
    }
    let more = users.len().saturating_sub(USERS_NAMED_MAX);
    let mut text = users.iter().take(USERS_NAMED_MAX).map(|user| format!("`{user}`")).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    Err(DbError::Taken(format!("model `{model}` is used by {text}; deploy without it, or delete them, first")))
}

fn unname(connection: &Connection, id: ModelId) -> Result<(), DbError> {
    execute(connection, "UPDATE model SET named = 0 WHERE id = ?1", [id.to_bytes()])?;
    note(connection, &ChangeKind::Model(id))
}
