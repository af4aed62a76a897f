//! `mayfly.toml`: never a panic, errors that say where, and what is accepted means the same when it is written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mayfly_registry::Manifest;
use rand::rngs::StdRng;

use super::Target;
use crate::mutate::havoc;

pub(crate) struct ManifestTarget {
    root: PathBuf,
    notes: BTreeMap<&'static str, u64>,
}

impl ManifestTarget {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), notes: BTreeMap::new() }
    }
}

impl Target for ManifestTarget {
    fn seeds(&self) -> Vec<Vec<u8>> {
        ["examples/hello", "examples/own-loop", "examples/billing/handler"]
            .iter()
            .filter_map(|folder| std::fs::read(self.root.join(folder).join("mayfly.toml")).ok())
            .collect()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"name = ",
            b"handler = ",
            b"builtin:",
            b"[models]",
            b"[config]",
            b"[limits]",
            b"[filter]",
            b"block = [",
            b"[build]",
            b"command = ",
            b"share_prefixes = true",
            b"model = ",
            b"device = ",
            b"\"cuda\"",
            b"all_positions = true",
            b"guest_cpu_ms_max = ",
            b"deadline_ms_max = ",
            b"memory_bytes_max = ",
            b"handles_max = ",
            b"log_bytes_max = ",
            b"9223372036854775807",
            b"18446744073709551616",
            b"-1",
            b"1e999",
            b"nan",
            b"[[models]]",
            b"{ }",
            b"\"\"\"",
            b"'''",
            b"\\u0000",
            b"\\U0010FFFF",
            b"\n",
            b"= ",
            b"[models.a]",
            b"1979-05-27T07:32:00Z",
            b"#",
            b"a.b.c = 1",
        ]
    }

    fn mutate(&self, input: &[u8], other: &[u8], rng: &mut StdRng) -> Option<Vec<u8>> {
        let changed = havoc(input, other, self.words(), rng);
        Some(String::from_utf8_lossy(&changed).into_owned().into_bytes())
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let Ok(text) = std::str::from_utf8(input) else {
            *self.notes.entry("not text").or_default() += 1;
            return Ok(());
        };
        let manifest = match Manifest::parse(text) {
            Ok(manifest) => manifest,
            Err(error) => {
                *self.notes.entry("refused").or_default() += 1;
                let said = error.to_string();
                let starts = said.starts_with("mayfly.toml");
                // It may show the line it is about.
                let short = said.len() <= text.len().saturating_mul(4).saturating_add(4096);
                return if starts && short { Ok(()) } else { Err(format!("an error that is no help: {said:?}")) };
            }
        };
        *self.notes.entry("accepted").or_default() += 1;
        let written = toml::to_string(&manifest)
            .map_err(|error| format!("an accepted manifest that cannot be written: {error}"))?;
        let again = Manifest::parse(&written)
            .map_err(|error| format!("an accepted manifest that is refused when written again\n{error}\n{written}"))?;
        if again == manifest { Ok(()) } else { Err(format!("a manifest that changes when it is written\n{written}")) }
    }

    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.notes.clone()
    }
}
