//! Who owns what: tenants, projects, keys, models, deployments and their immutable revisions.
//!
//! Owns the records and the seams they are kept behind ([`Records`], [`Artifacts`]), the workflows that change them
//! (deploy, roll back, import a model, make and revoke keys) and the bounded caches that calls read from.
//! A registered deployment at rest is a row and nothing in memory.

#![forbid(unsafe_code)]

pub mod actor;
mod artifacts;
mod audit;
mod cache;
mod clock;
mod config;
mod control;
mod error;
mod flights;
mod key;
mod manifest;
mod record;
mod records;
mod unpack;

pub use actor::Actor;
pub use artifacts::{ArtifactError, Artifacts};
pub use audit::{AuditQuery, AuditRow};
pub use cache::{Directory, DirectoryStats, Resolved};
pub use config::{Config, REVOCATION_BOUND_MS, TenantModels};
pub use control::{
    Control, DeployRequest, Deployed, Derived, Granted, GrantedModel, HandlerSource, Keeper, KeyRequest, PinState,
    ToolError, Tools,
};
pub use error::{ControlError, RecordsError};
pub use key::{KeyScope, SecretKey, hash_secret};
pub use manifest::{Build, Manifest, ManifestError, ModelEntry, ModelTable};
pub use mayfly_host::Place;
pub use mayfly_inference::Device;
pub use record::{
    Active, Deployment, HandlerRecord, Key, Model, ModelGrant, ModelPin, Owner, PinnedBy, Project, Revision,
    RevisionSpec, Slot, Tenant,
};
pub use records::{Change, ChangeKind, Records};
pub use unpack::{UnpackError, UnpackLimits, unpack_model};
