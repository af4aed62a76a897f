//! The model as an encoder: how its output is read, and running inputs through it.

use mayfly_sdk::{Encoding, Error, Model, Outputs, Tensor, TokenModel};

use crate::input::Inputs;
use crate::pool::{Pooling, normalize};

/// A model that turns token ids into vectors.
pub(crate) struct Encoder<'model> {
    tokens: TokenModel<'model>,
    pooling: Pooling,
    normalize: bool,
}

impl<'model> Encoder<'model> {
    /// Reads what `model` is; its properties `pooling` (else `mean`) and `normalize` (else `true`) count.
    ///
    /// # Errors
    /// A 500 that says what about the model does not fit.
    pub(crate) fn new(model: &'model Model) -> Result<Self, Error> {
        let tokens = TokenModel::new(model)?;
        let pooling = tokens.info().property("pooling").unwrap_or("mean");
        let pooling = Pooling::from_property(pooling)
            .ok_or_else(|| unfit(&tokens, &format!("its pooling `{pooling}` is not mean, cls, last or max")))?;
        let normalize = tokens.info().property("normalize") != Some("false");
        Ok(Self { tokens, pooling, normalize })
    }

    /// One vector for each input, in their order, and how many tokens they were.
    ///
    /// # Errors
    /// 400 for an input that is too long or more `dimensions` than the model has; what running the model gives.
    pub(crate) fn embed(&self, inputs: Inputs, dimensions: Option<usize>) -> Result<(Vec<Vec<f32>>, usize), Error> {
        if let (Some(asked), Some(width)) = (dimensions, self.tokens.info().number::<usize>("dimensions")?) {
            check_dimensions(asked, width)?;
        }
        let rows = match inputs {
            Inputs::Texts(texts) => self.tokens.encode(&texts)?,
            Inputs::Ids(lists) => {
                let row = |ids: Vec<u32>| Encoding { token_types: vec![0; ids.len()], ids, truncated: false };
                let rows: Vec<Encoding> = lists.into_iter().map(row).collect();
                self.tokens.check(&rows)?;
                rows
            }
        };
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let mut vectors = vec![Vec::new(); rows.len()];
        for run in self.tokens.plan(&lengths) {
            let members: Vec<&Encoding> = run.iter().map(|&at| &rows[at]).collect();
            for (at, vector) in run.into_iter().zip(self.run(&members, dimensions)?) {
                vectors[at] = vector;
            }
        }
        Ok((vectors, lengths.iter().sum()))
    }

    /// One run of the model: a vector for each row.
    fn run(&self, rows: &[&Encoding], dimensions: Option<usize>) -> Result<Vec<Vec<f32>>, Error> {
        let (outputs, length) = self.tokens.run(rows)?;
        let (name, output) = self.output(&outputs)?;
        let sizes = output.dimensions();
        let (per_token, width) = match *sizes.as_slice() {
            [n, l, width] if n == rows.len() && l == length && width > 0 => (true, width),
            [n, width] if n == rows.len() && width > 0 => (false, width),
            _ => return Err(unfit(&self.tokens, &format!("its output `{name}` has the dimensions {sizes:?}"))),
        };
        if let Some(asked) = dimensions {
            check_dimensions(asked, width)?;
        }
        let data = output.data();
        let values = data.as_f32()?;
        values
            .chunks_exact(if per_token { length * width } else { width })
            .zip(rows)
            .map(|(values, row)| {
                let mut vector = match per_token {
                    true => self.pooling.pool(&values[..row.ids.len() * width], width),
                    false => values.to_vec(),
                };
                vector.truncate(dimensions.unwrap_or(width));
                let fine = match self.normalize || dimensions.is_some() {
                    true => normalize(&mut vector),
                    false => vector.iter().all(|value| value.is_finite()),
                };
                fine.then_some(vector).ok_or_else(|| Error::internal("the model gave a vector without a length"))
            })
            .collect()
    }

    /// The output to read: a whole text's vector if the graph pools itself, else the tokens' vectors.
    fn output<'o>(&self, outputs: &'o Outputs) -> Result<(&'o str, &'o Tensor), Error> {
        let infos = &self.tokens.info().outputs;
        let rank = |name: &str| infos.iter().find(|info| info.name == name).map_or(0, |info| info.dimensions.len());
        let by_name = |wanted: &str| outputs.iter().find(|(name, _)| *name == wanted);
        by_name("sentence_embedding")
            .or_else(|| by_name("text_embeds"))
            .or_else(|| by_name("last_hidden_state"))
            .or_else(|| by_name("token_embeddings"))
            .or_else(|| outputs.iter().find(|(name, _)| rank(name) == 3))
            .or_else(|| outputs.iter().find(|(name, _)| rank(name) == 2))
            .ok_or_else(|| unfit(&self.tokens, "it has no output of two or three dimensions"))
    }
}

fn check_dimensions(asked: usize, width: usize) -> Result<(), Error> {
    if asked <= width {
        return Ok(());
    }
    let message = format!("`dimensions` is {asked}; this model's vectors have {width}");
    Err(Error::invalid(message).with_param("dimensions"))
}

/// The deployment joins a model and a handler that do not fit.
fn unfit(tokens: &TokenModel<'_>, reason: &str) -> Error {
    Error::internal(format!("the model `{}` cannot be used for embeddings: {reason}", tokens.info().name))
}
