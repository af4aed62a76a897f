//! Tenants and projects. What was deleted has no name any more, and is found by its id.

use mayfly_registry::{ChangeKind, Project, Tenant};
use mayfly_types::{Digest, ProjectId, TenantId};
use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::audit::{AuditEntry, By, enter};
use super::changes::note;
use super::rows::{execute, insert, limits, limits_text, listed, many, name, one};
use super::{deployments, keys, models};
use crate::DbError;

fn to_tenant(row: &Row<'_>) -> Result<Tenant, DbError> {
    Ok(Tenant {
        id: TenantId::from_bytes(row.get("id")?),
        name: name(row, "name")?,
        limits: limits(row)?,
        created_at: row.get("created_at")?,
    })
}

fn to_project(row: &Row<'_>) -> Result<Project, DbError> {
    Ok(Project {
        id: ProjectId::from_bytes(row.get("id")?),
        tenant: TenantId::from_bytes(row.get("tenant")?),
        name: name(row, "name")?,
        limits: limits(row)?,
        created_at: row.get("created_at")?,
    })
}

pub(super) fn insert_tenant(connection: &Connection, by: By, tenant: &Tenant) -> Result<(), DbError> {
    insert(
        connection,
        "INSERT INTO tenant (id, name, limits, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![tenant.id.to_bytes(), tenant.name.as_str(), limits_text(&tenant.limits)?, tenant.created_at],
        || format!("there is a tenant `{}` already", tenant.name),
        "tenant",
    )?;
    note(connection, &ChangeKind::Tenant(tenant.id))?;
    let entry = AuditEntry {
        tenant: Some(tenant.id),
        project: None,
        action: "tenant.create",
        target: tenant.name.to_string(),
        details: json!({ "id": tenant.id }),
    };
    enter(connection, by, &entry)
}

pub(super) fn tenant(connection: &Connection, id: TenantId) -> Result<Option<Tenant>, DbError> {
    one(connection, "SELECT * FROM tenant WHERE id = ?1", [id.to_bytes()], to_tenant)
}

/// The tenant, unless it was deleted.
pub(super) fn live_tenant(connection: &Connection, id: TenantId) -> Result<Tenant, DbError> {
    let sql = "SELECT * FROM tenant WHERE id = ?1 AND deleted_at IS NULL";
    one(connection, sql, [id.to_bytes()], to_tenant)?.ok_or(DbError::NotFound("tenant"))
}

pub(super) fn tenant_named(connection: &Connection, name: &str) -> Result<Option<Tenant>, DbError> {
    one(connection, "SELECT * FROM tenant WHERE name = ?1 AND deleted_at IS NULL", [name], to_tenant)
}

pub(super) fn tenants(connection: &Connection) -> Result<Vec<Tenant>, DbError> {
    many(connection, "SELECT * FROM tenant WHERE deleted_at IS NULL ORDER BY name", [], to_tenant)
}

/// Refused while it has projects. Its keys end with it.
pub(super) fn delete_tenant(connection: &Connection, by: By, id: TenantId, at: i64) -> Result<(), DbError> {
    let tenant = live_tenant(connection, id)?;
    let left: Vec<_> = projects(connection, Some(id))?.into_iter().map(|project| project.name.to_string()).collect();
    if !left.is_empty() {
        let (count, left) = (left.len(), listed(&left));
        return Err(DbError::Taken(format!(
            "tenant `{}` has {count} projects: {left}; delete them first",
            tenant.name
        )));
    }
    let revoked = keys::end_of_tenant(connection, id, at)?;
    execute(connection, "UPDATE tenant SET deleted_at = ?2 WHERE id = ?1", params![id.to_bytes(), at])?;
    note(connection, &ChangeKind::Tenant(id))?;
    let entry = AuditEntry {
        tenant: Some(id),
        project: None,
        action: "tenant.delete",
        target: tenant.name.to_string(),
        details: json!({ "id": id, "keys_revoked": revoked }),
    };
    enter(connection, by, &entry)
}

pub(super) fn insert_project(connection: &Connection, by: By, project: &Project) -> Result<(), DbError> {
    live_tenant(connection, project.tenant)?;
    insert(
        connection,
        "INSERT INTO project (id, tenant, name, limits, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            project.id.to_bytes(),
            project.tenant.to_bytes(),
            project.name.as_str(),
            limits_text(&project.limits)?,
            project.created_at,
        ],
        || format!("there is a project `{}` on this host already", project.name),
        "tenant",
    )?;
    note(connection, &ChangeKind::Project(project.id))?;
    let entry = AuditEntry {
        tenant: Some(project.tenant),
        project: Some(project.id),
        action: "project.create",
        target: project.name.to_string(),
        details: json!({ "id": project.id }),
    };
    enter(connection, by, &entry)
}

pub(super) fn project(connection: &Connection, id: ProjectId) -> Result<Option<Project>, DbError> {
    one(connection, "SELECT * FROM project WHERE id = ?1", [id.to_bytes()], to_project)
}

/// The project, unless it was deleted.
pub(super) fn live_project(connection: &Connection, id: ProjectId) -> Result<Project, DbError> {
    let sql = "SELECT * FROM project WHERE id = ?1 AND deleted_at IS NULL";
    one(connection, sql, [id.to_bytes()], to_project)?.ok_or(DbError::NotFound("project"))
}

/// Refused while it has deployments. Its keys, models and uploads end with it; what was uploaded or imported may be of
/// no more use now.
pub(super) fn delete_project(connection: &Connection, by: By, id: ProjectId, at: i64) -> Result<Vec<Digest>, DbError> {
    let project = live_project(connection, id)?;
    let left = deployments::names(connection, id)?;
    if !left.is_empty() {
        let (count, left) = (left.len(), listed(&left));
        let text = format!("project `{}` has {count} deployments: {left}; delete them first", project.name);
        return Err(DbError::Taken(text));
    }
    let revoked = keys::end_of_project(connection, id, at)?;
    let mut unused = models::remove_of_project(connection, id)?;
    let models = unused.len();
    unused.extend(deployments::forget_uploads_of(connection, id)?);
    execute(connection, "UPDATE project SET deleted_at = ?2 WHERE id = ?1", params![id.to_bytes(), at])?;
    note(connection, &ChangeKind::Project(id))?;
    let entry = AuditEntry {
        tenant: Some(project.tenant),
        project: Some(id),
        action: "project.delete",
        target: project.name.to_string(),
        details: json!({ "id": id, "keys_revoked": revoked, "models_removed": models }),
    };
    enter(connection, by, &entry)?;
    Ok(unused)
}

pub(super) fn project_named(connection: &Connection, name: &str) -> Result<Option<Project>, DbError> {
    one(connection, "SELECT * FROM project WHERE name = ?1 AND deleted_at IS NULL", [name], to_project)
}

pub(super) fn projects(connection: &Connection, tenant: Option<TenantId>) -> Result<Vec<Project>, DbError> {
    match tenant {
        Some(tenant) => {
            let sql = "SELECT * FROM project WHERE tenant = ?1 AND deleted_at IS NULL ORDER BY name";
            many(connection, sql, [tenant.to_bytes()], to_project)
        }
        None => many(connection, "SELECT * FROM project WHERE deleted_at IS NULL ORDER BY name", [], to_project),
    }
}
