//! Where ONNX Runtime's shared library is looked for.

use std::env;
use std::path::PathBuf;

use crate::{Config, StartError};

/// The ONNX Runtime that Mayfly is built and tested with, and that the set-up scripts fetch.
pub const ORT_VERSION: &str = "1.31.1";

/// The places where ONNX Runtime's shared library is looked for, in this order.
///
/// `ort_dylib` or `MAYFLY_ORT_DYLIB`, where set, is the only place: who names a file does not want another one.
pub fn library_places(config: &Config) -> Vec<PathBuf> {
    places(
        config,
        |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from),
        env::current_exe().ok(),
    )
}

fn places(config: &Config, variable: impl Fn(&str) -> Option<PathBuf>, executable: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(file) = config.ort_dylib.clone().or_else(|| variable("MAYFLY_ORT_DYLIB")) {
        return vec![file];
    }
    let name = format!("libonnxruntime.so.{ORT_VERSION}");
    let mut places = Vec::new();
    if let Some(folder) = executable.as_deref().and_then(|file| file.parent()) {
        places.push(folder.join(&name));
        places.push(folder.join("../lib").join(&name));
    }
    if let Some(home) = variable("MAYFLY_HOME") {
        places.push(home.join("ort").join(ORT_VERSION).join(&name));
    }
    // The XDG rules: a relative path is to be ignored.
    let data = variable("XDG_DATA_HOME").filter(|folder| folder.is_absolute());
    if let Some(data) = data.or_else(|| Some(variable("HOME")?.join(".local/share"))) {
        places.push(data.join("mayfly/ort").join(ORT_VERSION).join(&name));
    }
    places
}

/// The first of the places that holds a file.
pub(super) fn find(config: &Config) -> Result<PathBuf, StartError> {
    let places = library_places(config);
    places.iter().find(|place| place.is_file()).cloned().ok_or_else(|| StartError::NotFound {
        looked: places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &Config, variables: &[(&str, &str)], expect: &[&str]) {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
        let places = places(config, variable, Some("/opt/mayfly/bin/mayfly".into()));
        let expect: Vec<PathBuf> = expect.iter().map(PathBuf::from).collect();
        assert_eq!(places, expect);
    }

    #[test]
    fn a_named_file_is_the_only_place() {
        let named = Config { ort_dylib: Some("/a/ort.so".into()), ..Config::default() };
        check(&named, &[("MAYFLY_ORT_DYLIB", "/b/ort.so"), ("HOME", "/home/me")], &["/a/ort.so"]);
        check(&Config::default(), &[("MAYFLY_ORT_DYLIB", "/b/ort.so"), ("HOME", "/home/me")], &["/b/ort.so"]);
    }

    #[test]
    fn beside_the_executable_then_the_data_folders() {
        let beside = ["/opt/mayfly/bin/libonnxruntime.so.1.31.1", "/opt/mayfly/bin/../lib/libonnxruntime.so.1.31.1"];
        let home = "/home/me/.local/share/mayfly/ort/1.31.1/libonnxruntime.so.1.31.1";
        check(&Config::default(), &[("HOME", "/home/me")], &[beside[0], beside[1], home]);
        check(
            &Config::default(),
            &[("MAYFLY_HOME", "/srv/mayfly"), ("XDG_DATA_HOME", "/data"), ("HOME", "/home/me")],
            &[
                beside[0],
                beside[1],
                "/srv/mayfly/ort/1.31.1/libonnxruntime.so.1.31.1",
                "/data/mayfly/ort/1.31.1/libonnxruntime.so.1.31.1",
            ],
        );
        check(&Config::default(), &[("XDG_DATA_HOME", "data"), ("HOME", "/home/me")], &[beside[0], beside[1], home]);
    }

    #[test]
    fn a_missing_library_names_every_place() {
        let config = Config { ort_dylib: Some("/nowhere/ort.so".into()), ..Config::default() };
        let error = find(&config).expect_err("there is no such file");
        assert!(error.to_string().contains("/nowhere/ort.so"), "{error}");
    }
}
