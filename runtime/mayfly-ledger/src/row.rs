//! The shape of a row.

use std::sync::Arc;

use mayfly_types::{DeploymentId, KeyId, Meter, ModelId, Name, ProjectId, RequestId, RevisionId, TenantId};
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call whose answer does not fit one frame has begun.
    Open,
    /// Usage so far, cumulative, durable before the bytes it covers leave.
    Progress,
    /// The end: all usage, owed.
    Settle,
    /// The end: nothing is owed.
    Void,
    /// After the end: differences to its lines (quantities and amounts may be negative).
    Correct,
}

/// Which door a call came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Channel {
    Api,
    Playground,
    Batch,
    Flow,
    Filter,
}

/// Who counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// This host, at the boundary.
    Host,
    /// Another service that did the work.
    Upstream,
}

/// Who called what. Fixed when the call opens; every row of the call refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The call.
    pub id: RequestId,
    /// The call that made this one, and the first of the chain (itself for most).
    pub parent: Option<RequestId>,
    /// The first call of the chain.
    pub root: RequestId,
    /// 1 for the first try.
    pub attempt: u32,
    /// Whose deployment it is.
    pub tenant: TenantId,
    /// Who pays.
    pub payer: TenantId,
    /// The deployment's project.
    pub project: ProjectId,
    /// The deployment that was asked for.
    pub requested: DeploymentId,
    /// The deployment that answered.
    pub served: DeploymentId,
    /// Its revision.
    pub revision: RevisionId,
    /// Its name, for people.
    pub deployment_name: Name,
    /// The key that was used.
    pub key: KeyId,
    /// What the caller said its user is, at most 128 characters.
    pub end_user: Option<Arc<str>>,
    /// The door.
    pub channel: Channel,
    /// Who counted.
    pub counted_by: CountedBy,
    /// Microseconds since the Unix epoch.
    pub opened_at: i64,
}

/// One line of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowLine {
    /// What is counted.
    pub meter: Meter,
    /// The model that did the work, none for guest CPU.
    pub model: Option<ModelId>,
    /// How much.
    pub quantity: i64,
    /// The price that applied; none if it was unpriced.
    pub price: Option<i64>,
    /// Pico-units of currency; none if it was unpriced.
    pub amount: Option<i64>,
}

/// One row. Never changed once written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it says.
    pub kind: Kind,
    /// Who called what.
    pub call: Arc<Call>,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// Cumulative usage of the call at this point.
    pub lines: Vec<RowLine>,
    /// How it ended; only on [`Kind::Settle`] and [`Kind::Void`].
    pub outcome: Option<Outcome>,
    /// The HTTP status that was sent, 0 if none.
    pub status: u16,
    /// How cold it was: `none`, `instance`, `code` or `model`; only at the end.
    pub cold: Option<Arc<str>>,
    /// Microseconds from open to end; only at the end.
    pub duration_micros: Option<i64>,
}

impl Row {
    /// The same end, but not owed: without lines, so that no sum can count them.
    #[must_use]
    pub fn into_void(self, outcome: Outcome) -> Self {
        Self { kind: Kind::Void, lines: Vec::new(), outcome: Some(outcome), ..self }
    }
}

macro_rules! texts {
    ($($name:ident { $($variant:ident = $text:literal,)* })*) => {$(
        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable text form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    )*};
}

texts! {
    Kind { Open = "open", Progress = "progress", Settle = "settle", Void = "void", Correct = "correct", }
    Channel { Api = "api", Playground = "playground", Batch = "batch", Flow = "flow", Filter = "filter", }
    CountedBy { Host = "host", Upstream = "upstream", }
}
