//! `mayfly new`: a handler that builds and deploys, with the SDK's sources beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use mayfly_types::Name;

include!(concat!(env!("OUT_DIR"), "/sdk_files.rs"));

/// Path in the new folder and text; `{{name}}` and `{{crate}}` are filled in.
const TEMPLATE: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../../templates/handler/Cargo.toml.in")),
    ("mayfly.toml", include_str!("../../templates/handler/mayfly.toml.in")),
    ("src/lib.rs", include_str!("../../templates/handler/lib.rs")),
    (".cargo/config.toml", include_str!("../../templates/handler/config.toml")),
    (".gitignore", "/target\n"),
];

/// Writes the handler into the new folder `parent/name`.
///
/// # Errors
/// If the folder exists or cannot be written; what was written then stays, so that nothing of the user's is removed.
fn create(parent: &Path, name: &Name) -> anyhow::Result<PathBuf> {
    let folder = parent.join(name.as_str());
    if folder.exists() {
        bail!("{} exists already", folder.display());
    }
    // Cargo package names begin with a letter.
    let package = if name.as_str().starts_with(|c: char| c.is_ascii_digit()) {
        format!("handler-{name}")
    } else {
        name.to_string()
    };
    let crate_name = package.replace('-', "_");
    for (path, text) in TEMPLATE {
        let text = text
            .replace("name = \"{{name}}\"\nversion", &format!("name = \"{package}\"\nversion"))
            .replace("{{name}}", name.as_str())
            .replace("{{crate}}", &crate_name);
        write(&folder.join(path), text.as_bytes())?;
    }
    for (path, bytes) in SDK_FILES {
        write(&folder.join("vendor").join(path), bytes)?;
    }
    Ok(folder)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

pub(super) fn run(global: &super::args::Global, name: &Name) -> anyhow::Result<()> {
    let folder = create(Path::new("."), name)?;
    let made = serde_json::json!({ "name": name, "folder": folder });
    super::output::print(global.json, &made, |_| {
        format!("made {name}/ (src/lib.rs is the handler)\n\n    cd {name} && mayfly deploy")
    })
}
