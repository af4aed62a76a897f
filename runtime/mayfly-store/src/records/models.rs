//! Model packages under names.

use mayfly_registry::{ChangeKind, Model, Owner};
use mayfly_types::{Digest, ModelId, Name, ProjectId};
use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::audit::{AuditEntry, By, enter, enter_for_project};
use super::changes::note;
use super::rows::{self, execute, many, name, one};
use super::{pins, tenants};
use crate::DbError;

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

pub(super) fn insert(connection: &Connection, by: By, model: &Model) -> Result<(), DbError> {
    if let Owner::Project(project) = model.owner {
        tenants::live_project(connection, project)?;
    }
    let older = named(connection, model.owner, model.name.as_str())?;
    if let Some(older) = &older {
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
    note(connection, &ChangeKind::Model(model.id))?;
    let mut details =
        json!({ "id": model.id, "digest": model.digest, "replaces": older.as_ref().map(|older| older.id) });
    if let Some(older) = older {
        let pins = pins::hand_over(connection, older.id, model.approved.then_some(model.id))?;
        if !model.approved && !pins.is_empty() {
            details["unpinned"] = json!(pins);
        }
    }
    tell(connection, by, model.owner, &model.name, "model.import", details)
}

/// Writes down a change of the model of that name.
pub(super) fn tell(
    connection: &Connection,
    by: By,
    owner: Owner,
    name: &Name,
    action: &'static str,
    details: serde_json::Value,
) -> Result<(), DbError> {
    match owner {
        Owner::Project(project) => {
            enter_for_project(connection, by, project, action, |project| format!("{project}/{name}"), details)
        }
        Owner::Host => enter(
            connection,
            by,
            &AuditEntry { tenant: None, project: None, action, target: name.to_string(), details },
        ),
    }
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

/// The model with this id, if it still has its name.
pub(super) fn still_named(connection: &Connection, id: ModelId) -> Result<Model, DbError> {
    let found = one(connection, "SELECT * FROM model WHERE id = ?1 AND named = 1", [id.to_bytes()], to_model)?;
    found.ok_or(DbError::NotFound("model"))
}

pub(super) fn approve(connection: &Connection, by: By, id: ModelId) -> Result<(), DbError> {
    let model = still_named(connection, id)?;
    if model.approved {
        return Ok(());
    }
    execute(connection, "UPDATE model SET approved = 1 WHERE id = ?1", [id.to_bytes()])?;
    note(connection, &ChangeKind::Model(id))?;
    tell(connection, by, model.owner, &model.name, "model.approve", json!({ "id": id, "digest": model.digest }))
}

pub(super) fn remove(connection: &Connection, by: By, id: ModelId) -> Result<(), DbError> {
    let model = still_named(connection, id)?;
    let sql = "SELECT deployment.name FROM revision_model
               JOIN deployment ON deployment.active = revision_model.revision
               WHERE revision_model.model = ?1 AND deployment.deleted_at IS NULL ORDER BY 1";
    let users = many(connection, sql, [id.to_bytes()], |row| Ok(row.get::<_, String>(0)?))?;
    if users.is_empty() {
        unname(connection, id)?;
        let mut details = json!({ "id": id });
        let pins = pins::hand_over(connection, id, None)?;
        if !pins.is_empty() {
            details["unpinned"] = json!(pins);
        }
        return tell(connection, by, model.owner, &model.name, "model.remove", details);
    }
    let users = rows::listed(&users);
    Err(DbError::Taken(format!("model `{}` is used by {users}; deploy without it, or delete them, first", model.name)))
}

/// A project that goes takes its models with it; their packages.
pub(super) fn remove_of_project(connection: &Connection, project: ProjectId) -> Result<Vec<Digest>, DbError> {
    let own = many(connection, "SELECT * FROM model WHERE owner = ?1 AND named = 1", [project.to_bytes()], to_model)?;
    for model in &own {
        unname(connection, model.id)?;
        pins::hand_over(connection, model.id, None)?;
    }
    Ok(own.into_iter().map(|model| model.digest).collect())
}

fn unname(connection: &Connection, id: ModelId) -> Result<(), DbError> {
    execute(connection, "UPDATE model SET named = 0 WHERE id = ?1", [id.to_bytes()])?;
    note(connection, &ChangeKind::Model(id))
}
