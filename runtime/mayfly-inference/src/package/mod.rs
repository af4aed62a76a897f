//! Model packages: what an import checks and stores, and what a stored package tells.
//!
//! A package is a folder of read-only files whose `package.json` lists them with their digests and carries the
//! resolved description; the digest of that one file is the package's identity. Runs are prepared in
//! `prepare.rs`, sessions are made in `session.rs`.

mod batching;
mod child;
mod decoder;
mod describe;
mod division;
mod external;
mod facts;
mod fields;
mod functions;
mod graph;
mod import;
mod info;
mod last_position;
mod mapped;
mod model_toml;
mod nature;
mod onnx;
mod open;
mod operators;
mod outward;
mod probe;
mod roles;
mod scan;
mod source;
mod store;
mod template;
mod tensors;
mod wiring;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
pub(crate) mod wire;

pub use batching::RunBatching;
pub(crate) use child::{ChildLimits, ChildWork, first_load};
pub use decoder::{Batching, DecoderInfo, DecoderInputs, DecoderLayout, GenerationDefaults};
pub(crate) use describe::Description;
pub use import::{ImportPolicy, Imported, import};
pub use info::{DimensionInfo, ModelInfo, Role, TensorInfo};
pub(crate) use last_position::last_position_only;
pub use open::Package;
pub use probe::{probe, probe_in_child};
pub(crate) use template::{ChatTemplate, TemplateSource};
