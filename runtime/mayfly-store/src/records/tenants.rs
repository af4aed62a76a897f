//! Tenants and projects.

use mayfly_registry::{ChangeKind, Project, Tenant};
use mayfly_types::{ProjectId, TenantId};
use rusqlite::{Connection, Row, params};

use super::changes::note;
use super::rows::{insert, many, name, one};
use crate::DbError;

fn to_tenant(row: &Row<'_>) -> Result<Tenant, DbError> {
    Ok(Tenant {
        id: TenantId::from_bytes(row.get("id")?),
        name: name(row, "name")?,
        created_at: row.get("created_at")?,
    })
}

fn to_project(row: &Row<'_>) -> Result<Project, DbError> {
    Ok(Project {
        id: ProjectId::from_bytes(row.get("id")?),
        tenant: TenantId::from_bytes(row.get("tenant")?),
        name: name(row, "name")?,
        created_at: row.get("created_at")?,
    })
}

pub(super) fn insert_tenant(connection: &Connection, tenant: &Tenant) -> Result<(), DbError> {
    insert(
        connection,
        "INSERT INTO tenant (id, name, created_at) VALUES (?1, ?2, ?3)",
        params![tenant.id.to_bytes(), tenant.name.as_str(), tenant.created_at],
        || format!("there is a tenant `{}` already", tenant.name),
        "tenant",
    )?;
    note(connection, &ChangeKind::Tenant(tenant.id))
}

pub(super) fn tenant(connection: &Connection, id: TenantId) -> Result<Option<Tenant>, DbError> {
    one(connection, "SELECT * FROM tenant WHERE id = ?1", [id.to_bytes()], to_tenant)
}

pub(super) fn tenant_named(connection: &Connection, name: &str) -> Result<Option<Tenant>, DbError> {
    one(connection, "SELECT * FROM tenant WHERE name = ?1", [name], to_tenant)
}

pub(super) fn tenants(connection: &Connection) -> Result<Vec<Tenant>, DbError> {
    many(connection, "SELECT * FROM tenant ORDER BY name", [], to_tenant)
}

pub(super) fn insert_project(connection: &Connection, project: &Project) -> Result<(), DbError> {
    insert(
        connection,
        "INSERT INTO project (id, tenant, name, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![project.id.to_bytes(), project.tenant.to_bytes(), project.name.as_str(), project.created_at],
        || format!("there is a project `{}` on this host already", project.name),
        "tenant",
    )?;
    note(connection, &ChangeKind::Project(project.id))
}

pub(super) fn project(connection: &Connection, id: ProjectId) -> Result<Option<Project>, DbError> {
    one(connection, "SELECT * FROM project WHERE id = ?1", [id.to_bytes()], to_project)
}

pub(super) fn project_named(connection: &Connection, name: &str) -> Result<Option<Project>, DbError> {
    one(connection, "SELECT * FROM project WHERE name = ?1", [name], to_project)
}

pub(super) fn projects(connection: &Connection, tenant: Option<TenantId>) -> Result<Vec<Project>, DbError> {
    match tenant {
        Some(tenant) => {
            let sql = "SELECT * FROM project WHERE tenant = ?1 ORDER BY name";
            many(connection, sql, [tenant.to_bytes()], to_project)
        }
        None => many(connection, "SELECT * FROM project ORDER BY name", [], to_project),
    }
}
