//! Points the crate at the built handlers, and lists the SDK's files for `mayfly new`. Builds nothing itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    handlers(&root);
    sdk(&root);
}

/// `runtime/setup.sh` builds them into `handlers/target` before this crate is built.
fn handlers(root: &Path) {
    let folder = root.join("handlers/target/wasm32-wasip2/release");
    for name in ["chat", "classify", "embeddings"] {
        let file = folder.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", file.display());
        if !file.exists() {
            println!("cargo::error=the built-in handler `{name}` is not built yet: run runtime/setup.sh once");
        }
    }
    let folder = folder.canonicalize().unwrap_or(folder);
    println!("cargo::rustc-env=MAYFLY_HANDLERS={}", folder.display());
}

/// No registry has the SDK, so `mayfly new` writes its sources beside the new handler, in the same folders as here.
fn sdk(root: &Path) {
    let mut files = Vec::new();
    for folder in ["sdk/mayfly-sdk", "sdk/mayfly-sdk-macros", "wit"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        collect(&root.join(folder), Path::new(folder), &mut files);
    }
    files.sort();
    let mut list = String::from("pub(super) const SDK_FILES: &[(&str, &[u8])] = &[\n");
    for (name, path) in files {
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", path.canonicalize().unwrap_or(path))
            .expect("writing to a string");
    }
    list.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("sdk_files.rs");
    fs::write(out, list).expect("cargo's output folder can be written");
}

fn collect(folder: &Path, name: &Path, files: &mut Vec<(String, PathBuf)>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.expect("the folder was just listed");
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        // A checkout may hold built files and lock files, which are not sources.
        if path.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != "tests" {
                collect(&path, &name, files);
            }
        } else if entry.file_name() != "Cargo.lock" {
            files.push((name.display().to_string(), path));
        }
    }
}
