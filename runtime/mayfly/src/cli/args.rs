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
#[command(next_help_heading = "Options of all commands")]
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
    /// Watch the deployments of the key's reach: load, tier, memory, tokens; the busiest first.
    Top(Top),
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
    /// Models: add, list, show, approve, pin, unpin, remove.
    #[command(subcommand)]
    Models(Models),
    /// API keys: create, list, rotate, revoke.
    #[command(subcommand)]
    Keys(Keys),
    /// Tenants (operator).
    #[command(subcommand)]
    Tenants(Tenants),
    /// Projects.
    #[command(subcommand)]
    Projects(Projects),
    /// What calls may use together, by tenant, project, deployment and key: show, set.
    #[command(subcommand)]
    Limits(Limits),
    /// What was changed, by whom and when, newest first.
    Audit(Audit),
    /// What was used, and what it cost.
    Usage(Usage),
    /// The price book: list; set and check (operator).
    #[command(subcommand)]
    Prices(Prices),
    /// Prepaid credit: show; grant (operator).
    #[command(subcommand)]
    Credit(Credit),
    /// The ledger: verify (operator).
    #[command(subcommand)]
    Ledger(Ledger),
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

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Top {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) interval: u32,
    /// Look once and stop; rates need two looks.
    #[arg(long)]
    pub(super) once: bool,
    /// Deployments that are shown, at most.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    pub(super) count: usize,
}

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// A folder with mayfly.toml, a .wasm file, or builtin:NAME.
    #[arg(default_value = ".")]
    pub(super) source: String,
    /// The deployment's name (default: the manifest's, else the file's or the builtin's).
    #[arg(long)]
    pub(super) name: Option<Name>,
    /// A model the handler may use: NAME, ALIAS=NAME, or a path, which is added first (as the project's own, unless the
    /// key is the operator's). Repeatable.
    #[arg(long = "model", value_name = "[ALIAS=]NAME")]
    pub(super) models: Vec<String>,
    /// A string for the handler's configuration. Repeatable.
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub(super) config: Vec<String>,
    /// A limit, for example deadline_ms_max=5000. Repeatable.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    pub(super) limits: Vec<String>,
    /// A text that generated text may not have: it is cut before it, whatever the case of its letters. Repeatable.
    #[arg(long = "block", value_name = "TEXT")]
    pub(super) block: Vec<String>,
    /// Let callers go on from each other's prompts. Off by default: how fast an answer begins then tells whether another
    /// caller has sent the same prompt.
    #[arg(long)]
    pub(super) share_prefixes: bool,
    /// How many calls run at once and how many wait (concurrency_max=4, queue_max=8), how many requests one instance
    /// answers (reuse=100) and how long it waits for the next (instance_idle_ms=10000), whether code and models are kept in
    /// memory though nobody calls (min_warm=1). Repeatable.
    #[arg(long = "scale", value_name = "NAME=VALUE")]
    pub(super) scale: Vec<String>,
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
        /// Only for --project; where it runs before the operator has approved it, if anywhere, is the host's policy.
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
    /// Keep a model loaded from now on, whoever calls it and through restarts (operator). Counts against
    /// inference.pinned_bytes_max.
    Pin {
        /// The model.
        name: Name,
        /// Where.
        #[arg(long, value_enum, default_value_t = DeviceArg::Cpu)]
        device: DeviceArg,
        /// The project's own model of that name.
        #[arg(long)]
        own: bool,
    },
    /// Let go of a pinned model: it is unloaded once nobody has called it for a while (operator).
    Unpin {
        /// The model.
        name: Name,
        /// Where (default: wherever it is pinned).
        #[arg(long, value_enum)]
        device: Option<DeviceArg>,
        /// The project's own model of that name.
        #[arg(long)]
        own: bool,
    },
    /// Remove a model's name, and its pins.
    Remove {
        /// The model.
        name: Name,
        /// The project's own model of that name.
        #[arg(long)]
        own: bool,
    },
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum DeviceArg {
    Cpu,
    Cuda,
}

impl DeviceArg {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
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
        /// Good for this deployment only. Repeatable.
        #[arg(long = "deployment", value_name = "NAME")]
        deployments: Vec<String>,
        /// Stops working after this many days.
        #[arg(long)]
        days: Option<u32>,
    },
    /// List keys (never their secrets).
    List,
    /// Make one of a deployment's own two keys anew. Its old secret is dead, the other key goes on.
    Rotate {
        /// The deployment.
        deployment: Name,
        /// Which of the two.
        #[arg(long)]
        slot: KeySlot,
    },
    /// Revoke a key.
    Revoke {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum KeySlot {
    Primary,
    Secondary,
}

#[derive(Debug, Subcommand)]
pub(super) enum Limits {
    /// Show the limits of --project, or of another level.
    Show {
        #[command(flatten)]
        of: NamedLevel,
    },
    /// Change the limits that are given, of --project or of another level; `none` removes one.
    Set {
        #[command(flatten)]
        of: NamedLevel,
        #[command(flatten)]
        change: LimitsChange,
    },
}

#[derive(Debug, Default, Args)]
pub(super) struct LimitsChange {
    /// Calls open at once.
    #[arg(long, value_name = "N|none", allow_hyphen_values = true)]
    pub(super) concurrency: Option<String>,
    /// Calls begun per minute.
    #[arg(long, value_name = "N|none", allow_hyphen_values = true)]
    pub(super) requests_per_minute: Option<String>,
    /// Tokens per minute; on a project the pool of its deployments.
    #[arg(long, value_name = "N|none", allow_hyphen_values = true)]
    pub(super) tokens_per_minute: Option<String>,
    /// Calls per minute that wake code or a model.
    #[arg(long, value_name = "N|none", allow_hyphen_values = true)]
    pub(super) wakeups_per_minute: Option<String>,
    /// Money per hour, day or month, for example 20/month.
    #[arg(long, value_name = "AMOUNT/PERIOD|none", allow_hyphen_values = true)]
    pub(super) spend: Option<String>,
    /// Whether only granted credit may be spent.
    #[arg(long, value_name = "true|false")]
    pub(super) prepaid: Option<bool>,
    /// The most one call may cost.
    #[arg(long, value_name = "AMOUNT|none", allow_hyphen_values = true)]
    pub(super) request_cost_max: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Only changes since then: RFC 3339, or a span such as 90m, 24h, 7d.
    #[arg(long)]
    pub(super) since: Option<String>,
    /// Only changes before then.
    #[arg(long)]
    pub(super) until: Option<String>,
    /// Only with this key (its id).
    #[arg(long, value_name = "ID")]
    pub(super) actor: Option<mayfly_types::KeyId>,
    /// How many, at most.
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) count: usize,
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
    /// Delete a tenant that has no projects; its keys are revoked, its usage stays readable.
    Delete {
        /// Its name.
        name: Name,
    },
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
    /// Delete a project that has no deployments, with its models and the keys bound to it.
    Delete {
        /// Its name.
        name: Name,
    },
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
    /// Only this tenant's calls (operator).
    #[arg(long)]
    pub(super) tenant: Option<Name>,
    /// Only calls of --project.
    #[arg(long)]
    pub(super) this_project: bool,
    /// Only calls of this deployment of --project.
    #[arg(long)]
    pub(super) deployment: Option<Name>,
    /// Only calls made with this key (its id, not the secret).
    #[arg(long, value_name = "ID")]
    pub(super) key_id: Option<String>,
    /// Only this model's work (its id).
    #[arg(long, value_name = "ID")]
    pub(super) model: Option<String>,
    /// Only calls made for this user of the caller's.
    #[arg(long)]
    pub(super) end_user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Prices {
    /// List the prices that apply to the key's calls.
    List,
    /// Add a price. If it begins in the past, the difference for calls that have ended is shown first.
    Set {
        #[command(flatten)]
        price: NewPrice,
        /// The difference that was shown: adds the price and corrects those calls.
        #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true)]
        confirm: Option<String>,
        /// The time that was shown with the difference.
        #[arg(long, value_name = "TIME", requires = "confirm")]
        as_of: Option<String>,
    },
    /// Show what a price would change, and add nothing.
    Check {
        #[command(flatten)]
        price: NewPrice,
    },
}

#[derive(Debug, Args)]
pub(super) struct NewPrice {
    /// What is counted: input_tokens, cached_input_tokens, output_tokens, rows, elements, …
    #[arg(long)]
    pub(super) meter: String,
    /// Money for --per units, for example 0.02.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) amount: String,
    /// 1, 1000 or 1000000.
    #[arg(long, default_value_t = 1_000_000, value_name = "UNITS")]
    pub(super) per: u64,
    /// Must be the server's own (default: it is).
    #[arg(long)]
    pub(super) currency: Option<String>,
    /// The model's name, or project/name for a project's own (default: any model).
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Only for this tenant, by name or id (default: all).
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// The pool of capacity (default: shared).
    #[arg(long)]
    pub(super) pool: Option<Name>,
    /// For calls that begin then or later: RFC 3339, or a span back such as 24h (default: now).
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<String>,
    /// For calls that begin before then (default: until the next price).
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Credit {
    /// Give credit to --project, or to another level; below zero takes back.
    Grant {
        /// How much, for example 25.50.
        #[arg(allow_hyphen_values = true)]
        amount: String,
        /// For people.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        to: NamedLevel,
    },
    /// Show what was granted, spent and is left of --project, or of another level.
    Show {
        #[command(flatten)]
        of: NamedLevel,
    },
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct NamedLevel {
    /// The tenant of this name.
    #[arg(long)]
    pub(super) tenant: Option<Name>,
    /// The deployment of this name in --project.
    #[arg(long)]
    pub(super) deployment: Option<Name>,
    /// The key with this id.
    #[arg(long, value_name = "ID")]
    pub(super) key_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ledger {
    /// Walk every row: chains, sums, one ending for each call, rollups equal to rows.
    Verify {
        /// Not over the server but the folder of one that is down.
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
}
