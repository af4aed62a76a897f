//! The peer in process: a loop over ONNX Runtime's IO binding on the same graph and nothing else. No scheduler, no
//! sampling beyond the likeliest token, no text, no HTTP.
//!
//! Keys and values of each layer are one buffer `[slots, kv_heads, positions, head_size]`, bound as past and as present.
//! A prompt runs on a view of its slot, in chunks; a decode step runs the first `n` slots, each as long as it is.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Context as _, ensure};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::TensorElementType;
use ort::{AsPointer as _, sys};

use crate::Bench;

/// Tokens of one prompt run, as in the server's default.
pub(super) const CHUNK: usize = 256;

/// One row of a decode step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Positions already in the slot.
    pub(super) past: usize,
    pub(super) token: u32,
}

pub(super) struct Bare {
    /// By first slot, number of slots and tokens of each; they point into the buffers below.
    bound: HashMap<(usize, usize, usize), IoBinding>,
    session: Session,
    options: RunOptions,
    memory: MemoryInfo<'static>,
    /// Past and present of each layer's keys and values, and their buffer.
    state: Vec<(CString, CString, Vec<f32>)>,
    ids: Vec<i64>,
    mask: Vec<i64>,
    logits: Vec<f32>,
    positions: usize,
    heads: usize,
    head_size: usize,
    vocab: usize,
}

impl Bare {
    /// Opens `graph` for `slots` sequences of `positions` each.
    pub(super) fn open(
        bench: &Bench,
        graph: &Path,
        threads: usize,
        spinning: bool,
        (slots, positions): (usize, usize),
    ) -> anyhow::Result<Self> {
        let failed = |error: ort::Error<ort::session::builder::SessionBuilder>| anyhow::anyhow!("{error}");
        let session = Session::builder(&bench.onnxruntime()?)?
            .with_intra_threads(threads)
            .map_err(failed)?
            .with_intra_op_spinning(spinning)
            .map_err(failed)?
            .commit_from_file(graph)?;
        let shape = |name: &str| {
            let outlet = session.inputs().iter().chain(session.outputs()).find(|outlet| outlet.name() == name);
            outlet
                .and_then(|outlet| outlet.dtype().tensor_shape())
                .with_context(|| format!("the graph has no `{name}`"))
        };
        let vocab = usize::try_from(shape("logits")?[2])?;
        let heads = usize::try_from(shape("past_key_values.0.key")?[1])?;
        let layers = session.inputs().iter().filter(|input| input.name().ends_with(".key")).count();
        let query = session.inputs().iter().all(|input| input.name() != "position_ids");
        ensure!(query, "the loop knows graphs of GroupQueryAttention only");
        let folder = graph.parent().context("the model's folder")?;
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("genai_config.json"))?)?;
        let head_size = config["model"]["decoder"]["head_size"].as_u64().context("head_size")?;
        let head_size = usize::try_from(head_size)?;
        let mut state = Vec::new();
        for layer in 0..layers {
            for part in ["key", "value"] {
                state.push((
                    CString::new(format!("past_key_values.{layer}.{part}"))?,
                    CString::new(format!("present.{layer}.{part}"))?,
                    vec![0.0; slots * heads * positions * head_size],
                ));
            }
        }
        let tokens = CHUNK.max(slots);
        Ok(Self {
            bound: HashMap::new(),
            options: RunOptions::new()?,
            memory: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?,
            state,
            ids: vec![0; tokens],
            mask: vec![0; slots * positions],
            logits: vec![0.0; tokens * vocab],
            session,
            positions,
            heads,
            head_size,
            vocab,
        })
    }

    /// Runs `prompt` into `slot`, `chunk` tokens at a time; gives the logits of its last position.
    pub(super) fn prefill(&mut self, slot: usize, prompt: &[u32], chunk: usize) -> anyhow::Result<&[f32]> {
        let (mut done, mut last) = (0, 0);
        for tokens in prompt.chunks(chunk.min(CHUNK)) {
            for (id, token) in self.ids.iter_mut().zip(tokens) {
                *id = i64::from(*token);
            }
            done += tokens.len();
            ensure!(done <= self.positions, "a prompt longer than a slot");
            self.mask[..done].fill(1);
            last = tokens.len() - 1;
            self.run((slot, 1, tokens.len()), done)?;
        }
        Ok(&self.logits[last * self.vocab..][..self.vocab])
    }

    /// Runs one token for each of the first slots; gives the logits, row after row.
    pub(super) fn decode(&mut self, rows: &[Row]) -> anyhow::Result<std::slice::ChunksExact<'_, f32>> {
        let longest = rows.iter().map(|row| row.past + 1).max().context("no rows")?;
        ensure!(longest <= self.positions, "a sequence longer than a slot");
        for (place, row) in rows.iter().enumerate() {
            self.ids[place] = i64::from(row.token);
            let (ones, zeros) = self.mask[place * longest..][..longest].split_at_mut(row.past + 1);
            ones.fill(1);
            zeros.fill(0);
        }
        self.run((0, rows.len(), 1), longest)?;
        Ok(self.logits[..rows.len() * self.vocab].chunks_exact(self.vocab))
    }

    fn run(&mut self, (first, rows, length): (usize, usize, usize), width: usize) -> anyhow::Result<()> {
        let key = (first, rows, length);
        let mut binding = match self.bound.remove(&key) {
            Some(binding) => binding,
            None => self.bind(first, rows, length)?,
        };
        let mask = self.view(TensorElementType::Int64, self.mask.as_ptr().cast(), &[rows, width], rows * width * 8)?;
        mask.input(&mut binding, c"attention_mask")?;
        // SAFETY: the session is borrowed mutably, so nothing else runs on it; what is bound points into vectors of ours
        // that are never resized and that nobody else uses meanwhile.
        #[expect(unsafe_code, reason = "the safe call gives outputs as new values")]
        let ran = unsafe {
            ort::Error::result_from_status((ort::api().RunWithBinding)(
                self.session.ptr().cast_mut(),
                self.options.ptr(),
                binding.ptr(),
            ))
        };
        self.bound.insert(key, binding);
        Ok(ran?)
    }

    /// Binds all but the mask for `length` tokens of each of `rows` slots from `first` on.
    fn bind(&self, first: usize, rows: usize, length: usize) -> anyhow::Result<IoBinding> {
        let mut binding = self.session.create_binding()?;
        let slot = self.heads * self.positions * self.head_size;
        let shape = [rows, self.heads, self.positions, self.head_size];
        for (past, present, buffer) in &self.state {
            let rows = &buffer[first * slot..][..rows * slot];
            let view = self.view(TensorElementType::Float32, rows.as_ptr().cast(), &shape, size_of_val(rows))?;
            view.input(&mut binding, past)?;
            view.output(&mut binding, present)?;
        }
        let ids = &self.ids[..rows * length];
        self.view(TensorElementType::Int64, ids.as_ptr().cast(), &[rows, length], size_of_val(ids))?
            .input(&mut binding, c"input_ids")?;
        let logits = &self.logits[..rows * length * self.vocab];
        let shape = [rows, length, self.vocab];
        self.view(TensorElementType::Float32, logits.as_ptr().cast(), &shape, size_of_val(logits))?
            .output(&mut binding, c"logits")?;
        Ok(binding)
    }

    /// A tensor over `bytes` of ours.
    fn view(
        &self,
        element_type: TensorElementType,
        data: *const c_void,
        shape: &[usize],
        bytes: usize,
    ) -> anyhow::Result<View> {
        let shape = shape.iter().map(|&size| i64::try_from(size)).collect::<Result<Vec<_>, _>>()?;
        let mut value = ptr::null_mut();
        // SAFETY: our callers give the bytes of a slice of ours that holds the shape's elements.
        #[expect(unsafe_code, reason = "the same memory as input and as output")]
        unsafe {
            ort::Error::result_from_status((ort::api().CreateTensorWithDataAsOrtValue)(
                self.memory.ptr(),
                data.cast_mut(),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element_type.into(),
                &mut value,
            ))?;
        }
        Ok(View(value))
    }
}

/// A tensor that looks at memory of somebody else.
struct View(*mut sys::OrtValue);

impl View {
    fn input(&self, binding: &mut IoBinding, name: &std::ffi::CStr) -> ort::Result<()> {
        // SAFETY: all three live for the call; the binding takes a reference of its own.
        #[expect(unsafe_code, reason = "the safe call copies")]
        unsafe {
            ort::Error::result_from_status((ort::api().BindInput)(binding.ptr_mut(), name.as_ptr(), self.0))
        }
    }

    fn output(&self, binding: &mut IoBinding, name: &std::ffi::CStr) -> ort::Result<()> {
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "the safe call takes memory of the library only")]
        unsafe {
            ort::Error::result_from_status((ort::api().BindOutput)(binding.ptr_mut(), name.as_ptr(), self.0))
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: made by `Bare::view`, released once.
        #[expect(unsafe_code, reason = "a value made by hand")]
        unsafe {
            (ort::api().ReleaseValue)(self.0);
        }
    }
}

/// The likeliest token; the first of equals. In lanes, which compilers turn into vector instructions.
pub(super) fn likeliest(logits: &[f32]) -> u32 {
    const LANES: usize = 16;
    let mut best = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (best, value) in best.iter_mut().zip(chunk) {
            *best = if *value > *best { *value } else { *best };
        }
    }
    let most = best.into_iter().fold(rest, f32::max);
    let place = logits.iter().position(|value| *value >= most).unwrap_or(0);
    u32::try_from(place).unwrap_or(u32::MAX)
}
