//! Compiled code: stored beside its keyed checksum, mapped on first use, dropped when idle.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mayfly_inference::Uses;
use mayfly_types::Digest;
use moka::future::Cache;
use tokio::runtime::{Handle, RuntimeFlavor};
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceType, Type};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};

use crate::background::{Background, Next};
use crate::state::GuestState;
use crate::stored::Stored;
use crate::{CodeError, Config};

/// A mapped component, ready to be instantiated.
pub struct Code {
    digest: Digest,
    pre: ProxyPre<GuestState>,
}

impl Code {
    /// The component it was compiled from.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it uses of models: whether it runs graphs, and whether it generates. Told from the functions it imports.
    pub fn uses(&self) -> Uses {
        let engine = self.pre.engine();
        let component = self.pre.instance_pre().component().component_type();
        let imports = |interface: &str, function: &str| {
            component.imports(engine).any(|(name, import)| {
                let ComponentItem::ComponentInstance(instance) = import.ty else { return false };
                name.starts_with(interface) && instance.get_export(engine, function).is_some()
            })
        };
        let runs = imports("wasi:nn/inference@", "[method]graph-execution-context.compute")
            || imports("mayfly:inference/models@", "run-many");
        Uses { runs, generates: imports("mayfly:inference/generation@", "start") }
    }

    pub(crate) fn pre(&self) -> &ProxyPre<GuestState> {
        &self.pre
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What the code cache and the pool hold.
#[derive(Debug, Clone, Default)]
pub struct CodeStats {
    /// Components mapped now.
    pub mapped: Vec<Digest>,
    /// Maps since the start.
    pub maps_total: u64,
    /// Instances alive now, those that wait for their deployment's next request among them.
    pub instances: u32,
    /// Those that wait.
    pub instances_idle: u32,
    /// Requests since the start that an instance of an earlier one answered.
    pub instances_reused_total: u64,
    /// Instances since the start.
    pub instances_total: u64,
}

/// Maps the file and links it. The file's checksum has been verified, or a child of ours has just written it.
pub(crate) fn load(
    engine: &Engine,
    linker: &Linker<GuestState>,
    path: &Path,
) -> wasmtime::Result<ProxyPre<GuestState>> {
    #[expect(unsafe_code, reason = "mapping compiled code is what this module is for; there is no safe way to do it")]
    // SAFETY: the file was written by an engine of the same version and settings in a child of this host (its name holds
    // the compatibility hash) and is unchanged since: the caller verified the checksum made with a key that only
    // this host can read, and only this host's user may write in the folder, which never changes a file in place.
    let component = unsafe { Component::deserialize_file(engine, path) }?;
    ProxyPre::new(linker.instantiate_pre(&component)?)
}

/// Whether the handler it exports takes a request and an outparam and gives nothing: names alone say nothing of types.
/// Checked once, before code is stored; an instance would find out only at its first call.
fn check_handler(pre: &ProxyPre<GuestState>, linker: &Linker<GuestState>) -> wasmtime::Result<()> {
    let engine = pre.engine();
    let component = linker.substituted_component_type(pre.instance_pre().component())?;
    let wanted = [ResourceType::host::<HostIncomingRequest>(), ResourceType::host::<HostResponseOutparam>()];
    for (name, export) in component.exports(engine) {
        let ComponentItem::ComponentInstance(instance) = export.ty else { continue };
        if !name.starts_with("wasi:http/incoming-handler@0.2.") {
            continue;
        }
        let fits = match instance.get_export(engine, "handle").map(|handle| handle.ty) {
            Some(ComponentItem::ComponentFunc(handle)) => {
                let params: Vec<_> = handle.params().map(|(_, ty)| ty).collect();
                handle.results().len() == 0
                    && params.len() == wanted.len()
                    && params.iter().zip(&wanted).all(|(ty, wanted)| matches!(ty, Type::Own(own) if own == wanted))
            }
            _ => false,
        };
        if !fits {
            return Err(wasmtime::Error::msg(format!(
                "`handle` of {name} must take an own<incoming-request> and an own<response-outparam> and give nothing"
            )));
        }
    }
    Ok(())
}

/// Mapped components: bounded, dropped when idle, each mapped by one caller while the others wait.
pub(crate) struct Mapped {
    cache: Cache<Digest, Arc<Code>>,
    source: Arc<Source>,
    maps: Arc<AtomicU64>,
    /// Drops idle entries also when nobody calls. Held for its thread.
    _sweeper: Background,
}

struct Source {
    engine: Engine,
    linker: Linker<GuestState>,
    stored: Arc<Stored>,
}

impl Mapped {
    /// An empty cache.
    pub(crate) fn start(
        config: &Config,
        engine: Engine,
        linker: Linker<GuestState>,
        stored: Arc<Stored>,
    ) -> std::io::Result<Self> {
        let idle = Duration::from_millis(config.code_idle_ms.max(1));
        let cache = Cache::builder().max_capacity(config.code_entries_max).time_to_idle(idle).build();
        let swept = cache.clone();
        let period = (idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let sweeper = Background::start("mayfly-code", move || {
            futures::executor::block_on(swept.run_pending_tasks());
            Next::After(period)
        })?;
        let source = Arc::new(Source { engine, linker, stored });
        Ok(Self { cache, source, maps: Arc::default(), _sweeper: sweeper })
    }

    /// The component, and whether it had to be mapped.
    pub(crate) async fn get(&self, digest: Digest) -> Result<(Arc<Code>, bool), CodeError> {
        if let Some(code) = self.cache.get(&digest).await {
            return Ok((code, false));
        }
        let source = Arc::clone(&self.source);
        let maps = Arc::clone(&self.maps);
        let map = async move {
            // Reads from disk: off the async threads.
            let code = if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
                // The thread's other work goes to another one, and nobody has to be woken on the way.
                tokio::task::block_in_place(|| source.map(digest))?
            } else {
                let mapped = tokio::task::spawn_blocking(move || source.map(digest)).await;
                mapped.map_err(|error| CodeError::Host { detail: format!("mapping code: {error}") })??
            };
            maps.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(code))
        };
        match self.cache.entry(digest).or_try_insert_with(map).await {
            // Who waited for another's mapping found it cold all the same.
            Ok(entry) => Ok((entry.into_value(), true)),
            Err(error) => Err(CodeError::clone(&error)),
        }
    }

    /// Whether the component is mapped. Does not count as a use.
    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.cache.contains_key(&digest)
    }

    /// What is mapped.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.cache.iter().map(|(digest, _)| *digest).collect()
    }

    /// Maps since the start.
    pub(crate) fn maps_total(&self) -> u64 {
        self.maps.load(Ordering::Relaxed)
    }

    /// Maps a file that is not stored yet, to see whether it fits this engine's pool and links.
    pub(crate) async fn try_out(&self, path: std::path::PathBuf) -> Result<(), wasmtime::Error> {
        let source = Arc::clone(&self.source);
        tokio::task::spawn_blocking(move || {
            let pre = load(&source.engine, &source.linker, &path)?;
            check_handler(&pre, &source.linker)
        })
        .await
        .unwrap_or_else(|error| Err(wasmtime::Error::msg(format!("mapping code: {error}"))))
    }
}

impl Source {
    fn map(&self, digest: Digest) -> Result<Code, CodeError> {
        let path = self.stored.verified(digest)?;
        match load(&self.engine, &self.linker, &path) {
            Ok(pre) => Ok(Code { digest, pre }),
            Err(error) => {
                tracing::warn!(%digest, error = format!("{error:#}"), "stored code does not fit this engine");
                Err(CodeError::Damaged)
            }
        }
    }
}
