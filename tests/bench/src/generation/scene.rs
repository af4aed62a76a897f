//! A server with the large model behind `builtin:chat`, and prompts of an exact number of tokens.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::stream::Stream;
use crate::Bench;
use crate::server::{Server, deploy};

/// Words that make up prompts: two small letters each, a token of their own in the large model's tokenizer.
const LETTERS: u32 = 26;
const WORDS: u32 = LETTERS * LETTERS;

/// The large model's folder.
///
/// # Errors
/// It is not there.
pub(crate) fn large_model(bench: &Bench) -> anyhow::Result<PathBuf> {
    let folder = bench.root.join("target/bench-models/qwen05b-int4");
    ensure!(folder.join(".done").exists(), "the model is not there: run examples/models/make-05b.sh");
    Ok(folder)
}

/// Intra-op threads of all sides.
pub(super) fn threads() -> anyhow::Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// A server whose executors have as many threads as the peers.
pub(super) fn server(bench: &Bench, settings: &[(&str, &str)]) -> anyhow::Result<Server> {
    let threads = threads()?.to_string();
    let settings = [&[("MAYFLY_INFERENCE__INTRA_OP_THREADS", threads.as_str())], settings].concat();
    Server::start(bench, &settings)
}

/// Limits of a deployment that let a slow machine be slow: a figure is better than a call cut at its deadline.
pub(crate) fn patient() -> Value {
    json!({ "deadline_ms_max": 600_000, "guest_cpu_ms_max": 600_000 })
}

/// The server, warm.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) server: Server,
    /// What the chat template adds to the words.
    around: u32,
    /// So many prompts were made: each begins with words of its own, so that none reuses another's beginning.
    made: Cell<u32>,
}

impl Scene {
    pub(super) fn start(bench: &Bench) -> anyhow::Result<Self> {
        Self::of(server(bench, &[])?, &large_model(bench)?)
    }

    /// With `package` deployed as `chat`, and its engine loaded.
    pub(super) fn of(server: Server, package: &Path) -> anyhow::Result<Self> {
        server.add_model("large", package)?;
        let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "large" }, "limits": patient() });
        deploy(&mut server.connect_admin()?, "chat", &spec)?;
        let mut scene = Self { server, around: 0, made: Cell::new(0) };
        // The first words say how many tokens the template adds; the second request finds everything loaded.
        for _ in 0..2 {
            let (words, seen) = (16, Stream::ask(&scene.server, &request(&scene.words(16), 8))?.read()?);
            scene.around = seen.prompt_tokens.checked_sub(words).context("a word is a token")?;
        }
        Ok(scene)
    }

    /// A request of `prompt` tokens that is answered with exactly `new`, greedily.
    pub(super) fn request(&self, prompt: u32, new: u32) -> Value {
        request(&self.words(prompt - self.around), new)
    }

    /// Words that begin like no earlier ones.
    pub(super) fn words(&self, count: u32) -> String {
        let number = self.made.get();
        self.made.set(number + 1);
        words(number, count)
    }

    /// Asks and reads to the end.
    ///
    /// # Errors
    /// Also if the host counted other tokens than were asked for.
    pub(super) fn ask(&self, prompt: u32, new: u32) -> anyhow::Result<super::stream::Seen> {
        let seen = Stream::ask(&self.server, &self.request(prompt, new))?.read()?;
        let counted = (seen.prompt_tokens, seen.completion_tokens);
        ensure!(counted == (prompt, new), "{prompt} tokens in and {new} out were counted as {counted:?}");
        Ok(seen)
    }
}

pub(super) fn request(content: &str, new: u32) -> Value {
    json!({
        "messages": [{ "role": "user", "content": content }],
        "max_tokens": new,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
        "stream_options": { "include_usage": true },
    })
}

/// `count` words; those of another `number` differ from the first or second one on.
pub(super) fn words(number: u32, count: u32) -> String {
    let word = |index: u32| {
        let letter = |index: u32| char::from(b'a' + u8::try_from(index % LETTERS).unwrap_or(0));
        [letter(index / LETTERS), letter(index)].iter().collect::<String>()
    };
    let rest = (2..count).map(|place| word((number.wrapping_mul(131) + place.wrapping_mul(37)) % WORDS));
    [word(number % WORDS), word(number / WORDS)]
        .into_iter()
        .chain(rest)
        .take(count as usize)
        .collect::<Vec<_>>()
        .join(" ")
}
