//! Models that look at raw bytes, such as Magika: the first and the last bytes of the content, each as one number.

use mayfly_sdk::{ElementType, Error, Model, ModelInfo, Tensor};

use crate::answer::{Answer, Classified, Scored, Usage};
use crate::input::Inputs;
use crate::labels::{Labels, rows, unfit};

/// Rows of one run.
const ROWS_MAX: usize = 32;
/// Numbers of one row: a bound on what a package may ask for.
const WIDTH_MAX: usize = 1 << 20;

/// How bytes are cut, from the model's properties.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    /// Numbers from the beginning and from the end.
    beg_size: usize,
    end_size: usize,
    /// Bytes at each end that are looked at; whitespace is stripped from these.
    block_size: usize,
    padding_token: i32,
    /// Content with fewer bytes than this, whitespace stripped, is not shown to the model.
    min_bytes: usize,
}

impl Cut {
    fn of(info: &ModelInfo) -> Result<Self, Error> {
        let needed =
            |key: &str| info.number::<usize>(key)?.ok_or_else(|| unfit(info, &format!("it has no property `{key}`")));
        let (beg_size, end_size) = (needed("beg_size")?, needed("end_size")?);
        let cut = Self {
            beg_size,
            end_size,
            block_size: info.number("block_size")?.unwrap_or(beg_size.max(end_size)),
            padding_token: info.number("padding_token")?.unwrap_or(256),
            min_bytes: info.number("min_bytes")?.unwrap_or(1),
        };
        let fits = |size: usize| size <= WIDTH_MAX && size <= cut.block_size;
        if !(fits(beg_size) && fits(end_size)) || cut.width() == 0 {
            return Err(unfit(info, "its beg_size and end_size are 0, over a million, or over its block_size"));
        }
        Ok(cut)
    }

    fn width(&self) -> usize {
        self.beg_size + self.end_size
    }

    /// Appends the numbers of `content` to `row`: false, and nothing appended, if there are too few bytes to tell.
    fn append(&self, content: &[u8], row: &mut Vec<i32>) -> bool {
        let block = content.len().min(self.block_size);
        let beg = strip_start(&content[..block]);
        let end = strip_end(&content[content.len() - block..]);
        if content.len() < self.min_bytes || beg.len() < self.min_bytes {
            return false;
        }
        let beg = &beg[..beg.len().min(self.beg_size)];
        let end = &end[end.len() - end.len().min(self.end_size)..];
        let padding = |count: usize| std::iter::repeat_n(self.padding_token, count);
        row.extend(beg.iter().map(|&byte| i32::from(byte)));
        row.extend(padding(self.beg_size - beg.len()));
        row.extend(padding(self.end_size - end.len()));
        row.extend(end.iter().map(|&byte| i32::from(byte)));
        true
    }
}

/// What Python's `bytes.strip` takes off; Rust's own list lacks the vertical tab.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn strip_start(bytes: &[u8]) -> &[u8] {
    let first = bytes.iter().position(|&byte| !is_space(byte)).unwrap_or(bytes.len());
    &bytes[first..]
}

fn strip_end(bytes: &[u8]) -> &[u8] {
    let last = bytes.iter().rposition(|&byte| !is_space(byte)).map_or(0, |at| at + 1);
    &bytes[..last]
}

/// Labels for contents that a model cannot judge.
fn of_few_bytes(info: &ModelInfo, index: usize, content: &[u8]) -> Classified {
    let property = |key: &str, default: &str| info.property(key).unwrap_or(default).to_owned();
    let label = if content.is_empty() {
        property("empty_label", "empty")
    } else if std::str::from_utf8(content).is_ok() {
        property("fallback_text_label", "txt")
    } else {
        property("fallback_label", "unknown")
    };
    Classified { index, results: vec![Scored { label: label.clone(), score: 1.0 }], label }
}

/// Classifies `inputs`, many to a run.
pub(crate) fn classify(model: &Model, inputs: Inputs, top: usize) -> Result<Answer, Error> {
    let info = model.info()?;
    let (cut, labels) = (Cut::of(info)?, Labels::of(info)?);
    let [input] = info.inputs.as_slice() else {
        return Err(unfit(info, "it has more than one input"));
    };
    if input.element_type != ElementType::I32 {
        return Err(unfit(info, "its input is not of 32-bit integers"));
    }
    let Some(output) = info.outputs.first() else {
        return Err(unfit(info, "it has no output"));
    };

    let mut data = Vec::with_capacity(inputs.0.len());
    let mut numbers = Vec::with_capacity(inputs.0.len().min(ROWS_MAX) * cut.width());
    for (chunk, contents) in inputs.0.chunks(ROWS_MAX).enumerate() {
        numbers.clear();
        let mut shown = Vec::with_capacity(contents.len());
        for (at, content) in contents.iter().enumerate() {
            let index = chunk * ROWS_MAX + at;
            if cut.append(content, &mut numbers) {
                shown.push(index);
            } else {
                // Judged on the block only, as much as the model would have seen.
                data.push(of_few_bytes(info, index, &content[..content.len().min(cut.block_size)]));
            }
        }
        if shown.is_empty() {
            continue;
        }
        let tensor = Tensor::from_slice(&numbers, &[shown.len(), cut.width()])?;
        let outputs = model.run([(input.name.as_str(), tensor)])?;
        let scores = outputs.get(&output.name)?;
        let (values, sizes) = (scores.data(), scores.dimensions());
        for (index, scores) in shown.iter().zip(rows(info, &values, &sizes, shown.len())?) {
            data.push(labels.rank(*index, &scores, top));
        }
    }
    data.sort_by_key(|classified| classified.index);
    let usage = Usage { inputs: inputs.0.len(), bytes: Some(inputs.0.iter().map(Vec::len).sum()), ..Usage::default() };
    Ok(Answer { model: info.name.clone(), data, usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { beg_size: 4, end_size: 4, block_size: 8, padding_token: 256, min_bytes: 2 };

    fn check(content: &[u8], expect: Option<[i32; 8]>) {
        let mut row = Vec::new();
        let shown = CUT.append(content, &mut row);
        assert_eq!(shown.then_some(row.as_slice()), expect.as_ref().map(<[i32; 8]>::as_slice), "{content:?}");
        assert!(shown || row.is_empty());
    }

    #[test]
    fn both_ends_padded_apart() {
        check(b"abc", Some([97, 98, 99, 256, 256, 97, 98, 99]));
        check(b"abcdefghijkl", Some([97, 98, 99, 100, 105, 106, 107, 108]));
        check(b"abcd", Some([97, 98, 99, 100, 97, 98, 99, 100]));
    }

    #[test]
    fn whitespace_goes_from_the_outer_ends_only() {
        check(b" \x0b\x0c\t\r\nab", Some([97, 98, 256, 256, 13, 10, 97, 98]));
        check(b"ab \n", Some([97, 98, 32, 10, 256, 256, 97, 98]));
    }

    #[test]
    fn too_few_bytes_are_not_shown() {
        check(b"", None);
        check(b"a", None);
        check(b"       a", None);
        // Only the first block counts.
        check(b"        abcdefgh", None);
    }
}
