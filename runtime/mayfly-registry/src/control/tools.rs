//! What the workflows need from the crates below: compiled code, imported packages and copies of them. Tests bring their own.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mayfly_host::{CodeError, CompileError, ComponentInfo, Host};
use mayfly_inference::{
    Copies, Device, ImportError, ImportPolicy, Imported, Inference, Keep, KeepError, LoadError, Needs, Package,
    PackageError, Reservation, Uses,
};
use mayfly_types::{DeploymentId, Digest, Name};

use crate::{ControlError, Model, Owner};

/// What a node makes of an artifact for itself, kept under the artifact's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derived {
    /// Compiled code of a component.
    Code,
    /// The prepacked copy of a model.
    Copy,
}

impl Derived {
    pub(super) const ALL: [Self; 2] = [Self::Code, Self::Copy];

    /// For the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "compiled code",
            Self::Copy => "prepacked copies of models",
        }
    }
}

/// Who has models kept loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keeper {
    /// A deployment, by its active revision.
    Deployment(DeploymentId),
    /// The operator's pin of the model of this name, whichever package has it.
    Pin(Owner, Name, Device),
}

/// Models that run in the server's own process, and what uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The component that runs them; none for models that are pinned, whoever runs them.
    pub handler: Option<Digest>,
    /// In no order.
    pub models: Vec<GrantedModel>,
}

/// One of these models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedModel {
    /// The name it is registered under.
    pub name: Name,
    /// Its stored package.
    pub folder: PathBuf,
    /// Where it runs.
    pub device: Device,
}

/// A revision's models cannot be had or kept on this node.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The handler's code is not there: compile again.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A package cannot be read.
    #[error("model `{model}`: {error}")]
    Package {
        /// Its name.
        model: Name,
        /// Why.
        error: PackageError,
    },
    /// It never fits on this node.
    #[error("model `{model}`: {error}")]
    Fit {
        /// Its name.
        model: Name,
        /// How much is lacking.
        error: LoadError,
    },
    /// The host keeps no more.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

impl ToolError {
    /// The same for who asked for it: what they asked for, and what they can do where the host keeps no more.
    pub(super) fn refuse(self, asked: &str, way_out: &str) -> ControlError {
        match self {
            // It says its own way out.
            Self::Keep(KeepError::Load(error)) => ControlError::Invalid(format!("{asked}: {error}")),
            Self::Keep(error @ KeepError::Never) => ControlError::Invalid(format!("{asked}: {error}: {way_out}")),
            Self::Keep(error) => ControlError::Conflict(format!("{asked}: {error}: {way_out}")),
            other => other.into(),
        }
    }
}

/// The heavy work of the workflows.
#[async_trait]
pub trait Tools: Send + Sync + std::fmt::Debug {
    /// Whether compiled code is stored.
    fn has_code(&self, digest: Digest) -> bool;
    /// Checks the component in the file `wasm`, compiles it and stores the code under `digest`.
    ///
    /// # Errors
    /// [`CompileError`]; nothing is stored.
    async fn compile(&self, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError>;
    /// Artifacts of which this node keeps something derived; what fits another engine, another ONNX Runtime or CPU is
    /// removed first.
    ///
    /// # Errors
    /// What the file system said.
    async fn stored(&self, derived: Derived) -> std::io::Result<Vec<Digest>>;
    /// Removes what was derived of an artifact, if there is any. What is mapped stays mapped.
    ///
    /// # Errors
    /// What the file system said.
    async fn remove(&self, derived: Derived, digest: Digest) -> std::io::Result<()>;
    /// The deployment has changed or is gone: what this node keeps of it between calls must go.
    fn changed(&self, deployment: DeploymentId);
    /// Whether each of these models could ever be loaded on this node, for what the handler does with it.
    ///
    /// # Errors
    /// [`ToolError`].
    async fn fit(&self, granted: &Granted) -> Result<(), ToolError>;
    /// What loading the package in this folder takes on each device of this node, and whether it could be had now.
    ///
    /// # Errors
    /// [`ToolError`].
    async fn needs(&self, model: &Model, folder: &Path) -> Result<Vec<Needs>, ToolError>;
    /// Sets room aside for `keeper` to keep these models loaded instead of what it keeps now, until the reservation is
    /// dropped.
    ///
    /// # Errors
    /// [`ToolError`], and nothing is set aside.
    async fn reserve(&self, keeper: &Keeper, granted: &Granted) -> Result<Option<Reservation>, ToolError>;
    /// Keeps these models loaded for `keeper`, instead of what it kept before, and its handler's code mapped for now.
    ///
    /// # Errors
    /// [`ToolError`], and no model is kept for it any more.
    async fn keep(&self, keeper: &Keeper, granted: &Granted) -> Result<(), ToolError>;
    /// Keeps nothing for it any more.
    fn let_go(&self, keeper: &Keeper);
    /// Whether anything of the package is loaded on this device.
    fn is_loaded(&self, package: Digest, device: Device) -> bool;
    /// Uses a handler's code, so that it does not idle out.
    ///
    /// # Errors
    /// [`CodeError`].
    async fn touch(&self, handler: Digest) -> Result<(), CodeError>;
    /// Checks the model at `source` and stores it as `dest/<digest in hexadecimal digits>`. Blocking.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is left in `dest`.
    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError>;
}

/// The real ones.
#[derive(Debug)]
pub(super) struct HostTools {
    pub(super) host: Host,
    pub(super) inference: Inference,
    pub(super) policy: ImportPolicy,
    pub(super) child: PathBuf,
}

impl HostTools {
    /// What the handler uses of models; its code is mapped for that.
    async fn uses(&self, handler: Digest) -> Result<Uses, CodeError> {
        let (code, _mapped) = self.host.code(handler).await?;
        Ok(code.uses())
    }

    async fn keeps(&self, granted: &Granted) -> Result<Vec<Keep>, ToolError> {
        let uses = match granted.handler {
            Some(handler) => Some(self.uses(handler).await?),
            None => None,
        };
        let uses = |package| uses.unwrap_or_else(|| Uses::usual(package));
        let packages = open(granted.models.clone()).await?;
        Ok(packages.iter().map(|(model, package)| Keep::new(package, model.device, uses(package))).collect())
    }

    /// Works on the folder of copies off the async threads; without one there is nothing in it.
    async fn with_copies<T: Default + Send + 'static>(
        &self,
        work: impl FnOnce(&Copies) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let Some(copies) = self.policy.copies.clone() else { return Ok(T::default()) };
        let done = tokio::task::spawn_blocking(move || work(&copies)).await;
        done.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

#[async_trait]
impl Tools for HostTools {
    fn has_code(&self, digest: Digest) -> bool {
        self.host.has_code(digest)
    }

    async fn compile(&self, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError> {
        self.host.compile(wasm, digest).await
    }

    async fn stored(&self, derived: Derived) -> std::io::Result<Vec<Digest>> {
        match derived {
            Derived::Code => self.host.stored_code().await,
            Derived::Copy => self.with_copies(|copies| copies.stored()).await,
        }
    }

    async fn remove(&self, derived: Derived, digest: Digest) -> std::io::Result<()> {
        match derived {
            Derived::Code => self.host.remove_code(digest).await,
            Derived::Copy => self.with_copies(move |copies| copies.remove(digest)).await,
        }
    }

    fn changed(&self, deployment: DeploymentId) {
        self.host.forget_instances(deployment);
    }

    async fn fit(&self, granted: &Granted) -> Result<(), ToolError> {
        for (model, package) in open(granted.models.clone()).await? {
            // A device that is not there now may be at the next start.
            let never = |uses| match self.inference.fit(&package, model.device, uses) {
                Err(error @ LoadError::NeverFits { .. }) => Some(error),
                Ok(_) | Err(_) => None,
            };
            // What a handler does not use of a model need not fit; to know, its code is mapped.
            if never(Uses::ALL).is_none() {
                continue;
            }
            let uses = match granted.handler {
                Some(handler) => self.uses(handler).await?,
                None => Uses::usual(&package),
            };
            if let Some(error) = never(uses) {
                return Err(ToolError::Fit { model: model.name, error });
            }
        }
        Ok(())
    }

    async fn needs(&self, model: &Model, folder: &Path) -> Result<Vec<Needs>, ToolError> {
        let model = GrantedModel { name: model.name.clone(), folder: folder.to_owned(), device: Device::default() };
        let opened = open(vec![model]).await?;
        Ok(opened.iter().flat_map(|(_, package)| self.inference.needs(package)).collect())
    }

    async fn reserve(&self, keeper: &Keeper, granted: &Granted) -> Result<Option<Reservation>, ToolError> {
        let keeps = self.keeps(granted).await?;
        Ok(Some(self.inference.reserve(number(keeper), keeps)?))
    }

    async fn keep(&self, keeper: &Keeper, granted: &Granted) -> Result<(), ToolError> {
        let keeps = self.keeps(granted).await;
        if keeps.is_err() {
            self.let_go(keeper);
        }
        Ok(self.inference.keep(number(keeper), keeps?)?)
    }

    fn let_go(&self, keeper: &Keeper) {
        // Nothing can be wrong with keeping nothing.
        let _ = self.inference.keep(number(keeper), Vec::new());
    }

    fn is_loaded(&self, package: Digest, device: Device) -> bool {
        self.inference.is_loaded(package, device)
    }

    async fn touch(&self, handler: Digest) -> Result<(), CodeError> {
        self.host.code(handler).await.map(drop)
    }

    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError> {
        mayfly_inference::import(source, dest, &self.policy, &self.child)
    }
}

/// What residency knows a keeper by. No id is the beginning of a digest, but by one chance in all there are.
fn number(keeper: &Keeper) -> u128 {
    let bytes = match keeper {
        Keeper::Deployment(id) => id.to_bytes(),
        Keeper::Pin(owner, name, device) => {
            let owner = match owner {
                Owner::Host => "host".to_owned(),
                Owner::Project(project) => project.to_string(),
            };
            let digest = Digest::of(format!("pin {owner} {name} {device}").as_bytes());
            *digest.as_bytes().first_chunk().expect("a digest is longer")
        }
    };
    u128::from_be_bytes(bytes)
}

/// Their packages, opened off the async threads.
async fn open(models: Vec<GrantedModel>) -> Result<Vec<(GrantedModel, Package)>, ToolError> {
    let open = move || {
        let open = |model: GrantedModel| match Package::open(&model.folder) {
            Ok(package) => Ok((model, package)),
            Err(error) => Err(ToolError::Package { model: model.name, error }),
        };
        models.into_iter().map(open).collect()
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.unwrap_or_else(|error| Err(CodeError::Host { detail: format!("opening packages: {error}") }.into()))
}
