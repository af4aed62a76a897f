//! What the calls below a level may use together, and the pool that a project's deployments share.

use mayfly_registry::ChangeKind;
use mayfly_types::{DeploymentId, KeyId, LevelId, LevelLimits, Name, ProjectId, TenantId};
use rusqlite::{Connection, params};
use serde_json::json;

use super::audit::{AuditEntry, By, enter};
use super::changes::note;
use super::rows::{execute, limits_text, one};
use super::{deployments, keys, tenants};
use crate::DbError;

/// A level as it stands before the change.
struct Before {
    table: &'static str,
    id: [u8; 16],
    limits: LevelLimits,
    /// The operator set them.
    operators: bool,
    tenant: Option<TenantId>,
    project: Option<ProjectId>,
    /// For people.
    target: String,
    change: ChangeKind,
}

pub(super) fn set(
    connection: &Connection,
    by: By,
    level: LevelId,
    limits: &LevelLimits,
    at: i64,
) -> Result<(), DbError> {
    let before = match level {
        LevelId::Tenant(id) => of_tenant(connection, id)?,
        LevelId::Project(id) => of_project(connection, id, limits)?,
        LevelId::Deployment(id) => of_deployment(connection, id, limits)?,
        LevelId::Key(id) => of_key(connection, id)?,
    };
    if before.limits == *limits {
        return Ok(());
    }
    let operator = by.is_operator(connection)?;
    if before.operators && !operator {
        return Err(DbError::Operators(format!(
            "the limits of {} were set by the operator, and only the operator changes them",
            before.target
        )));
    }
    let sql = format!("UPDATE {} SET limits = ?2 WHERE id = ?1", before.table);
    execute(connection, &sql, params![before.id, limits_text(limits)?])?;
    match level {
        LevelId::Deployment(id) => {
            let sql = "UPDATE deployment SET changed_at = ?2, limits_by_operator = ?3 WHERE id = ?1";
            execute(connection, sql, params![id.to_bytes(), at, keeps(operator, limits)])?;
        }
        LevelId::Key(id) => {
            let sql = "UPDATE key SET limits_by_operator = ?2 WHERE id = ?1";
            execute(connection, sql, params![id.to_bytes(), keeps(operator, limits)])?;
        }
        // Nobody else sets them.
        LevelId::Tenant(_) | LevelId::Project(_) => {}
    }
    note(connection, &before.change)?;
    let entry = AuditEntry {
        tenant: before.tenant,
        project: before.project,
        action: "limits.set",
        target: before.target,
        details: json!({ "before": given(&before.limits)?, "after": given(limits)? }),
    };
    enter(connection, by, &entry)
}

/// Whether limits are the operator's from now on: having none is no limit to keep.
pub(super) fn keeps(operator: bool, limits: &LevelLimits) -> bool {
    operator && *limits != LevelLimits::default()
}

/// Whether the operator set the limits of this row.
pub(super) fn are_operators(connection: &Connection, table: &str, id: [u8; 16]) -> Result<bool, DbError> {
    let sql = format!("SELECT limits_by_operator FROM {table} WHERE id = ?1");
    Ok(one(connection, &sql, [id], |row| Ok(row.get(0)?))?.unwrap_or(false))
}

fn of_tenant(connection: &Connection, id: TenantId) -> Result<Before, DbError> {
    let tenant = tenants::live_tenant(connection, id)?;
    Ok(Before {
        table: "tenant",
        id: id.to_bytes(),
        limits: tenant.limits,
        operators: true,
        tenant: Some(id),
        project: None,
        target: format!("tenant {}", tenant.name),
        change: ChangeKind::Tenant(id),
    })
}

fn of_project(connection: &Connection, id: ProjectId, asked: &LevelLimits) -> Result<Before, DbError> {
    let project = tenants::live_project(connection, id)?;
    if let Some(pool) = asked.tokens_per_minute {
        check_pool(&project.name, pool, given_out(connection, id, None)?, None)?;
    }
    Ok(Before {
        table: "project",
        id: id.to_bytes(),
        limits: project.limits,
        operators: true,
        tenant: Some(project.tenant),
        project: Some(id),
        target: format!("project {}", project.name),
        change: ChangeKind::Project(id),
    })
}

fn of_deployment(connection: &Connection, id: DeploymentId, asked: &LevelLimits) -> Result<Before, DbError> {
    let deployment = deployments::by_id(connection, id)?.ok_or(DbError::NotFound("deployment"))?;
    let project = tenants::live_project(connection, deployment.project)?;
    if let (Some(pool), Some(share)) = (project.limits.tokens_per_minute, asked.tokens_per_minute) {
        check_pool(&project.name, pool, given_out(connection, project.id, Some(id))?, Some(share))?;
    }
    Ok(Before {
        table: "deployment",
        id: id.to_bytes(),
        limits: deployment.limits,
        operators: are_operators(connection, "deployment", id.to_bytes())?,
        tenant: Some(project.tenant),
        project: Some(project.id),
        target: format!("deployment {}/{}", project.name, deployment.name),
        change: ChangeKind::Deployment(id),
    })
}

fn of_key(connection: &Connection, id: KeyId) -> Result<Before, DbError> {
    let key = keys::by_id(connection, id)?.filter(|key| key.revoked_at.is_none());
    let key = key.ok_or(DbError::NotFound("key"))?;
    Ok(Before {
        table: "key",
        id: id.to_bytes(),
        limits: (*key.limits).clone(),
        operators: are_operators(connection, "key", id.to_bytes())?,
        tenant: key.tenant,
        project: key.project,
        target: format!("key {id}"),
        change: ChangeKind::Key(id, key.hash),
    })
}

/// Tokens per minute that the deployments of a project, all but one, were given together.
fn given_out(connection: &Connection, project: ProjectId, but: Option<DeploymentId>) -> Result<u64, DbError> {
    let sql = "SELECT ifnull(sum(json_extract(limits, '$.tokens_per_minute')), 0) FROM deployment
               WHERE project = ?1 AND deleted_at IS NULL AND limits IS NOT NULL AND id IS NOT ?2";
    let sum: i64 =
        one(connection, sql, params![project.to_bytes(), but.map(DeploymentId::to_bytes)], |row| Ok(row.get(0)?))?
            .unwrap_or(0);
    u64::try_from(sum).map_err(|error| DbError::damaged("share of a pool", error))
}

/// `given_out` and, for a deployment, its new `share` must fit the pool.
fn check_pool(project: &Name, pool: u64, given_out: u64, share: Option<u64>) -> Result<(), DbError> {
    let wanted = given_out.saturating_add(share.unwrap_or(0));
    if wanted <= pool {
        return Ok(());
    }
    Err(DbError::Taken(match share {
        Some(share) => format!(
            "tokens_per_minute of {share} is more than the pool of project `{project}` has left: the pool is {pool}, \
             {given_out} are given out to its other deployments; ask for {} at most, or raise the pool",
            pool - given_out.min(pool)
        ),
        None => format!(
            "a pool of {pool} tokens_per_minute for project `{project}` is less than the {given_out} given out to its \
             deployments; lower theirs first"
        ),
    }))
}

/// The limits that are set, as JSON.
fn given(limits: &LevelLimits) -> Result<serde_json::Value, DbError> {
    let mut value = serde_json::to_value(limits).map_err(|error| DbError::Failed { detail: error.to_string() })?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_name, value| !value.is_null() && *value != false);
    }
    Ok(value)
}
