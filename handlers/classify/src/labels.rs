//! A model's labels: names, thresholds, and what stands in for a label that is not to be trusted.

use std::collections::BTreeMap;

use mayfly_sdk::{Error, ModelInfo, TensorData};
use serde::de::DeserializeOwned;

use crate::answer::{Classified, Scored};

/// The labels of a model, from its properties.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    names: Vec<String>,
    threshold: Option<f32>,
    thresholds: BTreeMap<String, f32>,
    overwrite: BTreeMap<String, String>,
    text: Vec<String>,
    fallback: Option<String>,
    fallback_text: Option<String>,
}

impl Labels {
    /// Reads the properties `labels`, `threshold`, `thresholds`, `overwrite`, `text_labels`, `fallback_label` and
    /// `fallback_text_label`.
    pub(crate) fn of(info: &ModelInfo) -> Result<Self, Error> {
        Ok(Self {
            names: json(info, "labels")?,
            threshold: info.number("threshold")?,
            thresholds: json(info, "thresholds")?,
            overwrite: json(info, "overwrite")?,
            text: json(info, "text_labels")?,
            fallback: info.property("fallback_label").map(str::to_owned),
            fallback_text: info.property("fallback_text_label").map(str::to_owned),
        })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of class `at`; as in Hugging Face's configurations if the model has none.
    fn name(&self, at: usize) -> String {
        self.names.get(at).cloned().unwrap_or_else(|| format!("LABEL_{at}"))
    }

    /// The `top` best of `scores`, best first, and the label to use.
    pub(crate) fn rank(&self, index: usize, scores: &[f32], top: usize) -> Classified {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(top);
        let results: Vec<Scored> =
            order.into_iter().map(|at| Scored { label: self.name(at), score: scores[at] }).collect();
        let label = results.first().map_or_else(String::new, |best| self.decide(best));
        Classified { index, label, results }
    }

    /// `best`, or what the model's configuration puts in its place.
    fn decide(&self, best: &Scored) -> String {
        let label = self.overwrite.get(&best.label).unwrap_or(&best.label);
        let needed = self.thresholds.get(&best.label).copied().or(self.threshold);
        if needed.is_none_or(|needed| best.score >= needed) {
            return label.clone();
        }
        // Even an unsure model tells text from binary.
        let fallback = if self.text.contains(label) { &self.fallback_text } else { &self.fallback };
        fallback.as_ref().unwrap_or(label).clone()
    }
}

/// A property that holds JSON; the empty value if it is not set.
fn json<T: DeserializeOwned + Default>(info: &ModelInfo, key: &str) -> Result<T, Error> {
    let Some(text) = info.property(key) else { return Ok(T::default()) };
    serde_json::from_str(text)
        .map_err(|error| unfit(info, &format!("its property `{key}` is not as expected: {error}")))
}

/// The scores of `rows` inputs, one slice each.
pub(crate) fn rows<'d>(
    info: &ModelInfo,
    data: &'d TensorData,
    sizes: &[usize],
    rows: usize,
) -> Result<Vec<std::borrow::Cow<'d, [f32]>>, Error> {
    let [count, classes] = *sizes else {
        return Err(unfit(info, &format!("its output has the dimensions {sizes:?}, not [inputs, labels]")));
    };
    if count != rows || classes == 0 {
        return Err(unfit(info, &format!("its output has the dimensions {sizes:?} for {rows} inputs")));
    }
    Ok(match data.as_f32()? {
        std::borrow::Cow::Borrowed(values) => values.chunks_exact(classes).map(std::borrow::Cow::Borrowed).collect(),
        std::borrow::Cow::Owned(values) => {
            values.chunks_exact(classes).map(|row| std::borrow::Cow::Owned(row.to_vec())).collect()
        }
    })
}

/// The deployment joins a model and a handler that do not fit.
pub(crate) fn unfit(info: &ModelInfo, reason: &str) -> Error {
    Error::internal(format!("the model `{}` cannot be used for classification: {reason}", info.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels {
            names: ["c", "elf", "random"].map(String::from).to_vec(),
            threshold: Some(0.5),
            thresholds: [("c".to_owned(), 0.9)].into(),
            overwrite: [("random".to_owned(), "unknown".to_owned())].into(),
            text: vec!["c".to_owned()],
            fallback: Some("unknown".to_owned()),
            fallback_text: Some("txt".to_owned()),
        }
    }

    #[test]
    fn the_best_come_first() {
        let ranked = labels().rank(3, &[0.1, 0.7, 0.2], 2);
        assert_eq!((ranked.index, ranked.label.as_str()), (3, "elf"));
        assert_eq!(ranked.results.iter().map(|r| r.label.as_str()).collect::<Vec<_>>(), ["elf", "random"]);
        assert_eq!(labels().rank(0, &[0.1, 0.7, 0.2], 100).results.len(), 3);
    }

    #[test]
    fn thresholds_and_overwrites() {
        let label = |scores: &[f32]| labels().rank(0, scores, 5).label;
        assert_eq!(label(&[0.95, 0.0, 0.0]), "c");
        assert_eq!(label(&[0.85, 0.0, 0.0]), "txt");
        assert_eq!(label(&[0.0, 0.4, 0.0]), "unknown");
        assert_eq!(label(&[0.0, 0.0, 0.9]), "unknown");
        assert_eq!(Labels::default().rank(0, &[0.2, 0.3], 1).label, "LABEL_1");
        assert_eq!(Labels::default().rank(0, &[], 1).label, "");
        assert_eq!(Labels::default().rank(0, &[f32::NAN, 1.0], 2).results.len(), 2);
    }
}
