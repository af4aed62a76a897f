//! Models that take token ids: checked texts in, padded tensors out to the model, few runs for many texts.

use std::cmp::Reverse;

use crate::{Dimension, ElementType, Encoding, Error, Model, ModelInfo, Outputs, Role, Tensor, TensorInfo};

/// Positions of one run, padding included: 2048 x 1024 numbers of 4 bytes are 8 MiB of the handler's memory.
const POSITIONS_MAX: usize = 2048;
const ROWS_MAX: usize = 64;

/// A [`Model`] whose inputs are token ids and what goes with them (mask, segment ids, positions).
///
/// ```no_run
/// # use mayfly_sdk::{Error, Model, TokenModel};
/// # fn run(texts: Vec<String>) -> Result<(), Error> {
/// let model = Model::only()?;
/// let tokens = TokenModel::new(&model)?;
/// let rows = tokens.encode(&texts)?;
/// let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
/// for run in tokens.plan(&lengths) {
///     let members: Vec<_> = run.iter().map(|&at| &rows[at]).collect();
///     let (outputs, padded_length) = tokens.run(&members)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TokenModel<'model> {
    model: &'model Model,
    info: &'model ModelInfo,
    pad_id: i64,
    max_tokens: Option<usize>,
    rows_max: usize,
    length_fixed: Option<usize>,
}

impl<'model> TokenModel<'model> {
    /// Reads what `model` takes. Its properties `max_tokens` and `pad_id` (0 if not set) count.
    ///
    /// # Errors
    /// A 500 that says what about the model does not fit.
    pub fn new(model: &'model Model) -> Result<Self, Error> {
        let info = model.info()?;
        let ids = info.input(Role::Ids).ok_or_else(|| unfit(info, "it has no input of token ids"))?;
        let known = [Role::Ids, Role::Mask, Role::TokenTypes, Role::Positions];
        if let Some(other) = info.inputs.iter().find(|input| !known.contains(&input.role)) {
            return Err(unfit(info, &format!("it also wants the input `{}`", other.name)));
        }
        let rows_max = match ids.dimensions.first() {
            Some(Dimension::Fixed(1)) => 1,
            Some(Dimension::Fixed(rows)) => return Err(unfit(info, &format!("it takes exactly {rows} rows a run"))),
            _ => ROWS_MAX,
        };
        let length_fixed = match ids.dimensions.get(1) {
            Some(Dimension::Fixed(length)) => Some(*length),
            _ => None,
        };
        let max_tokens = [info.number::<usize>("max_tokens")?, length_fixed].into_iter().flatten().min();
        let pad_id = info.number("pad_id")?.unwrap_or(0);
        Ok(Self { model, info, pad_id, max_tokens, rows_max, length_fixed })
    }

    /// What the model is.
    pub fn info(&self) -> &'model ModelInfo {
        self.info
    }

    /// The most tokens one row may have, if the model says so.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Token ids of each text, special ones included.
    ///
    /// # Errors
    /// A 400 that counts if a text is over the model's limit, and what [`Tokenizer::encode`](crate::Tokenizer::encode)
    /// gives.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<Encoding>, Error> {
        let tokenizer = self.model.tokenizer();
        // Without a limit of our own the package's applies.
        let limit = self.max_tokens.and_then(|tokens| u32::try_from(tokens).ok());
        let rows = tokenizer.encode(texts, limit)?;
        if rows.len() != texts.len() {
            return Err(Error::internal("the host encoded another number of texts than it was given"));
        }
        if let Some(cut) = rows.iter().position(|row| row.truncated) {
            let tokens = tokenizer.count(&texts[cut..=cut])?.first().copied().unwrap_or(0);
            return Err(too_long(cut, tokens as usize, self.max_tokens.unwrap_or(rows[cut].ids.len())));
        }
        self.check(&rows)?;
        Ok(rows)
    }

    /// Whether the model can take these rows.
    ///
    /// # Errors
    /// A 400 that names the first row that is empty or too long.
    pub fn check(&self, rows: &[Encoding]) -> Result<(), Error> {
        for (at, row) in rows.iter().enumerate() {
            if row.ids.is_empty() {
                return Err(Error::invalid(format!("input[{at}] has no tokens")).with_param("input"));
            }
            if row.token_types.len() != row.ids.len() {
                return Err(unfit(self.info, "ids and segments of a text are of different lengths"));
            }
            if let Some(most) = self.max_tokens.filter(|&most| row.ids.len() > most) {
                return Err(too_long(at, row.ids.len(), most));
            }
        }
        Ok(())
    }

    /// Which rows of these lengths should run together: lists of indices, the longest row of each first. Every row is
    /// in exactly one list.
    ///
    /// No run is more than half padding: the host charges at least a quarter of what a run submits, so a caller pays
    /// for the tokens of its texts and for nothing else.
    pub fn plan(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        plan(lengths, self.rows_max, POSITIONS_MAX)
    }

    /// Runs the model on `rows`, padded on the right; also gives the padded length.
    ///
    /// # Errors
    /// What [`Model::run`] gives.
    pub fn run(&self, rows: &[&Encoding]) -> Result<(Outputs, usize), Error> {
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let length = self.length_fixed.unwrap_or(longest);
        if longest > length {
            return Err(Error::invalid(format!("a row has {longest} tokens; the model takes {length}")));
        }
        let inputs = self
            .info
            .inputs
            .iter()
            .map(|input| Ok((input.name.clone(), self.tensor(input, rows, length)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok((self.model.run(inputs)?, length))
    }

    /// What goes into the model's input `input`.
    fn tensor(&self, input: &TensorInfo, rows: &[&Encoding], length: usize) -> Result<Tensor, Error> {
        let values = padded(input.role, rows, length, self.pad_id);
        let sizes = [rows.len(), length];
        match input.element_type {
            ElementType::I64 => Tensor::from_slice(&values, &sizes),
            ElementType::I32 => {
                let narrow: Result<Vec<i32>, _> = values.iter().map(|&value| i32::try_from(value)).collect();
                let narrow = narrow.map_err(|_| Error::invalid("a token id is too large").with_param("input"))?;
                Tensor::from_slice(&narrow, &sizes)
            }
            #[expect(clippy::cast_precision_loss, reason = "a mask holds 0 and 1")]
            ElementType::F32 if input.role == Role::Mask => {
                Tensor::from_slice(&values.iter().map(|&value| value as f32).collect::<Vec<_>>(), &sizes)
            }
            ElementType::U8 if input.role == Role::Mask => {
                Tensor::from_slice(&values.iter().map(|&value| u8::from(value != 0)).collect::<Vec<_>>(), &sizes)
            }
            other => Err(unfit(self.info, &format!("its input `{}` takes {other:?}", input.name))),
        }
    }
}

fn padded(role: Role, rows: &[&Encoding], length: usize, pad_id: i64) -> Vec<i64> {
    let mut values: Vec<i64> = Vec::with_capacity(rows.len() * length);
    for (at, row) in rows.iter().enumerate() {
        match role {
            Role::Ids => values.extend(row.ids.iter().map(|&id| i64::from(id))),
            Role::TokenTypes => values.extend(row.token_types.iter().map(|&ty| i64::from(ty))),
            Role::Mask => values.extend(std::iter::repeat_n(1, row.ids.len())),
            _ => values.extend((0_i64..).take(length)),
        }
        values.resize((at + 1) * length, if role == Role::Ids { pad_id } else { 0 });
    }
    values
}

fn plan(lengths: &[usize], rows_max: usize, positions_max: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| Reverse(lengths[at]));
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0_usize;
    for at in order {
        match runs.last_mut() {
            Some(run)
                if run.len() < rows_max
                    && longest.saturating_mul(run.len() + 1) <= positions_max
                    && lengths[at] >= longest.div_ceil(2) =>
            {
                run.push(at);
            }
            _ => {
                longest = lengths[at];
                runs.push(vec![at]);
            }
        }
    }
    runs
}

fn too_long(at: usize, tokens: usize, most: usize) -> Error {
    Error::invalid(format!(
        "this model's maximum context length is {most} tokens, but input[{at}] has {tokens}; shorten or split it"
    ))
    .with_param("input")
    .with_code("context_length_exceeded")
}

/// The deployment joins a model and a handler that do not fit.
fn unfit(info: &ModelInfo, reason: &str) -> Error {
    Error::internal(format!("the model `{}` cannot be run on token ids: {reason}", info.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ids: &[u32]) -> Encoding {
        Encoding { ids: ids.to_vec(), token_types: vec![0; ids.len()], truncated: false }
    }

    #[test]
    fn padding_is_on_the_right() {
        let (long, short) = (row(&[5, 6, 7]), row(&[8]));
        let rows = [&long, &short];
        assert_eq!(padded(Role::Ids, &rows, 3, 9), [5, 6, 7, 8, 9, 9]);
        assert_eq!(padded(Role::Mask, &rows, 3, 9), [1, 1, 1, 1, 0, 0]);
        assert_eq!(padded(Role::TokenTypes, &rows, 3, 9), [0; 6]);
        assert_eq!(padded(Role::Positions, &rows, 3, 9), [0, 1, 2, 0, 1, 2]);
        assert_eq!(padded(Role::Ids, &rows, 4, 9), [5, 6, 7, 9, 8, 9, 9, 9]);
    }

    #[test]
    fn every_row_once_and_no_run_over_its_bounds() {
        let lengths: Vec<usize> = (0..500).map(|n| 1 + (n * 7919) % 97).collect();
        let runs = plan(&lengths, 4, 64);
        let mut seen: Vec<usize> = runs.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        for run in runs {
            let longest = lengths[run[0]];
            let kept: usize = run.iter().map(|&at| lengths[at]).sum();
            assert!(run.len() <= 4);
            assert!(run.len() == 1 || longest * run.len() <= 64);
            assert!(kept * 2 >= longest * run.len(), "{run:?} is mostly padding");
        }
    }

    #[test]
    fn alike_rows_share_a_run() {
        assert_eq!(plan(&[5, 6, 5], 4, 64), [vec![1, 0, 2]]);
        assert_eq!(plan(&[5, 60], 4, 640), [vec![1], vec![0]]);
        assert_eq!(plan(&[5, 5], 1, 64), [vec![0], vec![1]]);
        assert!(plan(&[], 4, 64).is_empty());
    }
}
