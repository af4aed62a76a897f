//! Deployments, models, keys, tenants and projects: the commands that change one thing and say so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use mayfly_api::{Fit, Limits, Model, ModelMemory, ModelPin, NewKey, RunsIn, Scope, Slot, Timestamp};
use mayfly_client::{ModelPlace, Progress};
use mayfly_types::Name;
use serde_json::json;

use super::Session;
use super::args::{KeySlot, Keys, Models, Projects, Tenants};
use super::output::{bytes, table};
use super::progress::Shown;

pub(super) async fn delete(session: &Session, name: &Name) -> anyhow::Result<()> {
    session.client.delete_deployment(session.project(), name.as_str()).await?;
    session.print(&json!({ "deleted": name }), |_| format!("deleted {name}"))
}

pub(super) async fn rollback(session: &Session, name: &Name, to: Option<u32>) -> anyhow::Result<()> {
    let deployment = session.client.rollback(session.project(), name.as_str(), to).await?;
    session.print(&deployment, |deployment| {
        let number = deployment.revision.as_ref().map_or(0, |revision| revision.number);
        format!("{name} answers with revision {number} again")
    })
}

pub(super) async fn models(session: &Session, command: Models) -> anyhow::Result<()> {
    let client = &session.client;
    match command {
        Models::Add { name, path, own } => {
            let model = add_model(session, &name, &path, own).await?;
            session.print(&model, |model| {
                let place = match model.runs {
                    RunsIn::Server => "",
                    RunsIn::Apart => "; it runs in a process of its own until the operator approved it",
                    RunsIn::Nowhere => "; it runs once the operator approved it",
                };
                format!("added {} ({}, {}){place}", model.name, bytes(model.bytes), model.digest)
            })
        }
        Models::List => {
            let models = client.models(ModelPlace::Project(session.project())).await?;
            session.print(&json!({ "data": models }), |_| {
                let rows: Vec<_> = models.iter().map(model_row).collect();
                table(&["NAME", "OWNER", "APPROVED", "PINNED", "SIZE", "TOKENIZER", "INPUTS"], &rows)
            })
        }
        Models::Show { name } => {
            let model = client.model(ModelPlace::Project(session.project()), name.as_str()).await?;
            session.print(&model, describe_model)
        }
        Models::Approve { name } => {
            let model = client.approve_model(session.project(), name.as_str()).await?;
            session.print(&model, |model| format!("{} runs in the server's own process", model.name))
        }
        Models::Pin { name, device, own } => {
            let model = client.pin_model(place(session, own), name.as_str(), device.as_str()).await?;
            session.print(&model, |model| {
                let loaded = model.pins.iter().any(|pin| pin.device == device.as_str() && pin.loaded);
                let state = if loaded { "it is loaded" } else { "its load has begun" };
                format!("{name} stays loaded on {} from now on; {state}", device.as_str())
            })
        }
        Models::Unpin { name, device, own } => {
            let devices = match device {
                Some(device) => vec![device.as_str().to_owned()],
                None => pinned_on(session, &name, own).await?,
            };
            for device in &devices {
                client.unpin_model(place(session, own), name.as_str(), device).await?;
            }
            session.print(&json!({ "unpinned": name, "devices": devices }), |_| {
                format!("{name} is no longer pinned on {}; it goes once it is idle", devices.join(", "))
            })
        }
        Models::Remove { name, own } => {
            client.remove_model(place(session, own), name.as_str()).await?;
            session.print(&json!({ "removed": name }), |_| format!("removed {name}"))
        }
    }
}

pub(super) async fn add_model(
    session: &Session,
    name: &Name,
    path: &std::path::Path,
    own: bool,
) -> anyhow::Result<Model> {
    if !path.exists() {
        bail!("{} does not exist", path.display());
    }
    let shown = Shown::upload(0, session.global.json);
    let counter = shown.counter();
    let added = session
        .client
        .add_model(
            place(session, own),
            name.as_str(),
            path,
            Progress::new(move |sent, total| counter.sent(sent, total, "checking and loading for the first time")),
        )
        .await;
    drop(shown);
    Ok(added?)
}

/// Where a model is pinned; at least on one device.
async fn pinned_on(session: &Session, name: &Name, own: bool) -> anyhow::Result<Vec<String>> {
    let model = session.client.model(place(session, own), name.as_str()).await?;
    if model.pins.is_empty() {
        bail!("{name} is not pinned");
    }
    Ok(model.pins.into_iter().map(|pin| pin.device).collect())
}

/// The host's models, or the project's own.
fn place(session: &Session, own: bool) -> ModelPlace<'_> {
    if own { ModelPlace::Project(session.project()) } else { ModelPlace::Host }
}

fn model_row(model: &Model) -> Vec<String> {
    let inputs: Vec<_> = model.inputs.iter().map(|input| input.name.as_str()).collect();
    let pins: Vec<_> = model.pins.iter().map(|pin| format!("{}{}", pin.device, pinned_by(pin))).collect();
    vec![
        model.name.to_string(),
        if model.project.is_some() { "project".to_owned() } else { "host".to_owned() },
        if model.approved { "yes".to_owned() } else { "no".to_owned() },
        if pins.is_empty() { "no".to_owned() } else { pins.join(", ") },
        bytes(model.bytes),
        if model.has_tokenizer { "yes".to_owned() } else { "no".to_owned() },
        inputs.join(" "),
    ]
}

fn describe_model(model: &Model) -> String {
    let mut text = format!("{} ({}, {})\n", model.name, bytes(model.bytes), model.digest);
    text.push_str(match model.runs {
        RunsIn::Server => "runs in the server's own process\n",
        RunsIn::Apart => "runs in a process of its tenant's own: the operator has not approved it\n",
        RunsIn::Nowhere => "runs nowhere: the operator has not approved it\n",
    });
    for memory in &model.memory {
        text.push_str(&format!("on {:<4}    {}\n", memory.device, describe_memory(memory)));
    }
    for pin in &model.pins {
        text.push_str(&format!("pinned     {}\n", describe_pin(pin)));
    }
    for (title, tensors) in [("inputs", &model.inputs), ("outputs", &model.outputs)] {
        text.push_str(&format!("{title}\n"));
        for tensor in tensors {
            let dimensions: Vec<_> = tensor
                .dimensions
                .iter()
                .map(|dimension| match dimension {
                    mayfly_api::Dimension::Fixed(size) => size.to_string(),
                    mayfly_api::Dimension::Named(name) => name.clone(),
                    mayfly_api::Dimension::Any(()) => "?".to_owned(),
                })
                .collect();
            text.push_str(&format!(
                "    {:<24} {:<6} [{}]  {}\n",
                tensor.name,
                tensor.element_type,
                dimensions.join(", "),
                tensor.role
            ));
        }
    }
    for (key, value) in &model.properties {
        let short: String = value.chars().take(60).collect();
        text.push_str(&format!("{key:<28} {short}{}\n", if short.len() < value.len() { "…" } else { "" }));
    }
    text
}

/// ` by …`; nothing for who may not know.
fn pinned_by(pin: &ModelPin) -> String {
    match &pin.by {
        Some(by) if by.label.is_empty() => format!(" by {}", by.prefix),
        Some(by) => format!(" by {} ({})", by.prefix, by.label),
        None => String::new(),
    }
}

fn describe_pin(pin: &ModelPin) -> String {
    let state = match (pin.loaded, &pin.problem) {
        (_, Some(problem)) => format!("not kept: {problem}"),
        (true, None) => "loaded".to_owned(),
        (false, None) => "its load is on its way".to_owned(),
    };
    format!("on {}{} since {}; {state}", pin.device, pinned_by(pin), pin.pinned_at)
}

fn describe_memory(memory: &ModelMemory) -> String {
    let fit = match memory.fit {
        Fit::Fits => "fits",
        Fit::FitsAfterEviction => "fits after eviction",
        Fit::NeverFits => "never fits",
    };
    let mapped = match memory.mapped_bytes {
        0 => String::new(),
        mapped => format!(" and {} of mapped files", bytes(mapped)),
    };
    let budget = memory.budget_bytes.map_or_else(|| "no limit".to_owned(), bytes);
    format!("{fit}: takes {}{mapped}, of {budget} for all models", bytes(memory.bytes))
}

pub(super) async fn keys(session: &Session, command: Keys) -> anyhow::Result<()> {
    let client = &session.client;
    match command {
        Keys::Create { label, scopes, whole_tenant, deployments, days } => {
            let scopes = scopes.iter().map(|scope| parse_scope(scope)).collect::<anyhow::Result<Vec<_>>>()?;
            let admin = scopes.contains(&Scope::Admin);
            let mut key = NewKey {
                label,
                scopes,
                tenant: None,
                project: (!admin).then(|| session.global.project.clone()),
                deployments: deployments.iter().map(|name| of_project(session, name)).collect(),
                limits: Limits::default(),
                expires_at: days.map(in_days).transpose()?,
            };
            if whole_tenant && !admin {
                let project = session.client.projects().await?;
                let project = project
                    .iter()
                    .find(|project| project.name == session.global.project)
                    .with_context(|| format!("there is no project {}", session.global.project))?;
                let tenants = session.client.tenants().await?;
                key.tenant =
                    tenants.iter().find(|tenant| tenant.id == project.tenant).map(|tenant| tenant.name.clone());
                key.project = None;
            }
            let created = client.create_key(&key).await?;
            session.print(&created, |created| {
                format!("{}\n\nIt is shown only now; only its hash is stored ({}).", created.secret, created.key.id)
            })
        }
        Keys::List => {
            let keys = client.keys().await?;
            session.print(&json!({ "data": keys }), |_| {
                let rows: Vec<_> = keys
                    .iter()
                    .map(|key| {
                        let scopes: Vec<_> = key.scopes.iter().map(|scope| scope_text(*scope)).collect();
                        let state = match (key.revoked_at, key.expires_at) {
                            (Some(_), _) => "revoked".to_owned(),
                            (None, Some(at)) => format!("until {at}"),
                            (None, None) => "live".to_owned(),
                        };
                        let used = key.last_used_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
                        let (id, prefix) = (key.id.to_string(), format!("{}…", key.prefix));
                        vec![id, prefix, scopes.join(","), state, used, key.label.clone()]
                    })
                    .collect();
                table(&["ID", "PREFIX", "SCOPES", "STATE", "LAST USED", "LABEL"], &rows)
            })
        }
        Keys::Rotate { deployment, slot } => {
            let slot = match slot {
                KeySlot::Primary => Slot::Primary,
                KeySlot::Secondary => Slot::Secondary,
            };
            let created = client.rotate_key(session.project(), deployment.as_str(), slot).await?;
            session.print(&created, |created| {
                format!(
                    "{}\n\nIt is shown only now; only its hash is stored ({}). The secret before it is dead.",
                    created.secret, created.key.id
                )
            })
        }
        Keys::Revoke { id } => {
            client.revoke_key(id.parse()?).await?;
            session.print(&json!({ "revoked": id }), |_| format!("revoked {id}"))
        }
    }
}

/// A deployment as typed: of --project, unless it says another.
fn of_project(session: &Session, name: &str) -> String {
    let whole = name.contains('/') || name.starts_with("dep_");
    if whole { name.to_owned() } else { format!("{}/{name}", session.project()) }
}

fn parse_scope(text: &str) -> anyhow::Result<Scope> {
    match text {
        "call" => Ok(Scope::Call),
        "deploy" => Ok(Scope::Deploy),
        "admin" => Ok(Scope::Admin),
        other => bail!("`{other}` is not a scope (expected call, deploy or admin)"),
    }
}

const fn scope_text(scope: Scope) -> &'static str {
    match scope {
        Scope::Call => "call",
        Scope::Deploy => "deploy",
        Scope::Admin => "admin",
    }
}

fn in_days(days: u32) -> anyhow::Result<Timestamp> {
    let end = SystemTime::now() + Duration::from_secs(u64::from(days) * 86_400);
    let micros = end.duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_micros();
    Ok(Timestamp::from_micros(i64::try_from(micros).context("too far away")?))
}

pub(super) async fn tenants(session: &Session, command: Tenants) -> anyhow::Result<()> {
    match command {
        Tenants::Create { name } => {
            let tenant = session.client.create_tenant(name).await?;
            session.print(&tenant, |tenant| format!("made tenant {}", tenant.name))
        }
        Tenants::List => {
            let tenants = session.client.tenants().await?;
            session.print(&json!({ "data": tenants }), |_| {
                let rows: Vec<_> = tenants
                    .iter()
                    .map(|tenant| vec![tenant.name.to_string(), tenant.id.to_string(), tenant.created_at.to_string()])
                    .collect();
                table(&["NAME", "ID", "CREATED"], &rows)
            })
        }
        Tenants::Delete { name } => {
            session.client.delete_tenant(name.as_str()).await?;
            session.print(&json!({ "deleted": name }), |_| format!("deleted tenant {name}"))
        }
    }
}

pub(super) async fn projects(session: &Session, command: Projects) -> anyhow::Result<()> {
    match command {
        Projects::Create { name, tenant } => {
            let tenant = match tenant {
                Some(tenant) => tenant,
                None => "default".parse().context("the default tenant's name")?,
            };
            let project = session.client.create_project(tenant, name).await?;
            session.print(&project, |project| format!("made project {}", project.name))
        }
        Projects::List => {
            let projects = session.client.projects().await?;
            session.print(&json!({ "data": projects }), |_| {
                let rows: Vec<_> = projects
                    .iter()
                    .map(|project| {
                        vec![project.name.to_string(), project.tenant.to_string(), project.created_at.to_string()]
                    })
                    .collect();
                table(&["NAME", "TENANT", "CREATED"], &rows)
            })
        }
        Projects::Delete { name } => {
            session.client.delete_project(name.as_str()).await?;
            session.print(&json!({ "deleted": name }), |_| format!("deleted project {name}"))
        }
    }
}
