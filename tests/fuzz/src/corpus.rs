//! The inputs that changes start from.

use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;

/// Inputs kept; past it, new ones take the place of old ones that are not seeds.
const INPUTS_MAX: usize = 4_000;

#[derive(Debug, Default)]
pub(crate) struct Corpus {
    inputs: Vec<Vec<u8>>,
    seeds: usize,
}

impl Corpus {
    /// Inputs that stay.
    pub(crate) fn seed(&mut self, input: Vec<u8>) {
        self.inputs.push(input);
        self.seeds = self.inputs.len();
    }

    pub(crate) fn add(&mut self, input: Vec<u8>, rng: &mut StdRng) {
        if self.inputs.len() < INPUTS_MAX.max(self.seeds + 1) {
            return self.inputs.push(input);
        }
        let at = rng.random_range(self.seeds..self.inputs.len());
        self.inputs[at] = input;
    }

    pub(crate) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// One of them; half of the time one of the latest, which is where new ground is.
    pub(crate) fn pick(&self, rng: &mut StdRng) -> &[u8] {
        let all = self.inputs.len();
        let from = if rng.random() { all.saturating_sub(32) } else { 0 };
        self.inputs.get(rng.random_range(from..all.max(from + 1))).map_or(&[], Vec::as_slice)
    }
}

/// The files of a folder, by name; none if it is not there.
pub(crate) fn read_folder(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    paths.retain(|path| path.is_file());
    paths.iter().map(|path| Ok(std::fs::read(path)?)).collect()
}
