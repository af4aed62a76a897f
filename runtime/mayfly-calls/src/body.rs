//! The body type that goes in and comes out.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// A body: an error ends the connection without a proper end, so that nobody takes a part for the whole.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
