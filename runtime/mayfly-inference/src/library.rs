//! ONNX Runtime's shared library: where it is looked for, whether it fits, and the process's one environment.
//!
//! Sessions are in [`crate::session`]; this is only about the library itself.

mod open;
mod pages;
mod places;

pub use open::prepare_process;
pub(crate) use open::{Library, open};
pub use pages::{LargePages, settle_pages};
pub(crate) use pages::{SmallPages, environment};
pub use places::{ORT_VERSION, library_places};
