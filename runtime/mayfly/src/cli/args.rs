//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mayfly_types::Name;

/// Serverless model endpoints on one box: upload a handler.wasm, get a URL, pay by the token.
#[derive(Debug, Parser)]
#[command(name = "mayfly", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// The server's control plane.
    #[arg(long, global = true, env = "MAYFLY_URL", default_value = "http://127.0.0.1:7071", value_name = "URL")]
    pub(super) url: String,
    /// An API key.
    #[arg(long, global = true, env = "MAYFLY_KEY", hide_env_values = true, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// The project that names belong to.
    #[arg(long, global = true, env = "MAYFLY_PROJECT", default_value = "default", value_name = "NAME")]
    pub(super) project: Name,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server.
    Serve(Serve),
    /// Deploy a handler: a folder with mayfly.toml, a .wasm file, or builtin:NAME.
    Deploy(Deploy),
    /// List deployments.
    List,
    /// Show one deployment: URL, revisions, models, limits, and how warm it is.
    Show {
        /// The deployment.
        name: Name,
    },
    /// Print what a handler wrote to stdout and stderr.
    Logs {
        /// The deployment.
        name: Name,
        /// How many lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        tail: u32,
        /// Go on as lines come.
        #[arg(short, long)]
        follow: bool,
    },
    /// Call a deployment.
    Invoke(Invoke),
    /// Delete a deployment.
    Delete {
        /// The deployment.
        name: Name,
    },
    /// Go back to an earlier revision.
    Rollback {
        /// The deployment.
        name: Name,
        /// The revision's number; without it the one before the active one.
        #[arg(long)]
        to: Option<u32>,
    },
    /// Models: add, list, show, approve, remove.
    #[command(subcommand)]
    Models(Models),
    /// API keys: create, list, revoke.
    #[command(subcommand)]
    Keys(Keys),
    /// Tenants (operator).
    #[command(subcommand)]
    Tenants(Tenants),
    /// Projects.
    #[command(subcommand)]
    Projects(Projects),
    /// What was used.
    Usage(Usage),
    /// Check whether this machine fits, and how to mend it.
    Doctor {
        /// The server's settings.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Start a handler of your own.
    New {
        /// Its name, also of its folder.
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Settings (TOML); see --print-config.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where callers connect.
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<SocketAddr>,
    /// Where developers and operators connect.
    #[arg(long, value_name = "ADDR")]
    pub(super) admin_listen: Option<SocketAddr>,
    /// Where everything is kept.
    #[arg(long, value_name = "FOLDER")]
    pub(super) data_dir: Option<PathBuf>,
    /// Print every setting with its default and a comment, and stop.
    #[arg(long)]
    pub(super) print_config: bool,
}

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// A folder with mayfly.toml, a .wasm file, or builtin:NAME.
    #[arg(default_value = ".")]
    pub(super) source: String,
    /// The deployment's name (default: the manifest's, else the file's or the builtin's).
    #[arg(long)]
    pub(super) name: Option<Name>,
    /// A model the handler may use: NAME, ALIAS=NAME, or a path, which is added first. Repeatable.
    #[arg(long = "model", value_name = "[ALIAS=]NAME")]
    pub(super) models: Vec<String>,
    /// A string for the handler's configuration. Repeatable.
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub(super) config: Vec<String>,
    /// A limit, for example deadline_ms_max=5000. Repeatable.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    pub(super) limits: Vec<String>,
    /// Do not run the manifest's build command.
    #[arg(long)]
    pub(super) no_build: bool,
}

#[derive(Debug, Args)]
pub(super) struct Invoke {
    /// The deployment.
    pub(super) name: Name,
    /// The path the handler sees.
    #[arg(default_value = "/")]
    pub(super) path: String,
    /// The method (default: GET, or POST with a body).
    #[arg(short = 'X', long)]
    pub(super) method: Option<String>,
    /// The body; @FILE reads a file, @- standard input.
    #[arg(short, long)]
    pub(super) data: Option<String>,
    /// A header, `name: value`. Repeatable.
    #[arg(short = 'H', long = "header")]
    pub(super) headers: Vec<String>,
    /// Print the answer's head too.
    #[arg(short, long)]
    pub(super) include: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// Add a model: an .onnx file (with its external data beside it) or a Hugging Face / Optimum folder.
    Add {
        /// The name to register it under.
        name: Name,
        /// The file or folder.
        path: PathBuf,
        /// Only for --project, and only after the operator approved it.
        #[arg(long)]
        own: bool,
    },
    /// List the models that can be granted.
    List,
    /// Show inputs, outputs and properties.
    Show {
        /// The model.
        name: Name,
    },
    /// Let a model that a project brought run (operator).
    Approve {
        /// The model.
        name: Name,
    },
    /// Remove a model's name.
    Remove {
        /// The model.
        name: Name,
        /// The project's own model of that name.
        #[arg(long)]
        own: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key; it is shown once.
    Create {
        /// What it is for.
        #[arg(long, default_value = "")]
        label: String,
        /// What it may do: call, deploy, admin. Repeatable.
        #[arg(long = "scope", default_value = "call")]
        scopes: Vec<String>,
        /// Not bound to --project but good for the whole tenant of it.
        #[arg(long)]
        whole_tenant: bool,
        /// Stops working after this many days.
        #[arg(long)]
        days: Option<u32>,
    },
    /// List keys (never their secrets).
    List,
    /// Revoke a key.
    Revoke {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Tenants {
    /// Make a tenant.
    Create {
        /// Its name.
        name: Name,
    },
    /// List tenants.
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Projects {
    /// Make a project.
    Create {
        /// Its name, unique on the host.
        name: Name,
        /// Whose it is (default: the key's tenant).
        #[arg(long)]
        tenant: Option<Name>,
    },
    /// List projects.
    List,
}

#[derive(Debug, Args)]
pub(super) struct Usage {
    /// Keep apart by: tenant, project, deployment, model, key, end-user, hour, day. Comma-separated.
    #[arg(long, default_value = "deployment", value_delimiter = ',')]
    pub(super) by: Vec<String>,
    /// Only calls since then: RFC 3339, or a span such as 90m, 24h, 7d.
    #[arg(long)]
    pub(super) since: Option<String>,
    /// Only calls before then.
    #[arg(long)]
    pub(super) until: Option<String>,
}
