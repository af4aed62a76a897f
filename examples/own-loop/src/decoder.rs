//! One sequence on a decoder graph: token ids go in, scores of the next token come out.
//!
//! The attention state (`present.*`) is handed back as `past_key_values.*` with the next run. It stays at the host as a
//! tensor handle: it is not copied, and the handler never sees it.

use mayfly_sdk::{Dimension, Error, Model, ModelInfo, Outputs, Role, Tensor, TensorInfo};

pub(crate) struct Decoder<'model> {
    model: &'model Model,
    info: &'model ModelInfo,
    /// The state so far, one for each input of the role past, in their order.
    past: Vec<Tensor>,
    /// Positions that the state covers.
    length: usize,
}

impl<'model> Decoder<'model> {
    /// A sequence of no tokens.
    pub(crate) fn new(model: &'model Model) -> Result<Self, Error> {
        let info = model.info()?;
        let (past, present) = (pasts(info).count(), presents(info).count());
        if past == 0 || past != present {
            let why = format!("it has {past} inputs and {present} outputs of attention state");
            return Err(Error::internal(format!("the model `{}` is no decoder: {why}", info.name)));
        }
        let past = pasts(info).map(nothing).collect::<Result<_, _>>()?;
        Ok(Self { model, info, past, length: 0 })
    }

    /// Runs `tokens` behind what was run before.
    pub(crate) fn run(&mut self, tokens: &[u32]) -> Result<Outputs, Error> {
        let (info, total) = (self.info, self.length + tokens.len());
        let mut past = std::mem::take(&mut self.past).into_iter();
        let mut inputs = Vec::with_capacity(info.inputs.len());
        for input in &info.inputs {
            let tensor = match input.role {
                Role::Past => past.next(),
                Role::Ids => Some(row(tokens.iter().map(|&token| i64::from(token)))?),
                // Also of the positions in the state.
                Role::Mask => Some(row(std::iter::repeat_n(1, total))?),
                Role::Positions => Some(row((0..).take(total).skip(self.length))?),
                _ => None,
            };
            let tensor = tensor.ok_or_else(|| Error::internal(format!("nothing to give to `{}`", input.name)))?;
            inputs.push((input.name.as_str(), tensor));
        }
        let mut outputs = self.model.run(inputs)?;
        self.past = presents(info).map(|output| outputs.take(&output.name)).collect::<Result<_, _>>()?;
        self.length = total;
        Ok(outputs)
    }

    /// The score of each token of the vocabulary behind the last position. Reading scores is what makes an output token:
    /// those of a prompt's pieces are left alone and cost nothing.
    pub(crate) fn scores(&self, outputs: &Outputs) -> Result<Vec<f32>, Error> {
        let logits = self.info.outputs.iter().find(|output| output.role == Role::Logits);
        let logits = logits.ok_or_else(|| Error::internal("this model has no logits"))?;
        let logits = outputs.get(&logits.name)?;
        let vocabulary = logits.dimensions().last().copied().unwrap_or(0);
        // One position, unless the deployment's model gives out all.
        let data = logits.data();
        Ok(data.as_f32()?.rchunks_exact(vocabulary.max(1)).next().unwrap_or(&[]).to_vec())
    }
}

fn pasts(info: &ModelInfo) -> impl Iterator<Item = &TensorInfo> {
    info.inputs.iter().filter(|input| input.role == Role::Past)
}

/// In the order of the pasts.
fn presents(info: &ModelInfo) -> impl Iterator<Item = &TensorInfo> {
    info.outputs.iter().filter(|output| output.role == Role::Present)
}

/// One sequence of numbers: a batch of one.
fn row(numbers: impl Iterator<Item = i64>) -> Result<Tensor, Error> {
    let numbers: Vec<i64> = numbers.collect();
    Tensor::from_slice(&numbers, &[1, numbers.len()])
}

/// The state of no positions: `[1, heads, 0, head size]`. The host knows heads and head size of every decoder.
fn nothing(input: &TensorInfo) -> Result<Tensor, Error> {
    let [_, Dimension::Fixed(heads), _, Dimension::Fixed(size)] = input.dimensions[..] else {
        return Err(Error::internal(format!("the heads or the head size of `{}` are not known", input.name)));
    };
    Tensor::from_bytes(&[], input.element_type, &[1, heads, 0, size])
}
