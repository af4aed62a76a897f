//! Model packages through the real import, first load in the limited child included. An input is a few files; what it
//! may do is be refused, or be accepted: in bounded time, without a panic, and without anything from outside the package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_inference::{ImportError, ImportPolicy, Package, import};
use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;

use super::Target;
use crate::mutate::havoc;
use crate::protobuf;

/// The names that matter; any other number is a folder's.
const NAMES: [&str; 14] = [
    "model.onnx",
    "model.toml",
    "config.json",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "weights.bin",
    "1_Pooling/config.json",
    "modules.json",
    "sub/weights.bin",
    "labels.txt",
];
/// In a file beside the package: must never get into one.
const CANARY: &[u8] = b"a secret of the host that no package may contain";
const IMPORT_SECONDS_MAX: u64 = 20;
const PROBE_BYTES_MAX: u64 = 8 << 30;

pub(crate) struct PackageTarget {
    folder: TempDir,
    child: PathBuf,
    seeds: Vec<Vec<u8>>,
    notes: BTreeMap<&'static str, u64>,
}

impl PackageTarget {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("secret.bin"), CANARY.repeat(64))?;
        let mut seeds = Vec::new();
        let models = root.join("tests/fixtures/models");
        for file in onnx_files(&models)?.into_iter().chain(onnx_files(&models.join("bad"))?) {
            let mut files = vec![(0, std::fs::read(&file)?)];
            // Those with weights beside them.
            if let Ok(weights) = std::fs::read(models.join("rows_external.bin")) {
                files.push((9, weights));
            }
            seeds.push(write(&files));
        }
        for package in ["decoder_genai", "decoder_optimum", "embedder"] {
            let mut files = Vec::new();
            for (index, name) in (0_u8..).zip(NAMES) {
                let here = models.join(package).join(if name == "model.onnx" { "decoder.onnx" } else { name });
                let here = if here.exists() { here } else { models.join(package).join(name) };
                if let Ok(bytes) = std::fs::read(here) {
                    files.push((index, bytes));
                }
            }
            seeds.push(write(&files));
        }
        seeds.retain(|seed| seed.len() <= crate::mutate::INPUT_BYTES_MAX);
        Ok(Self { folder, child: std::env::current_exe()?, seeds, notes: BTreeMap::new() })
    }

    fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }
}

fn onnx_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    Ok(files)
}

/// An input as files: a number of [`NAMES`], a length (`u32`, little endian), the bytes; again.
fn read(mut input: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut files = Vec::new();
    while let [name, a, b, c, d, rest @ ..] = input {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let (bytes, left) = rest.split_at(length.min(rest.len()));
        files.push((*name, bytes.to_vec()));
        input = left;
    }
    files
}

fn write(files: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        out.push(*name);
        out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(bytes);
    }
    out
}

impl Target for PackageTarget {
    fn seeds(&self) -> Vec<Vec<u8>> {
        self.seeds.clone()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"../secret.bin",
            b"weights.bin",
            b"location",
            b"offset",
            b"length",
            b"18446744073709551615",
            b"-1",
            b"/etc/passwd",
            b"*/_ORT_MEM_ADDR_/*",
            b"If",
            b"Loop",
            b"Scan",
            b"Constant",
            b"ConstantOfShape",
            b"Expand",
            b"Tile",
            b"Range",
            b"Reshape",
            b"Gather",
            b"com.microsoft",
            b"GroupQueryAttention",
            b"EPContext",
            b"ai.onnx.ml",
            b"MatMulNBits",
            b"Attention",
            b"Resize",
            b"Pad",
            b"Concat",
            b"Split",
            b"TopK",
            b"then_branch",
            b"else_branch",
            b"body",
            b"{\"",
            b"\":",
            b"[[",
            b"null",
            b"1e400",
            b"vocab",
            b"merges",
            b"added_tokens",
            b"type",
            b"BPE",
            b"Unigram",
            b"{% for x in y %}",
            b"{{ 'x' * 999999999 }}",
            b"input_ids",
            b"attention_mask",
            b"past_key_values.0.key",
        ]
    }

    fn mutate(&self, input: &[u8], other: &[u8], rng: &mut StdRng) -> Option<Vec<u8>> {
        let mut files = read(input);
        let others = read(other);
        match rng.random_range(0..12_u8) {
            0 if !others.is_empty() => files.push(others[rng.random_range(0..others.len())].clone()),
            1 if files.len() > 1 => drop(files.swap_remove(rng.random_range(0..files.len()))),
            2 if !files.is_empty() => {
                let at = rng.random_range(0..files.len());
                files[at].0 = rng.random_range(0..16);
            }
            _ if files.is_empty() => return None,
            _ => {
                let at = rng.random_range(0..files.len());
                let (name, bytes) = &mut files[at];
                let other = others.iter().find(|(other, _)| other == name).map_or(&[][..], |(_, bytes)| bytes);
                let message = if *name == 0 { protobuf::mutate(bytes, self.words(), rng) } else { None };
                *bytes = message.unwrap_or_else(|| havoc(bytes, other, self.words(), rng));
            }
        }
        Some(write(&files))
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let (source, dest) = (self.folder.path().join("source"), self.folder.path().join("dest"));
        let made = lay_out(&source, input).and_then(|()| std::fs::create_dir(&dest));
        made.map_err(|error| format!("the fuzzer could not lay out its files: {error}"))?;
        let policy = ImportPolicy {
            probe_timeout: Duration::from_secs(IMPORT_SECONDS_MAX),
            probe_bytes_max: PROBE_BYTES_MAX,
            ..ImportPolicy::default()
        };
        let begin = Instant::now();
        let imported = import(&source, &dest, &policy, &self.child);
        let took = begin.elapsed();
        let held = match imported {
            Ok(imported) => {
                self.note("accepted");
                let stored = dest.join(imported.digest.hex());
                match Package::open(&stored) {
                    Ok(_) => no_secret_in(&stored),
                    Err(error) => Err(format!("an accepted package does not open: {error}")),
                }
            }
            Err(ImportError::Refused(text)) => {
                self.note("refused");
                fit_to_read(&text).and_then(|()| empty(&dest))
            }
            Err(ImportError::Probe(text)) => {
                self.note(if text.contains("signal") { "the child died" } else { "refused by its first load" });
                if text.contains("panicked") {
                    Err(format!("the child panicked: {text}"))
                } else if took > Duration::from_secs(IMPORT_SECONDS_MAX) {
                    Err("a first load that does not end".to_owned())
                } else {
                    fit_to_read(&text).and_then(|()| empty(&dest))
                }
            }
            Err(ImportError::Io(error)) => Err(format!("a package that is a fault of ours: {error}")),
        };
        let _ = std::fs::remove_dir_all(&source);
        let _ = std::fs::remove_dir_all(&dest);
        held
    }

    fn seconds_max(&self) -> Duration {
        Duration::from_secs(IMPORT_SECONDS_MAX * 2)
    }

    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.notes.clone()
    }
}

fn lay_out(source: &Path, input: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(source)?;
    for (name, bytes) in read(input) {
        let path = source.join(NAMES.get(usize::from(name)).copied().unwrap_or("odd/file.txt"));
        std::fs::create_dir_all(path.parent().unwrap_or(source))?;
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn fit_to_read(text: &str) -> Result<(), String> {
    if text.is_empty()
        || text.len() > 2_000
        || text.chars().any(|c| c.is_control() && c != '\n')
        || text.contains("/tmp/")
    {
        return Err(format!("a refusal that is not fit to be read\n{text:?}"));
    }
    Ok(())
}

fn empty(dest: &Path) -> Result<(), String> {
    match std::fs::read_dir(dest).map(Iterator::count) {
        Ok(0) => Ok(()),
        left => Err(format!("a refused package leaves {left:?} things behind")),
    }
}

fn no_secret_in(folder: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("an accepted package cannot be read: {error}"))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            no_secret_in(&path)?;
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(CANARY.len()).any(|window| window == CANARY)) {
            return Err("a package with a file from outside".to_owned());
        }
    }
    Ok(())
}
