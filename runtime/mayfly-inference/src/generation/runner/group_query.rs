//! Graphs of GroupQueryAttention: past and present are the same memory, several sequences of any length share a run.
//!
//! Each layer's keys (and values) are one buffer `[slots, kv_heads, context, head_size]`. A decode step of `n` rows binds
//! its first `n` slots; a prompt chunk binds the one slot it belongs to, which is contiguous. The graph reads from the
//! mask how long each row is (its sum) and how long the longest is (its width): ones first, zeros behind.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;

use half::f16;
use ort::memory::MemoryInfo;
use ort::session::{RunOptions, Session};
use ort::value::TensorElementType;

use super::binding::{Binding, View, host_memory, name};
use super::memory::Elements;
use super::{DecodeRow, Runner, RunnerLimits, float_type, output_type, run_options};
use crate::generation::kv::{KvBuffers, Placement, SlotShape};
use crate::library::Library;
use crate::{DecoderInfo, ElementType};

pub(super) struct GroupQuery {
    /// By first slot and number of slots: bound on first use, dropped before the memory they look at.
    bound: HashMap<(u32, u32), Bound>,
    session: Session,
    options: RunOptions,
    graph: Graph,
    host: MemoryInfo<'static>,
    kv: KvBuffers,
    ids: Elements<i64>,
    positions: Elements<i64>,
    mask: Elements<i64>,
    logits: Logits,
    /// What the last run left in the logits: rows, and positions of each.
    shown: (usize, usize),
    /// Positions of each slot whose memory is in use.
    touched: Vec<u32>,
}

/// Names and sizes of the graph.
#[derive(Debug)]
struct Graph {
    ids: CString,
    mask: CString,
    positions: Option<CString>,
    logits: CString,
    /// Past and present, keys and values, in the order of the buffers.
    state: Vec<(CString, CString)>,
    state_type: TensorElementType,
    heads: i64,
    context: i64,
    head_size: i64,
    vocab: usize,
    last_position_only: bool,
    token_bytes: u64,
}

/// A binding to some slots.
#[derive(Debug)]
struct Bound {
    binding: Binding,
    /// Positions of each row that inputs and logits are bound for.
    length: Option<usize>,
}

#[derive(Debug)]
enum Logits {
    F32(Elements<f32>),
    /// As the graph gives them, and one row of them for whoever samples.
    F16(Elements<f16>, Vec<f32>),
}

impl Logits {
    fn new(element_type: ElementType, len: usize, vocab: usize) -> io::Result<Self> {
        Ok(match element_type {
            ElementType::F16 => Self::F16(Elements::new(len)?, vec![0.0; vocab]),
            _ => Self::F32(Elements::new(len)?),
        })
    }

    fn view(&mut self, len: usize) -> (TensorElementType, *mut u8) {
        match self {
            Self::F32(elements) => (TensorElementType::Float32, elements.view(len)),
            Self::F16(elements, _) => (TensorElementType::Float16, elements.view(len)),
        }
    }

    fn row(&mut self, start: usize, len: usize) -> &mut [f32] {
        match self {
            Self::F32(elements) => &mut elements.slice(start + len)[start..],
            Self::F16(elements, row) => {
                for (to, from) in row.iter_mut().zip(&elements.slice(start + len)[start..]) {
                    *to = from.to_f32();
                }
                row
            }
        }
    }

    fn forget(&mut self) {
        match self {
            Self::F32(elements) => elements.forget(),
            Self::F16(elements, _) => elements.forget(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::F32(elements) => elements.bytes(),
            Self::F16(elements, _) => elements.bytes(),
        }
    }
}

impl Graph {
    fn new(decoder: &DecoderInfo, context: u32) -> Result<Self, String> {
        let named = |text: &str| name(text).map_err(|error| error.to_string());
        let mask = decoder.inputs.mask.as_deref().ok_or("a GroupQueryAttention graph without a mask has no lengths")?;
        let mut state = Vec::new();
        for (past, present) in decoder.past.iter().zip(&decoder.present) {
            state.push((named(&past.0)?, named(&present.0)?));
            state.push((named(&past.1)?, named(&present.1)?));
        }
        let head_bytes = u64::from(decoder.head_size) * decoder.kv_type.size() as u64;
        Ok(Self {
            ids: named(&decoder.inputs.ids)?,
            mask: named(mask)?,
            positions: decoder.inputs.positions.as_deref().map(named).transpose()?,
            logits: named(&decoder.logits)?,
            token_bytes: head_bytes * u64::from(decoder.kv_heads) * state.len() as u64,
            state,
            state_type: float_type(decoder.kv_type)?,
            heads: decoder.kv_heads.into(),
            context: context.into(),
            head_size: decoder.head_size.into(),
            vocab: decoder.vocab as usize,
            last_position_only: decoder.last_position_only,
        })
    }
}

impl GroupQuery {
    pub(super) fn new(
        session: Session,
        decoder: &DecoderInfo,
        placement: Placement,
        library: &Library,
        limits: RunnerLimits,
    ) -> Result<Self, String> {
        let graph = Graph::new(decoder, limits.context)?;
        let (slots, context) = (limits.slots as usize, limits.context as usize);
        let tokens = slots.max(limits.chunk_max as usize);
        let positions = if graph.last_position_only { slots } else { tokens };
        let logits_type = output_type(&session, &decoder.logits)?;
        let shape = SlotShape {
            slots,
            heads: decoder.kv_heads as usize,
            positions: context,
            head_bytes: decoder.head_size as usize * decoder.kv_type.size(),
        };
        let too_large = |error: io::Error| format!("no address space for its attention state and logits: {error}");
        let kv = match placement {
            Placement::Host => KvBuffers::new(graph.state.len(), shape).map_err(too_large)?,
            Placement::Device(device) => KvBuffers::on_device(&session, device, library, graph.state.len(), shape)
                .map_err(|error| format!("no memory on `{device}` for its attention state: {error}"))?,
        };
        let elements = |len: usize| Elements::new(len).map_err(too_large);
        let mask = slots.checked_mul(context).ok_or("a context that large cannot be held")?;
        let values = positions.checked_mul(graph.vocab).ok_or("a vocabulary that large cannot be held")?;
        Ok(Self {
            bound: HashMap::new(),
            session,
            options: run_options().map_err(|error| error.to_string())?,
            host: host_memory().map_err(|error| error.to_string())?,
            kv,
            ids: elements(tokens)?,
            positions: elements(tokens)?,
            mask: elements(mask)?,
            logits: Logits::new(logits_type, values, graph.vocab).map_err(too_large)?,
            graph,
            shown: (0, 0),
            touched: vec![0; slots],
        })
    }

    /// Runs the `ids` that were written for slots `first..first + rows`, `length` of each; `width` is that of the mask.
    fn run(&mut self, first: u32, rows: u32, length: usize, width: usize) -> ort::Result<()> {
        let key = (first, rows);
        let mut bound = match self.bound.remove(&key) {
            Some(bound) => bound,
            None => self.bind_state(first, rows)?,
        };
        // What is bound from another memory than the session's is copied there and then: anew for each run.
        if bound.length != Some(length) || self.kv.device_memory().is_some() {
            self.bind_length(&mut bound.binding, rows, length)?;
            bound.length = Some(length);
        }
        let count = rows as usize * width;
        let view = self.ints(self.mask.as_view(count), &[rows.into(), signed(width)])?;
        bound.binding.input(&self.graph.mask, &view)?;
        let ran = bound.binding.run(&mut self.session, &self.options);
        self.bound.insert(key, bound);
        ran?;
        self.shown = (rows as usize, if self.graph.last_position_only { 1 } else { length });
        Ok(())
    }

    /// Binds the state of slots `first..first + rows` as past and as present.
    fn bind_state(&mut self, first: u32, rows: u32) -> ort::Result<Bound> {
        let mut binding = Binding::new(&self.session)?;
        let shape = [rows.into(), self.graph.heads, self.graph.context, self.graph.head_size];
        assert!((first + rows) as usize <= self.touched.len(), "slots of ours");
        let memory = self.kv.device_memory().unwrap_or(&self.host);
        for (index, (past, present)) in self.graph.state.iter().enumerate() {
            let data = self.kv.slot(index, first as usize);
            // SAFETY: `rows` slots from `first` on lie within the buffer (checked); it is mapped as long as we are, and
            // bindings go before it; nobody else uses it while a run is under way, which has `&mut self`. One view is
            // input and output at once: GroupQueryAttention writes new positions only, and knows that by the address.
            #[expect(unsafe_code, reason = "see runner/binding.rs")]
            let view = unsafe { View::new(memory, self.graph.state_type, data, &shape)? };
            binding.input(past, &view)?;
            binding.output(present, &view)?;
        }
        Ok(Bound { binding, length: None })
    }

    /// Binds inputs and logits for `length` positions of each row.
    fn bind_length(&mut self, binding: &mut Binding, rows: u32, length: usize) -> ort::Result<()> {
        let count = rows as usize * length;
        let shape = [i64::from(rows), signed(length)];
        binding.input(&self.graph.ids, &self.ints(self.ids.as_view(count), &shape)?)?;
        if let Some(name) = &self.graph.positions {
            binding.input(name, &self.ints(self.positions.as_view(count), &shape)?)?;
        }
        let length = if self.graph.last_position_only { 1 } else { length };
        let (element_type, data) = self.logits.view(rows as usize * length * self.graph.vocab);
        let shape = [i64::from(rows), signed(length), signed(self.graph.vocab)];
        // SAFETY: the memory has room for the elements (checked by `view`), is mapped as long as we are, and is read only
        // between runs.
        #[expect(unsafe_code, reason = "see runner/binding.rs")]
        let view = unsafe { View::new(&self.host, element_type, data, &shape)? };
        binding.output(&self.graph.logits, &view)
    }

    /// A view of integers of ours.
    fn ints(&self, data: *mut u8, shape: &[i64]) -> ort::Result<View> {
        // SAFETY: `data` comes from `Elements::as_view` with as many elements as the shape has; mapped as long as we are,
        // written only between runs.
        #[expect(unsafe_code, reason = "see runner/binding.rs")]
        unsafe {
            View::new(&self.host, TensorElementType::Int64, data, shape)
        }
    }

    fn touch(&mut self, slot: u32, end: usize) {
        let touched = &mut self.touched[slot as usize];
        *touched = (*touched).max(u32::try_from(end).unwrap_or(u32::MAX));
    }
}

impl Runner for GroupQuery {
    fn prefill(&mut self, slot: u32, start: u32, tokens: &[u32]) -> ort::Result<()> {
        self.shown = (0, 0);
        let total = start as usize + tokens.len();
        check_room(total, self.graph.context)?;
        for (place, (token, id)) in tokens.iter().zip(self.ids.slice(tokens.len())).enumerate() {
            *id = i64::from(*token);
            self.positions.slice(tokens.len())[place] = i64::from(start) + signed(place);
        }
        self.mask.slice(total).fill(1);
        self.touch(slot, total);
        self.run(slot, 1, tokens.len(), total)
    }

    fn decode(&mut self, rows: &[DecodeRow]) -> ort::Result<()> {
        if let [row] = rows {
            // Alone it may be in any slot.
            return self.prefill(row.slot, row.past, &[row.token]);
        }
        self.shown = (0, 0);
        let longest = rows.iter().map(|row| row.past).max().map_or(0, |past| past as usize + 1);
        check_room(longest, self.graph.context)?;
        let ids = self.ids.slice(rows.len());
        let positions = self.positions.slice(rows.len());
        let mask = self.mask.slice(rows.len() * longest);
        for (place, row) in rows.iter().enumerate() {
            assert_eq!(row.slot as usize, place, "rows are the first slots in their order");
            ids[place] = i64::from(row.token);
            positions[place] = i64::from(row.past);
            let (ones, zeros) = mask[place * longest..][..longest].split_at_mut(row.past as usize + 1);
            ones.fill(1);
            zeros.fill(0);
            let touched = &mut self.touched[place];
            *touched = (*touched).max(row.past + 1);
        }
        let count = u32::try_from(rows.len()).map_err(|_| ort::Error::new("more rows than slots"))?;
        self.run(0, count, 1, longest)
    }

    fn logits(&mut self, row: usize) -> ort::Result<&mut [f32]> {
        let (rows, length) = self.shown;
        if row >= rows {
            return Err(ort::Error::new("the last run gave no such row"));
        }
        let vocab = self.graph.vocab;
        Ok(self.logits.row((row * length + length - 1) * vocab, vocab))
    }

    fn copy(&mut self, from: u32, to: u32, positions: u32) -> ort::Result<()> {
        self.kv.copy(from as usize, to as usize, positions as usize)?;
        self.touch(to, positions as usize);
        Ok(())
    }

    fn release(&mut self, slot: u32) {
        self.kv.release(slot as usize);
        self.touched[slot as usize] = 0;
    }

    fn rest(&mut self) {
        self.logits.forget();
        self.mask.forget();
        self.shown = (0, 0);
    }

    fn bytes(&self) -> u64 {
        let tokens: u64 = self.touched.iter().map(|touched| u64::from(*touched)).sum();
        let state = self.kv.fixed_bytes().unwrap_or(tokens * self.graph.token_bytes);
        state + self.logits.bytes() + self.mask.bytes()
    }
}

fn check_room(total: usize, context: i64) -> ort::Result<()> {
    if signed(total) > context {
        return Err(ort::Error::new(format!("{total} positions do not fit into a slot of {context}")));
    }
    Ok(())
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
