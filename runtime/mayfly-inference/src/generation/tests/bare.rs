//! A decoder run as plainly as can be: one sequence, its past handed back, no slots, no masks but ones.

use ort::session::Session;

use super::{fixture, stored};
use crate::session::{Options, Source, load};
use crate::{Config, DecoderInfo, Device, ElementType, Tensor};

/// On the CPU, whose answers are the reference.
pub(super) struct Bare {
    session: Session,
    decoder: DecoderInfo,
    past: Vec<(String, Tensor)>,
    length: u32,
}

/// A session of a fixture on `device`, and what it is.
pub(super) fn session_of(layout: &str, device: Device) -> (Session, DecoderInfo) {
    let (package, _folder) = stored(&fixture(layout));
    let session = load(&package.model(device), &options(), Source::Best).unwrap().session;
    (session, package.info().decoder.clone().unwrap())
}

/// The same as an engine has it: it gives logits of the last position only.
pub(super) fn engine_session_of(layout: &str, device: Device) -> (Session, DecoderInfo) {
    let (package, _folder) = stored(&fixture(layout));
    let decoder = package.info().decoder.clone().unwrap();
    let logits = Some(decoder.logits.as_str().into());
    let options = Options { logits, ..options() };
    let loaded = load(&package.model(device), &options, Source::Best).unwrap();
    assert!(loaded.last_position_only && !decoder.last_position_only, "{layout}");
    (loaded.session, DecoderInfo { last_position_only: true, ..decoder })
}

pub(super) fn options() -> Options {
    Options::plain(&Config::default()).unwrap()
}

impl Bare {
    pub(super) fn new(layout: &str) -> Self {
        let (session, decoder) = session_of(layout, Device::Cpu);
        let names = decoder.past.iter().flat_map(|(key, value)| [key.clone(), value.clone()]);
        let empty = Tensor::from_bytes(decoder.kv_type, &[1, decoder.kv_heads, 0, decoder.head_size], &[]).unwrap();
        let past = names.map(|name| (name, empty.clone())).collect();
        Self { session, decoder, past, length: 0 }
    }

    /// Runs `tokens` behind what was run before; gives the last position's logits.
    pub(super) fn run(&mut self, tokens: &[u32]) -> Vec<f32> {
        let total = self.length + tokens.len() as u32;
        let ints = |values: Vec<i64>| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Tensor::from_bytes(ElementType::I64, &[1, values.len() as u32], &bytes).unwrap()
        };
        let mut given = self.past.clone();
        let inputs = &self.decoder.inputs;
        given.push((inputs.ids.clone(), ints(tokens.iter().map(|token| i64::from(*token)).collect())));
        given.push((inputs.mask.clone().unwrap(), ints(vec![1; total as usize])));
        if let Some(name) = &inputs.positions {
            given.push((name.clone(), ints((i64::from(self.length)..i64::from(total)).collect())));
        }
        let values: Vec<_> = given.iter().map(|(name, tensor)| (name.as_str(), tensor.as_input().unwrap())).collect();
        let mut logits = Vec::new();
        let names: Vec<_> = self.decoder.present.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
        for (name, value) in self.session.run(values).unwrap() {
            let tensor = Tensor::from_output(value, &given).unwrap();
            if name == self.decoder.logits {
                let all = floats(&tensor);
                logits = all[all.len() - self.decoder.vocab as usize..].to_vec();
            } else {
                let place = names.iter().position(|present| present == name).unwrap();
                self.past[place].1 = tensor;
            }
        }
        self.length = total;
        logits
    }

    /// Runs `prompt` and goes on greedily for `count` tokens.
    pub(super) fn greedy(&mut self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut tokens = vec![likeliest(&self.run(prompt))];
        while tokens.len() < count {
            let last = *tokens.last().unwrap();
            tokens.push(likeliest(&self.run(&[last])));
        }
        tokens
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let bytes = tensor.bytes();
    match tensor.element_type() {
        ElementType::F16 => {
            bytes.chunks_exact(2).map(|bytes| half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f32()).collect()
        }
        _ => bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect(),
    }
}

/// The likeliest token, the lowest of several.
pub(super) fn likeliest(logits: &[f32]) -> u32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == most).unwrap() as u32
}

/// The largest difference of two rows.
pub(super) fn difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}
