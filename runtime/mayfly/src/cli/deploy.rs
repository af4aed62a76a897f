//! `mayfly deploy`: from a folder, a file or a builtin to a URL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use mayfly_api::{Deployed, ErrorCode, HandlerSource, ModelEntry, ModelTable, NewDeployment};
use mayfly_client::Progress;
use mayfly_registry::Manifest;
use mayfly_types::{FilterSpec, GuestLimits, Name, ScaleSpec};

use super::Session;
use super::args::Deploy;
use super::manage::add_model;
use super::progress::Shown;

/// What is going to be deployed, before anything was sent.
struct Plan {
    name: Name,
    handler: Handler,
    models: BTreeMap<Name, ModelEntry>,
    config: BTreeMap<String, String>,
    limits: GuestLimits,
    filter: FilterSpec,
    share_prefixes: bool,
    scale: ScaleSpec,
}

enum Handler {
    Builtin(String),
    File(PathBuf),
}

pub(super) async fn run(session: &Session, args: Deploy) -> anyhow::Result<()> {
    let mut plan = plan(&args)?;
    for model in &args.models {
        grant(session, &mut plan.models, model).await?;
    }
    for entry in &args.config {
        let (key, value) = entry.split_once('=').with_context(|| format!("`{entry}` is not KEY=VALUE"))?;
        plan.config.insert(key.to_owned(), value.to_owned());
    }
    plan.limits = with_limits(&plan.limits, &args.limits)?;
    plan.filter.block.extend(args.block);
    plan.share_prefixes |= args.share_prefixes;
    plan.scale = with_scale(plan.scale, &args.scale)?;

    let handler = match &plan.handler {
        Handler::Builtin(name) => HandlerSource::Builtin(name.clone()),
        Handler::File(file) => upload(session, file).await?,
    };
    let Plan { name, models, config, limits, filter, share_prefixes, scale, .. } = plan;
    let request = NewDeployment { handler, models, config, limits, filter, share_prefixes, scale };
    // A component that is new to this host is compiled now, which takes all its cores for a moment.
    let shown = Shown::waiting("compiling and activating", session.global.json);
    let deployed = session.client.deploy(session.project(), name.as_str(), &request).await;
    drop(shown);
    let deployed = deployed?;
    session.print(&deployed, describe)
}

fn plan(args: &Deploy) -> anyhow::Result<Plan> {
    if let Some(builtin) = args.source.strip_prefix("builtin:") {
        let name = match &args.name {
            Some(name) => name.clone(),
            None => builtin.parse().with_context(|| format!("`{builtin}` is no name: give one with --name"))?,
        };
        return Ok(Plan {
            name,
            handler: Handler::Builtin(builtin.to_owned()),
            models: BTreeMap::new(),
            config: BTreeMap::new(),
            limits: GuestLimits::default(),
            filter: FilterSpec::default(),
            share_prefixes: false,
            scale: ScaleSpec::default(),
        });
    }
    let source = Path::new(&args.source);
    if source.is_dir() {
        return from_folder(args, source);
    }
    if !source.exists() {
        bail!("{} does not exist (expected a folder with mayfly.toml, a .wasm file or builtin:NAME)", source.display());
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let stem = source.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().replace('_', "-");
            stem.parse().with_context(|| format!("`{stem}` is no name: give one with --name"))?
        }
    };
    Ok(Plan {
        name,
        handler: Handler::File(source.to_owned()),
        models: BTreeMap::new(),
        config: BTreeMap::new(),
        limits: GuestLimits::default(),
        filter: FilterSpec::default(),
        share_prefixes: false,
        scale: ScaleSpec::default(),
    })
}

fn from_folder(args: &Deploy, folder: &Path) -> anyhow::Result<Plan> {
    let file = folder.join("mayfly.toml");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("{} (start a handler with `mayfly new NAME`)", file.display()))?;
    let manifest = Manifest::parse(&text).with_context(|| file.display().to_string())?;
    let handler = match manifest.handler.strip_prefix("builtin:") {
        Some(builtin) => Handler::Builtin(builtin.to_owned()),
        None => {
            if let Some(build) = manifest.build.as_ref().filter(|_| !args.no_build) {
                run_build(&build.command, folder)?;
            }
            let wasm = folder.join(&manifest.handler);
            if !wasm.exists() {
                bail!("{} does not exist: build the handler first", wasm.display());
            }
            Handler::File(wasm)
        }
    };
    let models = manifest.models.into_iter().map(|(alias, entry)| (alias, model_entry(entry))).collect();
    Ok(Plan {
        name: args.name.clone().unwrap_or(manifest.name),
        handler,
        models,
        config: manifest.config,
        limits: manifest.limits,
        filter: manifest.filter,
        share_prefixes: manifest.share_prefixes,
        scale: manifest.scale,
    })
}

fn model_entry(entry: mayfly_registry::ModelEntry) -> ModelEntry {
    match entry {
        mayfly_registry::ModelEntry::Name(name) => ModelEntry::Name(name),
        mayfly_registry::ModelEntry::Table(table) => ModelEntry::Table(ModelTable {
            model: table.model,
            device: table.device.to_string(),
            all_positions: table.all_positions,
        }),
    }
}

fn run_build(command: &str, folder: &Path) -> anyhow::Result<()> {
    eprintln!("$ {command}");
    let status =
        Command::new("sh").arg("-c").arg(command).current_dir(folder).status().context("running the build command")?;
    if !status.success() {
        bail!("the build command failed ({status})");
    }
    Ok(())
}

/// `NAME`, `ALIAS=NAME`, or either with a path in place of the name: that is added first.
async fn grant(session: &Session, models: &mut BTreeMap<Name, ModelEntry>, text: &str) -> anyhow::Result<()> {
    let (alias, model) = match text.split_once('=') {
        Some((alias, model)) => (Some(alias), model),
        None => (None, text),
    };
    let name: Name = if looks_like_a_path(model) {
        let path = Path::new(model).canonicalize().with_context(|| model.to_owned())?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let name = name_from(stem)
            .with_context(|| format!("{model}: no name can be made of it; use `mayfly models add NAME PATH`"))?;
        let own = !is_operator(session).await?;
        let whose = if own { ", a model of the project's own" } else { "" };
        eprintln!("adding {model} as {name}{whose}");
        add_model(session, &name, &path, own).await?;
        name
    } else {
        model.parse().with_context(|| format!("`{model}` is neither a model's name nor a path that exists"))?
    };
    let alias = match alias {
        Some(alias) => alias.parse().with_context(|| format!("the alias `{alias}`"))?,
        None => name.clone(),
    };
    models.insert(alias, ModelEntry::Name(name));
    Ok(())
}

/// Whether the key may add models for everybody; others' are their projects' own. Asked before anything large is sent.
async fn is_operator(session: &Session) -> anyhow::Result<bool> {
    match session.client.tenants().await {
        Err(error) if error.code() == Some(ErrorCode::InsufficientScope.as_str()) => Ok(false),
        asked => Ok(asked.map(|_| true)?),
    }
}

fn looks_like_a_path(text: &str) -> bool {
    text.contains('/') || text.ends_with(".onnx") || (text.parse::<Name>().is_err() && Path::new(text).exists())
}

/// A name near `text`: `Qwen2.5_0.5B` gives `qwen2-5-0-5b`.
fn name_from(text: &str) -> Option<Name> {
    let mut name = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
    }
    name.truncate(40);
    name.trim_end_matches('-').parse().ok()
}

fn with_limits(limits: &GuestLimits, changes: &[String]) -> anyhow::Result<GuestLimits> {
    let mut value = serde_json::to_value(limits)?;
    for change in changes {
        let (name, number) = change.split_once('=').with_context(|| format!("`{change}` is not NAME=VALUE"))?;
        let number: u64 = number.parse().with_context(|| format!("`{change}`: the value is no whole number"))?;
        let known: Vec<_> = value.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
        let Some(slot) = value.get_mut(name) else {
            bail!("there is no limit `{name}` (there are {})", known.join(", "));
        };
        *slot = number.into();
    }
    Ok(serde_json::from_value(value)?)
}

fn with_scale(scale: ScaleSpec, changes: &[String]) -> anyhow::Result<ScaleSpec> {
    let mut value = serde_json::to_value(scale)?;
    for change in changes {
        let (name, number) = change.split_once('=').with_context(|| format!("`{change}` is not NAME=VALUE"))?;
        let number: u32 = number.parse().with_context(|| format!("`{change}`: the value is no whole number"))?;
        value[name] = number.into();
    }
    serde_json::from_value(value).context("--scale")
}

async fn upload(session: &Session, file: &Path) -> anyhow::Result<HandlerSource> {
    let length = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
    let shown = Shown::upload(length, session.global.json);
    let counter = shown.counter();
    let stored = session
        .client
        .upload_component(
            session.project(),
            file,
            Progress::new(move |sent, total| counter.sent(sent, total, "checking")),
        )
        .await;
    drop(shown);
    Ok(HandlerSource::Digest(stored?.digest))
}

fn describe(deployed: &Deployed) -> String {
    let deployment = &deployed.deployment;
    let number = deployment.revision.as_ref().map_or(0, |revision| revision.number);
    let what = match (deployed.changed, deployed.compiled) {
        (false, _) => format!("revision {number} was active already"),
        (true, true) => format!("revision {number} is active (compiled)"),
        (true, false) => format!("revision {number} is active (compiled before)"),
    };
    format!(
        "{} {what}\n{}\n\n    curl -H \"authorization: Bearer $MAYFLY_KEY\" {}",
        deployment.name, deployment.url, deployment.url
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_file_names() {
        assert_eq!(name_from("Qwen2.5_0.5B-onnx").as_ref().map(Name::as_str), Some("qwen2-5-0-5b-onnx"));
        assert_eq!(name_from("__"), None);
    }

    #[test]
    fn scale_by_name() {
        let scale = ScaleSpec { queue_max: Some(1), ..ScaleSpec::default() };
        let scale = with_scale(scale, &["concurrency_max=7".into(), "queue_max=0".into()]).expect("known names");
        assert_eq!((scale.concurrency_max, scale.queue_max), (Some(7), Some(0)));
        let error = with_scale(scale, &["concurrency=7".into()]).expect_err("no such name");
        assert!(format!("{error:#}").contains("concurrency_max"), "{error:#}");
    }

    #[test]
    fn limits_by_name() {
        let limits = with_limits(&GuestLimits::default(), &["deadline_ms_max=77".into()]).expect("a known limit");
        assert_eq!(limits.deadline_ms_max, 77);
        let error = with_limits(&GuestLimits::default(), &["deadline=77".into()]).expect_err("no such limit");
        assert!(error.to_string().contains("deadline_ms_max"));
    }
}
