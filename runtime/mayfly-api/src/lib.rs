//! The HTTP contract: error codes, bodies and paths. Used by the server, the client, the CLI and, later, the console.

#![forbid(unsafe_code)]

mod bodies;
mod error;
pub mod headers;
mod text;
mod time;

pub use bodies::*;
pub use error::{ErrorBody, ErrorCode, ErrorEnvelope, Problem};
pub use text::{clean_line, clean_text};
pub use time::{Timestamp, TimestampError};
