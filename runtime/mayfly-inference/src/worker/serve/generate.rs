//! A generation in a worker: the engine's chunks go to the server as they come, and count as read once it says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::data::input;
use super::{Word, Worker};
use crate::session::Request;
use crate::worker::faults;
use crate::worker::message::{Fault, FromWorker, OPTIONS, Order, TOKENS, encode, short};
use crate::worker::piece::packets;
use crate::{Generation, GenerationAccount, GenerationRequest};

impl Worker {
    pub(super) async fn generate(
        &self,
        order: &Order,
        given: &Request,
        choices: u32,
        reuse: Option<[u8; 32]>,
        cancel: &CancellationToken,
        mut heard: mpsc::UnboundedReceiver<Word>,
    ) -> Result<(), Fault> {
        let failed = |error: &dyn std::fmt::Display| Fault::Failed(short(&error.to_string()));
        let (prompt, _) = input(given, TOKENS)?.as_chunks::<4>();
        let package = self.package(order.package)?;
        let request = GenerationRequest {
            prompt: prompt.iter().map(|token| u32::from_le_bytes(*token)).collect(),
            options: serde_json::from_slice(input(given, OPTIONS)?).map_err(|error| failed(&error))?,
            choices,
            // All that runs here is one tenant's.
            owner: 0,
            reuse,
            deadline: Instant::now() + Duration::from_millis(order.timeout_ms),
            cancel: cancel.clone(),
            account: Arc::new(Told { run: order.run, out: self.out.clone() }),
        };
        let started = self.inference.generate(&package, self.begin.device, request).await;
        let mut generation = started.map_err(faults::of_generation)?;
        self.say(&FromWorker::Admitted { run: order.run }, &[]);
        let mut read = vec![0; choices as usize];
        loop {
            let chunk = tokio::select! {
                biased;
                Some(word) = heard.recv() => {
                    obey(word, &generation, &mut read);
                    continue;
                }
                chunk = generation.next_unread() => chunk.map_err(faults::of_generation)?,
            };
            let Some(chunk) = chunk else { return Ok(()) };
            for packet in packets(order.run, &chunk).map_err(|error| failed(&error))? {
                let _ = self.out.send(packet);
            }
        }
    }
}

fn obey(word: Word, generation: &Generation, read: &mut [u32]) {
    match word {
        Word::Cancel => generation.cancel(),
        Word::EndChoice(choice) => generation.end_choice(choice),
        Word::Read(tokens) => {
            for (choice, all) in tokens {
                if let Some(read) = read.get_mut(choice as usize) {
                    generation.read(choice, all.saturating_sub(*read) as usize);
                    *read = all.max(*read);
                }
            }
        }
    }
}

/// Tells the server when the prompt begins to run. What it costs is counted there.
#[derive(Debug)]
struct Told {
    run: u64,
    out: mpsc::UnboundedSender<Vec<u8>>,
}

impl GenerationAccount for Told {
    fn input(&self, _fresh: u32, cached: u32) {
        if let Ok(packet) = encode(&FromWorker::Prefill { run: self.run, cached }, &[]) {
            let _ = self.out.send(packet);
        }
    }

    fn output(&self, _tokens: u32) {}

    fn ran(&self, _time: Duration) {}
}
