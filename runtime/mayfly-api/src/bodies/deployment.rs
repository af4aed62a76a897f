//! Deployments and their revisions.

use std::collections::BTreeMap;

use mayfly_types::{
    BLOCKED_TEXT_BYTES_MAX, BLOCKED_TEXTS_MAX, DeploymentId, Digest, FilterSpec, GuestLimits, ModelId, Name,
    RevisionId, ScaleSpec,
};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::Timestamp;

/// Where the handler of a deploy comes from: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HandlerSource {
    /// A component that was uploaded with `PUT /api/v1/projects/{project}/artifacts`.
    Digest(Digest),
    /// One of those in the binary, without `builtin:`.
    Builtin(String),
}

impl PartialSchema for HandlerSource {
    fn schema() -> RefOr<Schema> {
        let one = |key: &str| ObjectBuilder::new().property(key, String::schema()).required(key);
        OneOfBuilder::new().item(one("digest")).item(one("builtin")).into()
    }
}

impl ToSchema for HandlerSource {}

/// A granted model: the registered name, or a table with more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModelEntry {
    /// The registered name; runs on the CPU.
    Name(Name),
    /// The registered name and where it runs.
    Table(ModelTable),
}

impl PartialSchema for ModelEntry {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new().item(String::schema()).item(ModelTable::schema()).into()
    }
}

impl ToSchema for ModelEntry {}

/// The long form of a granted model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// The registered name.
    #[schema(value_type = String)]
    pub model: Name,
    /// `cpu` (default) or `cuda`.
    #[serde(default = "cpu")]
    pub device: String,
    /// Hand out every position of a decoder's outputs.
    #[serde(default)]
    pub all_positions: bool,
}

fn cpu() -> String {
    "cpu".to_owned()
}

/// A deploy, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDeployment {
    /// Where the handler comes from.
    pub handler: HandlerSource,
    /// By the alias the handler uses.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, ModelEntry>)]
    pub models: BTreeMap<Name, ModelEntry>,
    /// What `wasi:config` answers.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What a call may use; missing keys take their default.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub limits: GuestLimits,
    /// What generated text may not say. A choice that would is cut before it and ends with `content_filter`.
    #[serde(default)]
    #[schema(schema_with = filter)]
    pub filter: FilterSpec,
    /// Whether all callers go on from each other's prompts, which makes first tokens quick and input tokens cached ones
    /// where their prompts begin alike. It tells a caller whether another one has sent the same beginning, so it is off
    /// unless asked for; then each key goes on from its own prompts only. Never reaches beyond the deployment.
    #[serde(default)]
    pub share_prefixes: bool,
    /// How many calls run at once, how many wait for a place, how many an instance answers, and what is kept warm.
    #[serde(default)]
    #[schema(schema_with = scale)]
    pub scale: ScaleSpec,
}

/// The filter's schema; the type belongs to a crate without OpenAPI.
fn filter() -> RefOr<Schema> {
    let text =
        ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(BLOCKED_TEXT_BYTES_MAX));
    let texts = ArrayBuilder::new().items(text).max_items(Some(BLOCKED_TEXTS_MAX)).description(Some(
        "Texts that generated text may not have, whatever the case of their letters; 256 bytes each, 16 KiB together",
    ));
    ObjectBuilder::new().property("block", texts).into()
}

/// The schema of the places; the type belongs to a crate without OpenAPI.
fn scale() -> RefOr<Schema> {
    let number = |least: u32, most: u32, text| {
        ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most)).description(Some(text))
    };
    let running = "Calls that run at once; more wait. Without it as many run as the host allows, and none waits";
    let waiting = "Calls that wait for a place, in order and within their deadline; one more is refused with 429. \
                   Without it as many may wait as may run";
    let reuse = "Requests that one instance answers, one at a time, within what the host allows (host.reuse_max). Without it, \
                 or with 1, each gets a fresh one. With more, what a request leaves in the guest's memory is there for the \
                 next one, whoever sends it; everything else dies with its request";
    let idle = "How long an instance waits for its next request before it goes; 10000 without it";
    let warm = "1 keeps its code mapped and its models loaded while this is the active revision, and the engine of what it \
                generates with, within what the host sets aside for that (inference.pinned_bytes_max). 0 without it";
    ObjectBuilder::new()
        .property("concurrency_max", number(1, 1_000_000, running))
        .property("queue_max", number(0, 1_000_000, waiting))
        .property("reuse", number(1, 1_000_000, reuse))
        .property("instance_idle_ms", number(1, 3_600_000, idle))
        .property("min_warm", number(0, 1, warm))
        .into()
}

/// A deploy, done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// The deployment as it is now.
    pub deployment: Deployment,
    /// False if the active revision was the same already.
    pub changed: bool,
    /// False if the compiled code was there already.
    pub compiled: bool,
}

/// How warm a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Rows in the store and files on disk; nothing in memory.
    Zero,
    /// Compiled code is mapped.
    Code,
    /// At least one of its models is loaded.
    Model,
    /// Calls are running.
    Active,
}

impl Tier {
    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Code => "code",
            Self::Model => "model",
            Self::Active => "active",
        }
    }
}

/// One granted model, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelStatus {
    /// The handler's name for it.
    pub alias: String,
    /// Whether a session of it is loaded on this node.
    pub loaded: bool,
    /// Whether it is kept loaded here though nobody calls (scale.min_warm of this deployment or of another, or a pin of the operator's).
    #[serde(default)]
    pub kept: bool,
}

/// One deployment on this node, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStatus {
    /// The warmest tier.
    pub tier: Tier,
    /// Calls running.
    pub calls: u32,
    /// Whether its code is mapped.
    pub code_mapped: bool,
    /// Its models.
    pub models: Vec<ModelStatus>,
}

/// The handler of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Handler {
    /// The stored component.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// `builtin:NAME` if it is one of those in the binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin: Option<String>,
}

/// One model a revision may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// The registration.
    #[schema(value_type = String)]
    pub model: ModelId,
    /// The name it was registered under, if the record is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<Name>,
    /// Where it runs.
    pub device: String,
    /// Whether every position of a decoder's outputs is handed out.
    pub all_positions: bool,
}

/// An immutable version of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its id.
    #[schema(value_type = String)]
    pub id: RevisionId,
    /// 1 for the first.
    pub number: u32,
    /// Whether it is the one that answers.
    pub active: bool,
    /// Its handler.
    pub handler: Handler,
    /// By alias.
    #[schema(value_type = BTreeMap<String, Grant>)]
    pub models: BTreeMap<Name, Grant>,
    /// What `wasi:config` answers.
    pub config: BTreeMap<String, String>,
    /// What a call may use.
    #[schema(value_type = Object)]
    pub limits: GuestLimits,
    /// What generated text may not say.
    #[serde(default)]
    #[schema(schema_with = filter)]
    pub filter: FilterSpec,
    /// Whether all callers go on from each other's prompts.
    #[serde(default)]
    pub share_prefixes: bool,
    /// How many calls run at once, and how many wait for a place.
    #[serde(default)]
    #[schema(schema_with = scale)]
    pub scale: ScaleSpec,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A deployment, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// Its project's name.
    #[schema(value_type = String)]
    pub project: Name,
    /// Unique in the project.
    #[schema(value_type = String)]
    pub name: Name,
    /// Where it answers.
    pub url: String,
    /// The active revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What is in memory for it on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeploymentStatus>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A deployment, in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentSummary {
    /// Its id.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// Its project's name.
    #[schema(value_type = String)]
    pub project: Name,
    /// Unique in the project.
    #[schema(value_type = String)]
    pub name: Name,
    /// Where it answers.
    pub url: String,
    /// The number of the active revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// How warm it is on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Which revision to go back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Its number; without it, the one before the active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
}
