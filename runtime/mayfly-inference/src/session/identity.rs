//! The smallest graph there is, on any device: it copies bytes, and tells whether the device can be used at all.

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::load::on_device;
use crate::Device;
use crate::library::Library;

/// `y = Identity(x)`, both bytes of shape `[n]`: ONNX's wire form, opset 13.
const IDENTITY: &[u8] = b"\x08\x08\x3a\x3c\x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity\x12\x04copy\
    \x5a\x10\x0a\x01x\x12\x0b\x0a\x09\x08\x02\x12\x05\x0a\x03\x12\x01n\
    \x62\x10\x0a\x01y\x12\x0b\x0a\x09\x08\x02\x12\x05\x0a\x03\x12\x01n\x42\x02\x10\x0d";

/// A session of it, run as it is: input `x`, output `y`, bytes.
///
/// # Errors
/// The device cannot be used.
pub(crate) fn identity(device: Device, library: &Library) -> ort::Result<Session> {
    let builder = Session::builder(&library.environment)?.with_optimization_level(GraphOptimizationLevel::Disable)?;
    on_device(builder, device)?.commit_from_memory(IDENTITY)
}
