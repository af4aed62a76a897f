//! The command line. `serve` and `doctor` work on this machine; every other command talks to a server's control plane.

mod args;
mod audit;
mod credit;
mod deploy;
mod invoke;
mod ledger;
mod limits;
mod manage;
mod new;
mod output;
mod prices;
mod progress;
mod serve;
mod show;
mod top;
mod usage;

use anyhow::Context as _;
use mayfly_client::Client;

pub use args::Cli;
use args::{Command, Global, Ledger};

impl Cli {
    /// Does what was typed.
    ///
    /// # Errors
    /// For the person at the terminal to read.
    pub fn run(self) -> anyhow::Result<()> {
        let Self { global, command } = self;
        match command {
            Command::Serve(args) => serve::run(&global, args),
            Command::Doctor { config } => serve::doctor(&global, config.as_deref()),
            Command::New { name } => new::run(&global, &name),
            Command::Ledger(Ledger::Verify { data_dir: Some(folder) }) => ledger::verify_folder(&global, &folder),
            other => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(Box::pin(remote(global, other)))
            }
        }
    }
}

async fn remote(global: Global, command: Command) -> anyhow::Result<()> {
    let key = global
        .key
        .clone()
        .context("no API key: set MAYFLY_KEY (or --key); `mayfly serve` prints the admin key at its first start")?;
    let session = Session { client: Client::new(&global.url, &key)?, global };
    match command {
        Command::Deploy(args) => deploy::run(&session, args).await,
        Command::List => show::list(&session).await,
        Command::Show { name } => show::show(&session, &name).await,
        Command::Top(args) => top::run(&session, args).await,
        Command::Logs { name, tail, follow } => show::logs(&session, &name, tail, follow).await,
        Command::Invoke(args) => invoke::run(&session, args).await,
        Command::Delete { name } => manage::delete(&session, &name).await,
        Command::Rollback { name, to } => manage::rollback(&session, &name, to).await,
        Command::Models(command) => manage::models(&session, command).await,
        Command::Keys(command) => manage::keys(&session, command).await,
        Command::Tenants(command) => manage::tenants(&session, command).await,
        Command::Projects(command) => manage::projects(&session, command).await,
        Command::Limits(command) => limits::run(&session, command).await,
        Command::Audit(args) => audit::run(&session, args).await,
        Command::Usage(args) => usage::run(&session, args).await,
        Command::Prices(command) => prices::run(&session, command).await,
        Command::Credit(command) => credit::run(&session, command).await,
        Command::Ledger(Ledger::Verify { .. }) => ledger::verify(&session).await,
        Command::Serve(_) | Command::Doctor { .. } | Command::New { .. } => unreachable!("they need no server"),
    }
}

/// A server to talk to, and how to print.
struct Session {
    client: Client,
    global: Global,
}

impl Session {
    fn project(&self) -> &str {
        self.global.project.as_str()
    }

    fn print<T: serde::Serialize>(&self, value: &T, people: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        output::print(self.global.json, value, people)
    }
}
