//! Settings of the server: `default.toml` < the file given with `--config` < `MAYFLY_SECTION__KEY` < flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::{Deserialize, Serialize};

/// Every key with its default and a comment; also what `mayfly serve --print-config` prints.
pub const DEFAULT: &str = include_str!("../default.toml");

/// All settings. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Listeners, folders, shutdown.
    pub server: Server,
    /// The HTTP front.
    pub gateway: mayfly_gateway::GatewayConfig,
    /// The call path.
    pub calls: mayfly_calls::Config,
    /// Money and rows.
    pub ledger: Ledger,
    /// Records, caches, uploads.
    pub registry: mayfly_registry::Config,
    /// WebAssembly.
    pub host: mayfly_host::Config,
    /// ONNX Runtime.
    pub inference: mayfly_inference::Config,
    /// The first load of a model, and who may bring one.
    pub models: Models,
    /// Processes of tenants' own models.
    pub workers: mayfly_inference::WorkerConfig,
    /// Spans for a collector.
    pub telemetry: mayfly_telemetry::Config,
}

/// Listeners, folders, shutdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The data plane.
    pub listen: SocketAddr,
    /// The control plane.
    pub admin_listen: SocketAddr,
    /// Everything that must survive. Empty takes the user's data folder.
    pub data_dir: PathBuf,
    /// Threads of the async runtime; 0 takes the number of cores.
    pub worker_threads: u16,
}

/// Money and rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The one currency of this host: three capital letters. Fixed by the first start.
    pub currency: String,
    /// What a durable row survives.
    pub fsync: mayfly_store::Fsync,
    /// Bytes of rows that are durable and not yet in the database.
    pub unapplied_bytes_max: u64,
}

/// The first load of a model, and who may bring one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// Time for the first load, in its child process.
    pub probe_seconds_max: u64,
    /// Memory for the first load.
    pub probe_bytes_max: u64,
    /// What becomes of models that tenants bring.
    pub tenant_models: mayfly_registry::TenantModels,
}

impl Config {
    /// The defaults alone.
    ///
    /// # Panics
    /// Never: a test reads the embedded file.
    pub fn defaults() -> Self {
        toml::from_str(DEFAULT).expect("a test reads the embedded defaults")
    }

    /// Defaults, then `file`, then the environment.
    ///
    /// # Errors
    /// What is wrong, with the place it came from.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut figment = Figment::new().merge(Toml::string(DEFAULT));
        if let Some(file) = file {
            if !file.exists() {
                bail!("the config file {} does not exist", file.display());
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // Sections and keys are joined by two underscores, since keys contain single ones.
        let environment = Env::prefixed("MAYFLY_").filter(|key| key.as_str().contains("__")).split("__");
        let config: Self = figment.merge(environment).extract().context("the server's settings")?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// All problems at once.
    pub fn validate(&self) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        problems.extend(self.inference.validate().err().into_iter().flatten());
        problems.extend(self.gateway.validate().err().into_iter().flatten());
        problems.extend(self.registry.validate().err().into_iter().flatten());
        problems.extend(self.workers.validate().err().into_iter().flatten());
        problems.extend(self.telemetry.validate().err().into_iter().flatten());
        if self.server.listen == self.server.admin_listen && self.server.listen.port() != 0 {
            problems.push("server.listen and server.admin_listen must differ".to_owned());
        }
        let currency = self.ledger.currency.as_bytes();
        if currency.len() != 3 || !currency.iter().all(u8::is_ascii_uppercase) {
            problems.push("ledger.currency must be three capital letters, such as \"USD\"".to_owned());
        }
        if self.ledger.unapplied_bytes_max < 1 << 20 {
            problems.push("ledger.unapplied_bytes_max must be at least 1048576".to_owned());
        }
        if self.host.epoch_tick_ms == 0 {
            problems.push("host.epoch_tick_ms must be at least 1".to_owned());
        }
        for (key, value) in
            [("calls_max", self.calls.calls_max), ("calls_per_deployment_max", self.calls.calls_per_deployment_max)]
        {
            if value == 0 {
                problems.push(format!("calls.{key} must be at least 1"));
            }
        }
        if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
    }

    /// `server.data_dir`, or the user's data folder.
    ///
    /// # Errors
    /// If neither is known.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        if !self.server.data_dir.as_os_str().is_empty() {
            return Ok(self.server.data_dir.clone());
        }
        user_data_dir()
            .map(|folder| folder.join("server"))
            .context("no data folder: set server.data_dir, --data-dir or HOME")
    }
}

/// `$MAYFLY_HOME`, `$XDG_DATA_HOME/mayfly` or `~/.local/share/mayfly`.
pub fn user_data_dir() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("MAYFLY_HOME")
        .or_else(|| from("XDG_DATA_HOME").map(|folder| folder.join("mayfly")))
        .or_else(|| from("HOME").map(|home| home.join(".local/share/mayfly")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_file_equals_the_defaults() {
        let config = Config::defaults();
        assert_eq!(config.host, mayfly_host::Config::default());
        assert_eq!(config.inference, mayfly_inference::Config::default());
        assert_eq!(config.calls, mayfly_calls::Config::default());
        assert_eq!(config.registry, mayfly_registry::Config::default());
        assert_eq!(config.workers, mayfly_inference::WorkerConfig::default());
        assert_eq!(config.models.tenant_models, mayfly_registry::TenantModels::default());
        assert_eq!(config.gateway, mayfly_gateway::GatewayConfig::default());
        assert_eq!(config.telemetry, mayfly_telemetry::Config::default());
        let store =
            mayfly_store::Config { fsync: config.ledger.fsync, unapplied_bytes_max: config.ledger.unapplied_bytes_max };
        assert_eq!(store, mayfly_store::Config::default());
        assert!(config.validate().is_ok());
    }

    #[test]
    fn a_currency_is_three_capital_letters() {
        let check = |currency: &str, good: bool| {
            let mut config = Config::defaults();
            config.ledger.currency = currency.to_owned();
            assert_eq!(config.validate().is_ok(), good, "{currency:?}");
        };
        check("EUR", true);
        for bad in ["", "eur", "EURO", "E1R", "€", "EU "] {
            check(bad, false);
        }
    }

    #[test]
    fn every_key_of_the_embedded_file_has_a_comment() {
        let mut previous = "";
        for line in DEFAULT.lines() {
            if line.contains(" = ") && !line.starts_with('#') {
                assert!(previous.starts_with('#'), "no comment above `{line}`");
            }
            previous = line;
        }
    }

    #[test]
    fn unknown_keys_are_errors() {
        let text = DEFAULT.replace("[server]", "[server]\nlisten_on = \"x\"");
        let error = toml::from_str::<Config>(&text).expect_err("the key is unknown");
        assert!(error.to_string().contains("listen_on"));
    }
}
