//! A model with 64 MiB of weights, of which a prepacked copy is worth making.

use std::fs;
use std::path::Path;

/// Puts it into `folder`: its weights are from 0.5 to 1, and no two rows of them are the same.
pub(crate) fn write(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/runtime/weights.onnx");
    fs::copy(graph, folder.join("model.onnx")).unwrap();
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x3f00_0000 | (seed >> 9)).to_le_bytes()
    };
    // Its length is no divisor of a row's.
    let piece: Vec<u8> = (0..100_003).flat_map(|_| next()).collect();
    let mut data = piece.repeat((64 << 20) / piece.len() + 1);
    data.truncate(64 << 20);
    fs::write(folder.join("weights.bin"), data).unwrap();
}
