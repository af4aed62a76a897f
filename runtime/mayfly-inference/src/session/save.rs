//! Writing a prepacked copy of a model: in the child process only, since the model may be anybody's.

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::value::Outlet;

use super::load::{Model, Options, describe, load_file, session_builder};
use super::run::readable;
use crate::copies::{EXTERNAL_BYTES_MIN, GRAPH, WEIGHTS};
use crate::{Config, LoadError};

/// Loads the graph `from` and writes it to the folder `to`, optimised, its weights packed beside it. Loads the copy once
/// and compares what goes in and out, so that a copy that kills the library kills this child.
pub(crate) fn save_copy(from: &Path, to: &Path, config: &Config) -> Result<(), String> {
    let options = Options::plain(config)?;
    let (from, to) = (Model::of_file(from.to_owned()), Model::of_file(to.join(GRAPH)));
    let session = save(&from, &to.file, &options).map_err(|error| readable(error.message()))?;
    let expected = outlets(&session);
    drop(session);
    let copy = load_file(&to, &to.file, &options, true).map_err(|error| match error {
        LoadError::Failed { detail } => format!("the copy does not load: {}", readable(&detail)),
        other => other.to_string(),
    })?;
    if outlets(&copy.session) == expected { Ok(()) } else { Err("the copy has other inputs or outputs".to_owned()) }
}

fn save(from: &Model, to: &PathBuf, options: &Options) -> ort::Result<Session> {
    session_builder(from, options)?
        .with_optimized_model_path(to)?
        .with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)?
        .with_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes",
            EXTERNAL_BYTES_MIN.to_string(),
        )?
        .with_config_entry("session.save_external_prepacked_constant_initializers", "1")?
        .commit_from_file(&from.file)
}

fn outlets(session: &Session) -> (Vec<serde_json::Value>, Vec<serde_json::Value>) {
    let all = |outlets: &[Outlet]| outlets.iter().map(describe).collect();
    (all(session.inputs()), all(session.outputs()))
}
