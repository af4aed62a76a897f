//! The loop: pick, change, run, keep what went where nothing went before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::corpus::{Corpus, read_folder};
use crate::coverage::Coverage;
use crate::mutate::{INPUT_BYTES_MAX, havoc};
use crate::targets::Target;
use crate::watch::{self, Watch};

/// Different findings after which there is no point in going on.
const FINDINGS_MAX: usize = 20;
/// Descriptors that threads and connections may come to hold while a target runs.
const DESCRIPTORS_GROWTH_MAX: usize = 256;
const REPORT_EVERY: Duration = Duration::from_secs(30);

pub(crate) struct Campaign {
    name: String,
    target: Box<dyn Target>,
    coverage: Coverage,
    corpus: Corpus,
    rng: StdRng,
    watch: Watch,
    findings: PathBuf,
    /// The input that runs, for whoever comes after a crash.
    current: PathBuf,
    /// By their first line.
    found: BTreeSet<String>,
    runs: u64,
    descriptors: usize,
}

impl Campaign {
    pub(crate) fn new(name: &str, target: Box<dyn Target>, findings: &Path, seed: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(findings)?;
        let current = findings.join(format!("{name}.current"));
        let watch = Watch::start(target.seconds_max(), current.clone());
        let mut coverage = Coverage::new();
        coverage.take();
        Ok(Self {
            name: name.to_owned(),
            target,
            coverage,
            corpus: Corpus::default(),
            rng: StdRng::seed_from_u64(seed),
            watch,
            findings: findings.to_owned(),
            current,
            found: BTreeSet::new(),
            runs: 0,
            descriptors: watch::descriptors(),
        })
    }

    /// Runs `files` once each; whether all hold.
    pub(crate) fn replay(&mut self, files: &[PathBuf]) -> anyhow::Result<bool> {
        for file in files {
            let input = std::fs::read(file)?;
            self.one(&input)?;
        }
        self.report("replayed", Duration::ZERO);
        self.end()
    }

    /// Runs the inputs that are always there, and those that an earlier campaign kept.
    pub(crate) fn seed(&mut self, seeds: &Path, kept: Option<&Path>) -> anyhow::Result<()> {
        let mut inputs = read_folder(seeds)?;
        inputs.extend(self.target.seeds());
        for input in inputs {
            self.one(&input)?;
            self.corpus.seed(input);
        }
        let Some(kept) = kept else { return Ok(()) };
        std::fs::create_dir_all(kept)?;
        for input in read_folder(kept)? {
            if self.one(&input)? {
                self.corpus.add(input, &mut self.rng);
            }
        }
        Ok(())
    }

    /// Goes on for `time`; whether nothing was found.
    pub(crate) fn run(&mut self, time: Duration, keep: Option<&Path>) -> anyhow::Result<bool> {
        let begin = Instant::now();
        let mut reported = Instant::now();
        while begin.elapsed() < time && self.found.len() < FINDINGS_MAX {
            let input = self.next();
            if self.one(&input)? {
                if let Some(folder) = keep {
                    std::fs::write(folder.join(&Digest::of(&input).hex()[..16]), &input)?;
                }
                self.corpus.add(input, &mut self.rng);
            }
            if reported.elapsed() > REPORT_EVERY {
                reported = Instant::now();
                self.report("goes on", begin.elapsed());
            }
        }
        self.report("ends", begin.elapsed());
        self.end()
    }

    fn end(&self) -> anyhow::Result<bool> {
        if self.current.exists() {
            std::fs::remove_file(&self.current)?;
        }
        Ok(self.found.is_empty())
    }

    fn next(&mut self) -> Vec<u8> {
        let (input, other) = (self.corpus.pick(&mut self.rng).to_vec(), self.corpus.pick(&mut self.rng).to_vec());
        let knowing = if self.rng.random() { self.target.mutate(&input, &other, &mut self.rng) } else { None };
        let mut next = knowing.unwrap_or_else(|| havoc(&input, &other, self.target.words(), &mut self.rng));
        next.truncate(INPUT_BYTES_MAX);
        next
    }

    /// Runs one input; true if it went where none went before.
    fn one(&mut self, input: &[u8]) -> anyhow::Result<bool> {
        std::fs::write(&self.current, input)?;
        self.runs += 1;
        self.watch.turn(true);
        let held = self.target.run(input);
        self.watch.turn(false);
        let news = self.coverage.take();
        for panic in watch::take_panics() {
            self.find(input, &format!("a panic: {panic}"))?;
        }
        if let Err(broken) = held {
            self.find(input, &broken)?;
        }
        if self.runs.is_multiple_of(256) && watch::descriptors() > self.descriptors + DESCRIPTORS_GROWTH_MAX {
            self.find(input, "descriptors are left open")?;
        }
        Ok(news)
    }

    fn find(&mut self, input: &[u8], text: &str) -> anyhow::Result<()> {
        let first = text.lines().next().unwrap_or_default().to_owned();
        if !self.found.insert(first) {
            return Ok(());
        }
        let file = self.findings.join(format!("{}-{}", self.name, &Digest::of(input).hex()[..16]));
        std::fs::write(&file, input)?;
        eprintln!("[fuzz] FOUND {text}\n[fuzz]   {}", file.display());
        Ok(())
    }

    fn report(&self, what: &str, elapsed: Duration) {
        let notes: BTreeMap<&str, u64> = self.target.notes();
        eprintln!(
            "[fuzz] {} {what}: {} inputs in {} s, {} of {} edges, {} inputs kept, {} findings, {} MiB; {notes:?}",
            self.name,
            self.runs,
            elapsed.as_secs(),
            self.coverage.edges(),
            self.coverage.total(),
            self.corpus.len(),
            self.found.len(),
            watch::resident_bytes() >> 20,
        );
    }
}
