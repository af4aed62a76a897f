//! What calls read: keys, deployments, active revisions and opened packages, in bounded caches that `changes_since`
//! keeps true.

mod entries;
mod follow;
mod packages;
mod used;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mayfly_host::{Grant, Grants, text_filter};
use mayfly_types::{LevelId, LevelLimits, ModelId, Name};
use subtle::ConstantTimeEq as _;

use crate::key::is_secret;
use crate::{
    Active, Artifacts, ChangeKind, Config, Deployment, Key, Owner, Project, Records, RecordsError, Revision, Tenant,
    TenantModels, Tools, hash_secret,
};
use entries::{Entries, Watched};
use follow::Follower;
use packages::Packages;
use used::Used;

/// How often the times keys were last used are written.
const USED_WRITTEN_EVERY: Duration = Duration::from_secs(10);
/// The most names [`Directory::names`] gives at once.
const NAMES_MAX: u32 = 10_000;

/// A deployment that can answer, and all its call needs.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Resolved {
    pub tenant: Tenant,
    pub project: Project,
    pub deployment: Deployment,
    pub revision: Revision,
    /// Limits of tenant, project and deployment.
    pub levels: [(LevelId, Arc<LevelLimits>); 3],
    pub limits: Arc<mayfly_types::GuestLimits>,
    pub grants: Arc<Grants>,
    /// What granted models are called in the price book: `minilm` if it is the host's, else `project/name`.
    pub price_names: Arc<BTreeMap<ModelId, String>>,
}

impl Watched for Key {
    fn touched_by(&self, change: &ChangeKind) -> bool {
        matches!(change, ChangeKind::Key(id, _) if *id == self.id)
    }
}

impl Watched for Project {
    fn touched_by(&self, change: &ChangeKind) -> bool {
        matches!(change, ChangeKind::Project(id) if *id == self.id)
    }
}

impl Watched for Resolved {
    fn touched_by(&self, change: &ChangeKind) -> bool {
        match change {
            ChangeKind::Deployment(id) => *id == self.deployment.id,
            ChangeKind::Tenant(id) => *id == self.tenant.id,
            ChangeKind::Model(id) => self.grants.models.values().any(|grant| grant.model == *id),
            other => self.project.touched_by(other),
        }
    }
}

/// Bounded caches over the records. Clones share them.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    records: Arc<dyn Records>,
    tenant_models: TenantModels,
    follower: Follower,
    keys: Entries<[u8; 32], Key>,
    projects: Entries<Name, Project>,
    deployments: Entries<(Name, Name), Resolved>,
    packages: Packages,
    used: Used,
}

/// What the caches hold now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DirectoryStats {
    pub keys: u64,
    pub projects: u64,
    pub deployments: u64,
    pub packages: u64,
}

impl Directory {
    /// Starts with nothing cached, and starts the task that follows the store until the last clone is dropped.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub(crate) async fn start(
        records: Arc<dyn Records>,
        artifacts: Arc<dyn Artifacts>,
        tools: Arc<dyn Tools>,
        config: &Config,
    ) -> Result<Self, RecordsError> {
        let idle = Duration::from_millis(config.idle_ms);
        let inner = Arc::new(Inner {
            follower: Follower::start(Arc::clone(&records), tools).await?,
            records,
            tenant_models: config.tenant_models,
            keys: Entries::new(config.keys_cached_max, idle),
            projects: Entries::new(config.projects_cached_max, idle),
            deployments: Entries::new(config.deployments_cached_max, idle),
            packages: Packages::new(artifacts, config.packages_cached_max),
            used: Used::default(),
        });
        tokio::spawn(follow(Arc::downgrade(&inner), Duration::from_millis(config.poll_ms.max(10))));
        Ok(Self(inner))
    }

    /// Learns now what changed; a write on this node is followed by one, so that it holds at once.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn refresh(&self) -> Result<(), RecordsError> {
        self.0.follower.refresh().await
    }

    /// Everything the store said up to this version is known here.
    pub(crate) fn version(&self) -> i64 {
        self.0.follower.version()
    }

    /// What is cached now.
    pub fn stats(&self) -> DirectoryStats {
        let Inner { keys, projects, deployments, packages, .. } = &*self.0;
        DirectoryStats {
            keys: keys.count(),
            projects: projects.count(),
            deployments: deployments.count(),
            packages: packages.count(),
        }
    }

    /// The live key with this secret: not revoked, not expired at `now` (microseconds since the Unix epoch). That it
    /// was used is noted.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn key(&self, secret: &str, now: i64) -> Result<Option<Arc<Key>>, RecordsError> {
        if !is_secret(secret) {
            return Ok(None);
        }
        let hash = hash_secret(secret);
        let found = self.0.keys.get(&self.0.follower, hash, || self.0.records.key_hashed(&hash)).await?;
        let live = found.filter(|key| {
            let same = bool::from(key.hash.ct_eq(&hash));
            same && key.revoked_at.is_none() && key.expires_at.is_none_or(|end| now < end)
        });
        if let Some(key) = &live {
            self.0.used.note(key.id, now);
        }
        Ok(live)
    }

    /// Writes when keys were last used, now rather than within the next seconds.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed; these uses are not noted then.
    pub async fn write_used(&self) -> Result<(), RecordsError> {
        self.0.write_used().await
    }

    /// The project of that name.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn project(&self, name: &str) -> Result<Option<Arc<Project>>, RecordsError> {
        let Ok(name) = name.parse::<Name>() else { return Ok(None) };
        let load = || self.0.records.project_named(name.as_str());
        self.0.projects.get(&self.0.follower, name.clone(), load).await
    }

    /// The deployment `name` of project `project`, with its active revision and grants. None if there is none.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn resolve(&self, project: &str, name: &str) -> Result<Option<Arc<Resolved>>, RecordsError> {
        let (Ok(project), Ok(name)) = (project.parse::<Name>(), name.parse::<Name>()) else { return Ok(None) };
        let load = || self.load(&project, &name);
        self.0.deployments.get(&self.0.follower, (project.clone(), name.clone()), load).await
    }

    async fn load(&self, project: &Name, name: &Name) -> Result<Option<Resolved>, RecordsError> {
        let records = &self.0.records;
        let Some(active) = records.active_named(project.as_str(), name.as_str()).await? else { return Ok(None) };
        let Active { tenant, project, deployment, revision } = active;
        let gone =
            |what: &str| RecordsError::Failed { detail: format!("deployment {} refers to no {what}", deployment.id) };
        let mut price_names = BTreeMap::new();
        let filter = text_filter(&revision.spec.filter).map_err(|error| RecordsError::Failed {
            detail: format!("revision {} of deployment {}: {error}", revision.number, deployment.id),
        })?;
        let share_prefixes = revision.spec.share_prefixes;
        let config = revision.spec.config.clone();
        let mut grants = Grants { config, filter, share_prefixes, ..Grants::default() };
        for (alias, wanted) in &revision.spec.models {
            let model = records.model(wanted.model).await?.ok_or_else(|| gone("model"))?;
            let price_name = match model.owner {
                Owner::Host => model.name.to_string(),
                Owner::Project(_) => format!("{}/{}", project.name, model.name),
            };
            price_names.insert(model.id, price_name);
            let grant = Grant {
                model: model.id,
                place: model.place(self.0.tenant_models),
                name: model.name,
                package: self.0.packages.get(model.digest).await?,
                device: wanted.device,
                all_positions: wanted.all_positions,
            };
            grants.models.insert(alias.clone(), grant);
        }
        let levels = [
            (LevelId::Tenant(tenant.id), Arc::new(tenant.limits.clone())),
            (LevelId::Project(project.id), Arc::new(project.limits.clone())),
            (LevelId::Deployment(deployment.id), Arc::new(deployment.limits.clone())),
        ];
        Ok(Some(Resolved {
            limits: Arc::new(revision.spec.limits.clone()),
            grants: Arc::new(grants),
            price_names: Arc::new(price_names),
            levels,
            tenant,
            project,
            deployment,
            revision,
        }))
    }

    /// Names of a project's deployments, sorted (for `/v1/models`), at most `limit`.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn names(&self, project: &Project, limit: u32) -> Result<Vec<Name>, RecordsError> {
        let found = self.0.records.deployments(project.id, None, limit.min(NAMES_MAX)).await?;
        Ok(found.into_iter().map(|deployment| deployment.name).collect())
    }
}

impl Inner {
    async fn write_used(&self) -> Result<(), RecordsError> {
        let used = self.used.take();
        if used.is_empty() { Ok(()) } else { self.records.note_used(used).await }
    }
}

/// Asks the store what changed and lets go of what idled out, until nobody uses the caches any more.
/// Writes when keys were last used, from time to time.
async fn follow(caches: Weak<Inner>, every: Duration) {
    let mut failing = false;
    let mut written = Instant::now();
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = caches.upgrade() else { return };
        match inner.follower.refresh().await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::error!(
                    ?error,
                    "the store cannot be asked for changes; cached records are refused until it can"
                );
            }
            Err(_still) => {}
        }
        if written.elapsed() >= USED_WRITTEN_EVERY {
            written = Instant::now();
            if let Err(error) = inner.write_used().await {
                tracing::warn!(?error, "when keys were last used could not be written");
            }
        }
        inner.keys.tidy().await;
        inner.projects.tidy().await;
        inner.deployments.tidy().await;
        inner.packages.tidy().await;
    }
}
