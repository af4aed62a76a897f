//! Graphs that give `present` as `past` with the new positions behind it: one sequence a run, and what a run gives is
//! what the next one takes, without a copy, where the session runs.

use std::borrow::Cow;
use std::collections::HashMap;

use half::f16;
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, TensorElementType};

use super::held::{DeviceSide, Held};
use super::{DecodeRow, Runner, RunnerLimits, float_type, output_type, run_options};
use crate::generation::kv::Placement;
use crate::library::Library;
use crate::{DecoderInfo, Tensor};

pub(super) struct Concatenated {
    session: Session,
    options: RunOptions,
    /// Where the session runs on a device.
    device: Option<DeviceSide>,
    ids: String,
    mask: Option<String>,
    positions: Option<String>,
    /// What each output of the graph is, by name.
    outputs: HashMap<String, Output>,
    /// A slot's state before its first position.
    empty: Vec<(String, Held)>,
    slots: Vec<Slot>,
    vocab: usize,
    last_position_only: bool,
    token_bytes: u64,
    logits: Option<DynValue>,
    /// Positions in the logits.
    shown: usize,
    /// One row of logits, for graphs that give another type.
    row: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
enum Output {
    Logits,
    /// Goes to this place of the past.
    Present(usize),
}

/// The attention state of one slot.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// The inputs of the past, `[1, kv_heads, positions, head_size]` each; none for no positions.
    state: Vec<(String, Held)>,
    positions: u32,
}

impl Concatenated {
    pub(super) fn new(
        session: Session,
        decoder: &DecoderInfo,
        placement: Placement,
        library: &Library,
        limits: RunnerLimits,
    ) -> ort::Result<Self> {
        let wrong = |text: String| ort::Error::new(text);
        float_type(decoder.kv_type).map_err(wrong)?;
        output_type(&session, &decoder.logits).map_err(wrong)?;
        let past: Vec<String> = decoder.past.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
        let present = decoder.present.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).enumerate();
        let mut outputs: HashMap<String, Output> =
            present.map(|(place, name)| (name, Output::Present(place))).collect();
        outputs.insert(decoder.logits.clone(), Output::Logits);
        let empty = Tensor::from_bytes(decoder.kv_type, &[1, decoder.kv_heads, 0, decoder.head_size], &[]);
        let empty = empty.map_err(|error| ort::Error::new(error.to_string()))?;
        let head_bytes = u64::from(decoder.head_size) * decoder.kv_type.size() as u64;
        Ok(Self {
            session,
            options: run_options()?,
            device: match placement {
                Placement::Host => None,
                Placement::Device(device) => Some(DeviceSide::new(device, library)?),
            },
            ids: decoder.inputs.ids.clone(),
            mask: decoder.inputs.mask.clone(),
            positions: decoder.inputs.positions.clone(),
            outputs,
            token_bytes: head_bytes * u64::from(decoder.kv_heads) * past.len() as u64,
            empty: past.into_iter().map(|name| (name, Held::Host(empty.clone()))).collect(),
            slots: vec![Slot::default(); limits.slots as usize],
            vocab: decoder.vocab as usize,
            last_position_only: decoder.last_position_only,
            logits: None,
            shown: 0,
            row: Vec::new(),
        })
    }

    fn run(&mut self, slot: u32, start: u32, tokens: &[u32]) -> ort::Result<()> {
        self.shown = 0;
        self.logits = None;
        let slot = slot as usize;
        self.slots[slot].cut(start, self.device.as_mut())?;
        // A run that fails leaves nothing of it.
        let Slot { state, .. } = std::mem::take(&mut self.slots[slot]);
        let state = if state.is_empty() { self.empty.clone() } else { state };
        let past = i64::from(start);
        let new: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let places: Vec<i64> = (past..).take(tokens.len()).collect();
        let total = start as usize + tokens.len();
        let ones = vec![1_i64; total];
        let mut inputs = Vec::with_capacity(state.len() + 3);
        for (name, held) in &state {
            inputs.push((Cow::from(name.as_str()), held.as_input()?));
        }
        let ints = |values: &[i64]| ort::value::Tensor::from_array(([1, values.len()], values.to_vec()));
        inputs.push((self.ids.as_str().into(), ints(&new)?.into()));
        if let Some(name) = &self.mask {
            inputs.push((name.as_str().into(), ints(&ones)?.into()));
        }
        if let Some(name) = &self.positions {
            inputs.push((name.as_str().into(), ints(&places)?.into()));
        }
        let mut next: Vec<Option<Held>> = vec![None; state.len()];
        let mut logits = None;
        let binding = match &self.device {
            None => None,
            Some(device) => {
                let kept = |name: &String| matches!(self.outputs.get(name), Some(Output::Present(_)));
                Some(device.bind(&self.session, &inputs, self.outputs.keys().map(|name| (name, kept(name))))?)
            }
        };
        let values = match &binding {
            None => self.session.run_with_options(inputs, &self.options)?,
            Some(binding) => self.session.run_binding_with_options(binding, &self.options)?,
        };
        for (name, value) in values {
            match self.outputs.get(name) {
                Some(Output::Logits) => logits = Some(value),
                Some(Output::Present(place)) => {
                    let held = match self.device {
                        None => Held::of_output(value, &state),
                        Some(_) => Held::of_device(value),
                    };
                    next[*place] = Some(held.map_err(|error| wrong(name, &error))?);
                }
                None => {}
            }
        }
        let renewed = state.into_iter().zip(next).map(|((name, _), held)| Some((name, held?)));
        let state: Option<Vec<(String, Held)>> = renewed.collect();
        let state = state.ok_or_else(|| ort::Error::new("a run gave no attention state"))?;
        let positions = u32::try_from(total).map_err(|_| ort::Error::new("more positions than fit"))?;
        if let Some((_, held)) = state.iter().find(|(_, held)| held.positions() != Some(positions)) {
            let came = held.positions();
            return Err(ort::Error::new(format!("attention state of {positions} positions came with {came:?}")));
        }
        self.slots[slot] = Slot { state, positions };
        self.logits = logits;
        self.shown = if self.last_position_only { 1 } else { tokens.len() };
        Ok(())
    }
}

impl Slot {
    /// Keeps the first `positions` only.
    fn cut(&mut self, positions: u32, mut device: Option<&mut DeviceSide>) -> ort::Result<()> {
        if positions > self.positions {
            return Err(ort::Error::new(format!("a slot of {} positions has no {positions}", self.positions)));
        }
        if positions == 0 {
            *self = Self::default();
        } else if positions < self.positions {
            let cut = |(name, held): &(String, Held)| {
                Ok((name.clone(), held.first_positions(positions, device.as_deref_mut())?))
            };
            *self = Self { state: self.state.iter().map(cut).collect::<ort::Result<_>>()?, positions };
        }
        Ok(())
    }
}

impl Runner for Concatenated {
    fn prefill(&mut self, slot: u32, start: u32, tokens: &[u32]) -> ort::Result<()> {
        self.run(slot, start, tokens)
    }

    fn decode(&mut self, rows: &[DecodeRow]) -> ort::Result<()> {
        match rows {
            [row] => self.run(row.slot, row.past, &[row.token]),
            _ => Err(ort::Error::new("this graph runs one sequence at a time")),
        }
    }

    fn logits(&mut self, row: usize) -> ort::Result<&mut [f32]> {
        let last = self.shown.checked_sub(1).filter(|_| row == 0);
        let (Some(last), Some(logits)) = (last, &mut self.logits) else {
            return Err(ort::Error::new("the last run gave no such row"));
        };
        let range = last * self.vocab..(last + 1) * self.vocab;
        let short = || ort::Error::new("the logits are not as wide as the vocabulary");
        if *logits.data_type() == TensorElementType::Float16 {
            let (_, values) = logits.try_extract_tensor::<f16>()?;
            self.row.clear();
            self.row.extend(values.get(range).ok_or_else(short)?.iter().map(|value| value.to_f32()));
            return Ok(&mut self.row);
        }
        let (_, values) = logits.try_extract_tensor_mut::<f32>()?;
        values.get_mut(range).ok_or_else(short)
    }

    fn copy(&mut self, from: u32, to: u32, positions: u32) -> ort::Result<()> {
        // Shared where it is whole: nobody ever writes to it.
        let mut copy = self.slots[from as usize].clone();
        copy.cut(positions, self.device.as_mut())?;
        self.slots[to as usize] = copy;
        Ok(())
    }

    fn release(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::default();
    }

    fn rest(&mut self) {
        self.logits = None;
        self.shown = 0;
    }

    fn bytes(&self) -> u64 {
        let tokens: u64 = self.slots.iter().map(|slot| u64::from(slot.positions)).sum();
        tokens * self.token_bytes
    }
}

fn wrong(name: &str, error: &dyn std::fmt::Display) -> ort::Error {
    ort::Error::new(format!("output `{name}` {error}"))
}
