//! Deployments and their revisions.

use mayfly_registry::{Active, ChangeKind, Deployment, Revision, RevisionSpec};
use mayfly_types::{DeploymentId, Digest, LevelLimits, Name, ProjectId, RevisionId};
use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::audit::{AuditEntry, By, enter, enter_for_project};
use super::changes::note;
use super::keys;
use super::rows::{execute, insert, is_true, json, limits, many, name, one, to_json};
use super::tenants;
use crate::DbError;

fn to_deployment(row: &Row<'_>) -> Result<Deployment, DbError> {
    Ok(Deployment {
        id: DeploymentId::from_bytes(row.get("id")?),
        project: ProjectId::from_bytes(row.get("project")?),
        name: name(row, "name")?,
        active: row.get::<_, Option<_>>("active")?.map(RevisionId::from_bytes),
        limits: limits(row)?,
        created_at: row.get("created_at")?,
    })
}

fn to_revision(row: &Row<'_>) -> Result<Revision, DbError> {
    Ok(Revision {
        id: RevisionId::from_bytes(row.get("id")?),
        deployment: DeploymentId::from_bytes(row.get("deployment")?),
        number: row.get("number")?,
        spec: json(row, "spec")?,
        created_at: row.get("created_at")?,
    })
}

pub(super) fn deploy(
    connection: &Connection,
    by: By,
    project: ProjectId,
    name: &Name,
    spec: &RevisionSpec,
    at: i64,
) -> Result<(Deployment, Revision, bool), DbError> {
    let deployment = match named(connection, project, name.as_str())? {
        Some(deployment) => deployment,
        None => create(connection, project, name, at)?,
    };
    if let Some(active) = deployment.active
        && let Some(revision) = revision(connection, active)?
        && revision.spec == *spec
    {
        return Ok((deployment, revision, false));
    }
    let number = one(
        connection,
        "SELECT ifnull(max(number), 0) + 1 FROM revision WHERE deployment = ?1",
        [deployment.id.to_bytes()],
        |row| Ok(row.get(0)?),
    )?;
    let revision = Revision {
        id: RevisionId::new(),
        deployment: deployment.id,
        number: number.unwrap_or(1),
        spec: spec.clone(),
        created_at: at,
    };
    add_revision(connection, &revision)?;
    make_active(connection, deployment.id, revision.id, at)?;
    // Neither values nor names of the configuration, nor what is blocked: there may be secrets in it.
    let details = json!({
        "revision": revision.number,
        "handler": spec.handler.digest,
        "models": spec.models.keys().collect::<Vec<_>>(),
        "blocked_texts": spec.filter.block.len(),
        "share_prefixes": spec.share_prefixes,
        "scale": spec.scale,
    });
    let target = |project: &str| format!("{project}/{name}");
    enter_for_project(connection, by, project, "deployment.deploy", target, details)?;
    Ok((Deployment { active: Some(revision.id), ..deployment }, revision, true))
}

fn create(connection: &Connection, project: ProjectId, name: &Name, at: i64) -> Result<Deployment, DbError> {
    tenants::live_project(connection, project)?;
    let deployment = Deployment {
        id: DeploymentId::new(),
        project,
        name: name.clone(),
        active: None,
        limits: LevelLimits::default(),
        created_at: at,
    };
    insert(
        connection,
        "INSERT INTO deployment (id, project, name, created_at, changed_at) VALUES (?1, ?2, ?3, ?4, ?4)",
        params![deployment.id.to_bytes(), project.to_bytes(), name.as_str(), at],
        || format!("there is a deployment `{name}` already"),
        "project",
    )?;
    Ok(deployment)
}

fn add_revision(connection: &Connection, revision: &Revision) -> Result<(), DbError> {
    let spec = &revision.spec;
    insert(
        connection,
        "INSERT INTO revision (id, deployment, number, handler, spec, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            revision.id.to_bytes(),
            revision.deployment.to_bytes(),
            revision.number,
            spec.handler.digest.as_bytes(),
            to_json(spec)?,
            revision.created_at,
        ],
        || format!("there is a revision {} already", revision.number),
        "deployment",
    )?;
    for grant in spec.models.values() {
        // Whoever asked has looked the model up before this transaction: it may have been removed meanwhile. Approval is
        // never taken back.
        let sql = "SELECT count(*) FROM model WHERE id = ?1 AND named = 1";
        if !is_true(connection, sql, [grant.model.to_bytes()])? {
            return Err(DbError::NotFound("model"));
        }
        let sql = "INSERT OR IGNORE INTO revision_model (model, revision) VALUES (?1, ?2)";
        execute(connection, sql, params![grant.model.to_bytes(), revision.id.to_bytes()])?;
    }
    Ok(())
}

fn make_active(connection: &Connection, id: DeploymentId, revision: RevisionId, at: i64) -> Result<(), DbError> {
    let sql = "UPDATE deployment SET active = ?2, changed_at = ?3 WHERE id = ?1";
    execute(connection, sql, params![id.to_bytes(), revision.to_bytes(), at])?;
    note(connection, &ChangeKind::Deployment(id))
}

pub(super) fn by_id(connection: &Connection, id: DeploymentId) -> Result<Option<Deployment>, DbError> {
    let sql = "SELECT * FROM deployment WHERE id = ?1 AND deleted_at IS NULL";
    one(connection, sql, [id.to_bytes()], to_deployment)
}

pub(super) fn named(connection: &Connection, project: ProjectId, name: &str) -> Result<Option<Deployment>, DbError> {
    let sql = "SELECT * FROM deployment WHERE project = ?1 AND name = ?2 AND deleted_at IS NULL";
    one(connection, sql, params![project.to_bytes(), name], to_deployment)
}

pub(super) fn active_named(connection: &Connection, project: &str, name: &str) -> Result<Option<Active>, DbError> {
    let Some(project) = tenants::project_named(connection, project)? else { return Ok(None) };
    let Some(deployment) = named(connection, project.id, name)? else { return Ok(None) };
    let Some(active) = deployment.active else { return Ok(None) };
    let Some(revision) = revision(connection, active)? else { return Ok(None) };
    let tenant = tenants::tenant(connection, project.tenant)?;
    let tenant = tenant.ok_or_else(|| DbError::damaged("project", "its tenant is missing"))?;
    Ok(Some(Active { tenant, project, deployment, revision }))
}

pub(super) fn page(
    connection: &Connection,
    project: ProjectId,
    after: &str,
    limit: u32,
) -> Result<Vec<Deployment>, DbError> {
    let sql = "SELECT * FROM deployment WHERE project = ?1 AND name > ?2 AND deleted_at IS NULL ORDER BY name LIMIT ?3";
    many(connection, sql, params![project.to_bytes(), after, limit], to_deployment)
}

pub(super) fn count(connection: &Connection) -> Result<u64, DbError> {
    let sql = "SELECT count(*) FROM deployment WHERE deleted_at IS NULL";
    let count: i64 = one(connection, sql, [], |row| Ok(row.get(0)?))?.unwrap_or(0);
    u64::try_from(count).map_err(|error| DbError::damaged("count", error))
}

pub(super) fn warm(connection: &Connection) -> Result<Vec<DeploymentId>, DbError> {
    let sql = "SELECT deployment.id AS id FROM deployment JOIN revision ON revision.id = deployment.active
               WHERE deployment.deleted_at IS NULL AND json_extract(revision.spec, '$.scale.min_warm') > 0
               ORDER BY deployment.created_at, deployment.id";
    many(connection, sql, [], |row| Ok(DeploymentId::from_bytes(row.get("id")?)))
}

pub(super) fn activate(
    connection: &Connection,
    by: By,
    id: DeploymentId,
    revision_id: RevisionId,
    at: i64,
) -> Result<(), DbError> {
    let Some(deployment) = by_id(connection, id)? else { return Err(DbError::NotFound("deployment")) };
    let revision = revision(connection, revision_id)?.filter(|revision| revision.deployment == id);
    let revision = revision.ok_or(DbError::NotFound("revision"))?;
    if deployment.active == Some(revision_id) {
        return Ok(());
    }
    make_active(connection, id, revision_id, at)?;
    let target = |project: &str| format!("{project}/{}", deployment.name);
    let details = json!({ "revision": revision.number });
    enter_for_project(connection, by, deployment.project, "deployment.rollback", target, details)
}

pub(super) fn delete(connection: &Connection, by: By, id: DeploymentId, at: i64) -> Result<(), DbError> {
    let deployment = by_id(connection, id)?.ok_or(DbError::NotFound("deployment"))?;
    execute(connection, "UPDATE deployment SET deleted_at = ?2 WHERE id = ?1", params![id.to_bytes(), at])?;
    note(connection, &ChangeKind::Deployment(id))?;
    keys::end_of_slots(connection, id, at)?;
    let target = |project: &str| format!("{project}/{}", deployment.name);
    enter_for_project(connection, by, deployment.project, "deployment.delete", target, json!({ "id": id }))
}

pub(super) fn revision(connection: &Connection, id: RevisionId) -> Result<Option<Revision>, DbError> {
    one(connection, "SELECT * FROM revision WHERE id = ?1", [id.to_bytes()], to_revision)
}

pub(super) fn revisions(connection: &Connection, deployment: DeploymentId) -> Result<Vec<Revision>, DbError> {
    let sql = "SELECT * FROM revision WHERE deployment = ?1 ORDER BY number DESC";
    many(connection, sql, [deployment.to_bytes()], to_revision)
}

pub(super) fn note_upload(
    connection: &Connection,
    by: By,
    project: ProjectId,
    digest: Digest,
    at: i64,
) -> Result<(), DbError> {
    tenants::live_project(connection, project)?;
    let sql = "INSERT INTO upload (project, digest, at) VALUES (?1, ?2, ?3)
               ON CONFLICT (project, digest) DO UPDATE SET at = ?3";
    execute(connection, sql, params![project.to_bytes(), digest.as_bytes(), at])?;
    let target = |project: &str| format!("{project}/{digest}");
    enter_for_project(connection, by, project, "artifact.upload", target, json!({}))
}

pub(super) fn forget_uploads(connection: &Connection, by: By, before: i64) -> Result<Vec<Digest>, DbError> {
    let sql = "DELETE FROM upload WHERE at < ?1 RETURNING digest";
    let forgotten = many(connection, sql, [before], |row| Ok(Digest::from_bytes(row.get("digest")?)))?;
    if !forgotten.is_empty() {
        let target = format!("{} uploads", forgotten.len());
        let details = json!({ "noted_before": before });
        let entry = AuditEntry { tenant: None, project: None, action: "artifact.forget", target, details };
        enter(connection, by, &entry)?;
    }
    Ok(forgotten)
}

/// A project that goes takes its uploads with it.
pub(super) fn forget_uploads_of(connection: &Connection, project: ProjectId) -> Result<Vec<Digest>, DbError> {
    let sql = "DELETE FROM upload WHERE project = ?1 RETURNING digest";
    many(connection, sql, [project.to_bytes()], |row| Ok(Digest::from_bytes(row.get("digest")?)))
}

/// Names of a project's deployments.
pub(super) fn names(connection: &Connection, project: ProjectId) -> Result<Vec<String>, DbError> {
    let sql = "SELECT name FROM deployment WHERE project = ?1 AND deleted_at IS NULL ORDER BY name";
    many(connection, sql, [project.to_bytes()], |row| Ok(row.get(0)?))
}

pub(super) fn may_deploy(connection: &Connection, project: ProjectId, digest: Digest) -> Result<bool, DbError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM upload WHERE digest = ?1 AND project = ?2)
            OR EXISTS (SELECT 1 FROM revision JOIN deployment ON deployment.id = revision.deployment
                 WHERE revision.handler = ?1 AND deployment.project = ?2 AND deployment.deleted_at IS NULL)";
    is_true(connection, sql, params![digest.as_bytes(), project.to_bytes()])
}

pub(super) fn is_referenced(connection: &Connection, digest: Digest) -> Result<bool, DbError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM revision JOIN deployment ON deployment.id = revision.deployment
                 WHERE revision.handler = ?1 AND deployment.deleted_at IS NULL)
            OR EXISTS (SELECT 1 FROM upload WHERE digest = ?1)
            OR EXISTS (SELECT 1 FROM model WHERE digest = ?1 AND named = 1)
            OR EXISTS (SELECT 1 FROM model
                 JOIN revision_model ON revision_model.model = model.id
                 JOIN revision ON revision.id = revision_model.revision
                 JOIN deployment ON deployment.id = revision.deployment
                 WHERE model.digest = ?1 AND deployment.deleted_at IS NULL)";
    is_true(connection, sql, [digest.as_bytes()])
}
