//! How large a constant a load may compute. What depends on no input ONNX Runtime computes once, when it loads a model: a
//! transposed weight, a table of positions. A file of a few hundred bytes can ask for terabytes so (a constant of a shape,
//! expanded, tiled), and would get them in this process. What is larger than this is computed in each run instead, where
//! the run's own limits and deadline stand.

use std::path::Path;

/// ONNX Runtime's name of the limit, in bytes of one result.
pub(super) const FOLDED_BYTES_MAX: &str = "optimization.constant_folding_max_output_size_in_bytes";
/// For tables that models of any size compute: a mask of 4,096 by 4,096 positions in f32.
const TABLE_BYTES: u64 = 64 << 20;
/// Folders inside a package that are looked into.
const DEPTH_MAX: u8 = 4;

/// The limit for the model whose graph is `file`: no weight of its own is larger than all of its files together.
pub(super) fn folded_bytes_max(file: &Path) -> u64 {
    let files = file.parent().map_or(0, |folder| bytes_in(folder, DEPTH_MAX));
    files.saturating_add(TABLE_BYTES)
}

fn bytes_in(folder: &Path, depth: u8) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(metadata) if metadata.is_dir() && depth > 0 => bytes_in(&entry.path(), depth - 1),
        _ => 0,
    });
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn weights_beside_the_graph_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        std::fs::write(&file, [0; 100]).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("data/weights.bin"), [0; 1000]).unwrap();
        assert_eq!(folded_bytes_max(&file), TABLE_BYTES + 1100);
        assert_eq!(folded_bytes_max(Path::new("/nowhere/model.onnx")), TABLE_BYTES);
    }
}
