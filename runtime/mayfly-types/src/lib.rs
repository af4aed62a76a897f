//! Words every other crate shares: identifiers, names, digests, meters, limits and the [`Budget`] seam.
//!
//! No I/O, no clock, no async runtime: what stands here can be used by a guest tool, a test or a server alike.

#![forbid(unsafe_code)]

mod budget;
mod digest;
mod filter;
mod id;
mod level;
mod limits;
mod meter;
mod money;
mod name;
mod scale;

pub use budget::{Budget, Hold, HoldId, Refusal, RefusalKind};
pub use digest::{Digest, DigestError, Digester};
pub use filter::{BLOCKED_TEXT_BYTES_MAX, BLOCKED_TEXTS_BYTES_MAX, BLOCKED_TEXTS_MAX, FilterSpec, FilterSpecError};
pub use id::{DeploymentId, IdError, KeyId, ModelId, ProjectId, RequestId, RevisionId, TenantId};
pub use level::{LevelId, LevelLimitError, LevelLimits, Period, SpendCap};
pub use limits::{GuestLimits, LimitError};
pub use meter::{Line, Meter, UnknownMeter};
pub use money::{Money, MoneyError};
pub use name::{Name, NameError};
pub use scale::ScaleSpec;
