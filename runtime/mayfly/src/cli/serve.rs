//! `mayfly serve` and `mayfly doctor`.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::args::{Global, Serve};
use super::output;
use crate::config::{self, Config};
use crate::doctor::{self, Verdict};
use crate::server::Server;

#[expect(clippy::print_stdout, reason = "the command line's output")]
pub(super) fn run(global: &Global, args: Serve) -> anyhow::Result<()> {
    if args.print_config {
        print!("{}", config::DEFAULT);
        return Ok(());
    }
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(address) = args.listen {
        config.server.listen = address;
    }
    if let Some(address) = args.admin_listen {
        config.server.admin_listen = address;
    }
    if let Some(folder) = args.data_dir {
        config.server.data_dir = folder;
    }
    config.validate()?;
    log(global.json);
    if let Err(error) = mayfly_inference::settle_pages(config.inference.large_pages) {
        tracing::info!(error, "large pages are not where models run, or not only there");
    }

    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Guests yield at each epoch tick, and go to threads of their own after one: so sockets and timers are looked at
    // after 16 ms at the latest. More often is worse: what has just come would be served before what waits.
    builder.enable_all().event_interval(16).on_thread_start(mayfly_host::serves_connections);
    if config.server.worker_threads > 0 {
        builder.worker_threads(config.server.worker_threads.into());
    }
    builder.build().context("starting the async runtime")?.block_on(Box::pin(serve(global.json, config)))
}

#[expect(clippy::print_stdout, reason = "the command line's output")]
async fn serve(json: bool, config: Config) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let server = Server::start(config).await?;
    let (data, admin) = (format!("http://{}", server.data), format!("http://{}", server.admin));
    let key = server.admin_key.as_ref().map(mayfly_registry::SecretKey::expose);
    if json {
        println!("{}", json!({ "data": data, "admin": admin, "admin_key": key }));
    } else {
        println!("data plane     {data}");
        println!("control plane  {admin}");
        println!("instance pool  {}", server.pool);
        println!("model memory   {}", server.model_memory);
        if let Some(key) = key {
            println!("\nThis is the admin key. It is shown only now; only its hash is stored:\n\n    {key}\n");
            println!("Try:\n");
            println!("    export MAYFLY_KEY={key}");
            if admin != "http://127.0.0.1:7071" {
                println!("    export MAYFLY_URL={admin}");
            }
            println!("    mayfly new hello && cd hello && mayfly deploy");
            println!("    curl -H \"authorization: Bearer $MAYFLY_KEY\" {data}/d/default/hello/");
        }
    }
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping: no new calls, open ones may finish");
    server.stop().await
}

/// Logs go to standard error; `RUST_LOG` chooses what.
fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that cannot be written is lost; by default it would be told to the same log, and the task would panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // Colours are for a terminal (and not there with NO_COLOR, which is the library's own rule).
    let builder = if std::io::stderr().is_terminal() { builder } else { builder.with_ansi(false) };
    // A second call (tests) keeps the first one's settings.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

pub(super) fn doctor(global: &Global, file: Option<&Path>) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let checks = doctor::examine(&config);
    output::print(global.json, &checks, |checks| {
        let mut text = String::new();
        for check in checks {
            let mark = match check.verdict {
                Verdict::Good => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Bad => "BAD ",
            };
            text.push_str(&format!("{mark}  {:<20} {}\n", check.name, check.found));
            if !check.mend.is_empty() {
                text.push_str(&format!("      {:<20} -> {}\n", "", check.mend));
            }
        }
        text
    })?;
    anyhow::ensure!(!checks.iter().any(|check| check.verdict == Verdict::Bad), "this machine cannot run Mayfly yet");
    Ok(())
}
