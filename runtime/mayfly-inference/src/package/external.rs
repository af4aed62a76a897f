//! External data: the place that a tensor names must be a plain file inside the package.

use std::path::{Component, Path, PathBuf};

use super::onnx::TensorProto;
use super::operators::shown;

/// A range of a file beside the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    /// Relative to the folder of the `.onnx` file; checked by [`confined`].
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// For messages.
    pub(super) tensor: String,
}

impl External {
    /// What `tensor`, which needs `bytes` bytes, says of its data.
    pub(super) fn of(tensor: &TensorProto, bytes: u64) -> Result<Self, String> {
        let (mut location, mut offset, mut length) = (None, 0, bytes);
        for entry in &tensor.external_data {
            let number =
                || entry.value.parse::<u64>().map_err(|_| format!("has external data with a bad `{}`", entry.key));
            match entry.key.as_str() {
                "location" if location.is_some() => return Err("names two locations of its external data".to_owned()),
                "location" => location = Some(confined(&entry.value)?),
                "offset" => offset = number()?,
                "length" => length = number()?,
                // `checksum`, and keys that ONNX Runtime writes for its own prepacked copies.
                _ => {}
            }
        }
        if length != bytes {
            return Err(format!("has {length} bytes of external data and needs {bytes}"));
        }
        let path = location.ok_or("has external data without a location")?;
        offset.checked_add(length).ok_or("has external data whose end overflows")?;
        Ok(Self { path, offset, length, tensor: shown(&tensor.name) })
    }

    /// Checks the range against the size of the file.
    pub(super) fn fits(&self, file_bytes: u64) -> Result<(), String> {
        // The sum was checked in `of`.
        if self.offset + self.length <= file_bytes {
            return Ok(());
        }
        Err(format!(
            "the tensor `{}` wants bytes {}..{} of `{}`, which has {file_bytes}",
            self.tensor,
            self.offset,
            self.offset + self.length,
            shown(&self.path.to_string_lossy())
        ))
    }
}

/// `location` as a path that stays in its folder.
///
/// `*` is refused because ONNX Runtime takes `*/_ORT_MEM_ADDR_/*` for an address in its own memory.
pub(super) fn confined(location: &str) -> Result<PathBuf, String> {
    let fault = |why: &str| format!("has external data at `{}`, which {why}", shown(location));
    if location.is_empty() || location.len() > 255 {
        return Err(fault("is not a path of 1 to 255 bytes"));
    }
    if location.chars().any(|c| c.is_control() || "*\\:?\"<>|".contains(c)) {
        return Err(fault("has a character that is not accepted in paths"));
    }
    let path = Path::new(location);
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(fault("leaves the package")),
        }
    }
    if clean.as_os_str().is_empty() || location.ends_with('/') {
        return Err(fault("is not a file"));
    }
    Ok(clean)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::package::onnx::StringStringEntryProto;

    #[test]
    fn locations_stay_in_the_package() {
        for good in ["w.bin", "./w.bin", "model.onnx_data", "data/w 1.bin"] {
            assert!(confined(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../w",
            "a/../../w",
            "*/_ORT_MEM_ADDR_/*",
            "a\\b",
            "c:w",
            "a\0b",
            "a/",
            ".",
            &"x".repeat(300),
        ] {
            assert!(confined(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_are_checked_without_overflow() {
        let tensor = |entries: &[(&str, &str)]| TensorProto {
            external_data: entries
                .iter()
                .map(|(key, value)| StringStringEntryProto { key: (*key).into(), value: (*value).into() })
                .collect(),
            ..TensorProto::default()
        };
        let external = External::of(&tensor(&[("location", "w"), ("offset", "4"), ("length", "8")]), 8).unwrap();
        assert!(external.fits(12).is_ok());
        assert!(external.fits(11).unwrap_err().contains("4..12"));
        for bad in [
            &[("offset", "4")][..],
            &[("location", "w"), ("offset", "18446744073709551615")],
            &[("location", "w"), ("offset", "-1")],
            &[("location", "w"), ("length", "7")],
            &[("location", "w"), ("location", "v")],
        ] {
            assert!(External::of(&tensor(bad), 8).is_err(), "{bad:?}");
        }
    }
}
