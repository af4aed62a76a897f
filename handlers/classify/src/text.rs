//! Models that look at text: token ids in, one score per label out.

use mayfly_sdk::{Encoding, Error, Model, TokenModel};

use crate::answer::{Answer, Classified, Usage};
use crate::input::Inputs;
use crate::labels::{Labels, rows, unfit};

/// Classifies `inputs`, those of like length together.
pub(crate) fn classify(model: &Model, inputs: Inputs, top: usize) -> Result<Answer, Error> {
    let texts = inputs.into_texts()?;
    let tokens = TokenModel::new(model)?;
    let info = tokens.info();
    let labels = Labels::of(info)?;
    let many_labels = info.property("problem_type") == Some("multi_label_classification");
    let encoded = tokens.encode(&texts)?;
    let lengths: Vec<usize> = encoded.iter().map(|row| row.ids.len()).collect();

    let mut data: Vec<Classified> = Vec::with_capacity(texts.len());
    for run in tokens.plan(&lengths) {
        let members: Vec<&Encoding> = run.iter().map(|&at| &encoded[at]).collect();
        let (outputs, _) = tokens.run(&members)?;
        let logits = match outputs.get("logits") {
            Ok(logits) => logits,
            Err(_) => outputs.iter().next().ok_or_else(|| unfit(info, "it has no output"))?.1,
        };
        let (values, sizes) = (logits.data(), logits.dimensions());
        for (index, logits) in run.iter().zip(rows(info, &values, &sizes, run.len())?) {
            let scores = if many_labels { sigmoid(&logits) } else { softmax(&logits) };
            data.push(labels.rank(*index, &scores, top));
        }
    }
    data.sort_by_key(|classified| classified.index);
    let count: usize = lengths.iter().sum();
    let usage = Usage { inputs: texts.len(), bytes: None, prompt_tokens: Some(count), total_tokens: Some(count) };
    Ok(Answer { model: info.name.clone(), data, usage })
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut scores: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = scores.iter().sum();
    for score in &mut scores {
        *score /= sum;
    }
    scores
}

fn sigmoid(logits: &[f32]) -> Vec<f32> {
    logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_whatever_the_size() {
        for logits in [[0.0, 0.0, 0.0], [1000.0, 999.0, -1000.0], [-1000.0, -1000.0, -999.0]] {
            let scores = softmax(&logits);
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{scores:?}");
        }
        assert!(softmax(&[]).is_empty());
    }

    #[test]
    fn sigmoid_stays_within_zero_and_one() {
        assert_eq!(sigmoid(&[0.0, 1000.0, -1000.0]), [0.5, 1.0, 0.0]);
    }
}
