//! Several runs of a stateless graph as one: their rows one below the other, shorter ones padded, and back.

use std::sync::Arc;

use mayfly_scheduler::batching::Shape;

use super::run::Request;
use crate::{ElementType, RunError, Tensor, TensorError};

/// What rows of one graph need where they are joined. Made once for each package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JoinRules {
    /// For each input, in the order of requests: what stands in places that only padding fills; none where it has no
    /// positions.
    pub(crate) fills: Vec<Option<i64>>,
    /// Outputs that have one entry for each position, in their second dimension.
    pub(crate) by_position: Vec<String>,
}

/// How one run can be joined with others of its graph.
#[derive(Debug, Clone)]
pub(crate) struct Joint {
    pub(crate) shape: Shape,
    pub(crate) rules: Arc<JoinRules>,
}

/// A run among those that are joined.
#[derive(Clone, Copy)]
struct Part {
    rows: usize,
    positions: usize,
}

fn parts(requests: &[&Request]) -> Result<(Vec<Part>, Part), TensorError> {
    let mut parts = Vec::with_capacity(requests.len());
    let mut whole = Part { rows: 0, positions: 0 };
    for request in requests {
        let shape = &request.joint.as_ref().ok_or(TensorError::Overflow)?.shape;
        let part = Part { rows: shape.rows as usize, positions: shape.positions as usize };
        whole = Part { rows: whole.rows + part.rows, positions: whole.positions.max(part.positions) };
        parts.push(part);
    }
    Ok((parts, whole))
}

/// The inputs of `requests`, which the scheduler found to fit: `[rows of all, longest, ..]`.
pub(super) fn inputs(requests: &[&Request]) -> Result<Vec<(String, Tensor)>, TensorError> {
    let (parts, whole) = parts(requests)?;
    let Some(joint) = requests.first().and_then(|first| first.joint.as_ref()) else { return Ok(Vec::new()) };
    let first = requests[0];
    first
        .inputs
        .iter()
        .zip(&joint.rules.fills)
        .enumerate()
        .map(|(at, ((name, like), fill))| {
            let mut dimensions = like.dimensions().to_vec();
            dimensions[0] = u32::try_from(whole.rows).map_err(|_| TensorError::Overflow)?;
            if fill.is_some() {
                dimensions[1] = u32::try_from(whole.positions).map_err(|_| TensorError::Overflow)?;
            }
            let bytes = like.element_type().bytes_of(&dimensions)?;
            let len = usize::try_from(bytes).map_err(|_| TensorError::Overflow)?;
            let tensor = Tensor::fill_with(like.element_type(), &dimensions, len, |target| {
                let row = len / whole.rows.max(1);
                let mut rows = target.chunks_exact_mut(row.max(1));
                for (request, part) in requests.iter().zip(&parts) {
                    let source = request.inputs[at].1.as_slice();
                    let own = source.len() / part.rows.max(1);
                    for (source, target) in source.chunks_exact(own.max(1)).zip(rows.by_ref()) {
                        let (kept, padding) = target.split_at_mut(own);
                        kept.copy_from_slice(source);
                        pad(padding, like.element_type(), fill.unwrap_or_default());
                    }
                }
                Ok::<(), TensorError>(())
            })?;
            Ok((name.clone(), tensor))
        })
        .collect()
}

/// Fills `target`, which is zero, with `value`.
fn pad(target: &mut [u8], element_type: ElementType, value: i64) {
    if value == 0 {
        return;
    }
    match element_type {
        ElementType::I64 => target.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&value.to_le_bytes())),
        ElementType::I32 => {
            let value = i32::try_from(value).unwrap_or_default().to_le_bytes();
            target.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&value));
        }
        // Ids have one of these types; everything else is filled with zeros.
        _ => {}
    }
}

/// The rows of each of `requests` in the outputs of the run they shared, as copies of its own.
///
/// # Errors
/// [`RunError::Failed`] if an output does not have a row for each row that went in.
pub(super) fn outputs(
    requests: &[&Request],
    values: &[(String, Tensor)],
) -> Result<Vec<Vec<(String, Tensor)>>, RunError> {
    let fault = |error: TensorError| RunError::Failed(error.to_string());
    let (parts, whole) = parts(requests).map_err(fault)?;
    let by_position = |name: &String| {
        let joint = requests.first().and_then(|request| request.joint.as_ref());
        joint.is_some_and(|joint| joint.rules.by_position.contains(name))
    };
    let mut given: Vec<Vec<(String, Tensor)>> = parts.iter().map(|_| Vec::with_capacity(values.len())).collect();
    for (name, tensor) in values {
        let cut = by_position(name);
        let dimensions = tensor.dimensions();
        let fits = dimensions.first().is_some_and(|rows| *rows as usize == whole.rows)
            && (!cut || dimensions.get(1).is_some_and(|positions| *positions as usize == whole.positions));
        if !fits {
            return Err(RunError::Failed(format!("output `{name}` does not have a row for each row that went in")));
        }
        let row = tensor.as_slice().len() / whole.rows.max(1);
        let mut rest = tensor.as_slice();
        for (part, given) in parts.iter().zip(&mut given) {
            let (own, after) = rest.split_at(row * part.rows);
            rest = after;
            given.push((name.clone(), rows_of(tensor, own, row, *part, cut, whole).map_err(fault)?));
        }
    }
    Ok(given)
}

/// A copy of `own`, rows of `row` bytes each, cut to `part`'s positions.
fn rows_of(like: &Tensor, own: &[u8], row: usize, part: Part, cut: bool, whole: Part) -> Result<Tensor, TensorError> {
    let mut dimensions = like.dimensions().to_vec();
    dimensions[0] = u32::try_from(part.rows).map_err(|_| TensorError::Overflow)?;
    if !cut || part.positions == whole.positions {
        return Tensor::from_bytes(like.element_type(), &dimensions, own);
    }
    dimensions[1] = u32::try_from(part.positions).map_err(|_| TensorError::Overflow)?;
    let kept = row / whole.positions.max(1) * part.positions;
    Tensor::fill_with(like.element_type(), &dimensions, kept * part.rows, |target| {
        for (target, source) in target.chunks_exact_mut(kept.max(1)).zip(own.chunks_exact(row.max(1))) {
            target.copy_from_slice(&source[..kept]);
        }
        Ok(())
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn i64s(dimensions: &[u32], values: &[i64]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::from_bytes(ElementType::I64, dimensions, &bytes).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        tensor.as_slice().chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn request(rules: &Arc<JoinRules>, rows: u32, positions: u32, ids: &[i64]) -> Request {
        let shape = Shape { rows, positions, pads: true, like: Box::default() };
        Request {
            inputs: vec![
                ("ids".to_owned(), i64s(&[rows, positions], ids)),
                ("kind".to_owned(), i64s(&[rows, 2], &ids.repeat(2)[..rows as usize * 2])),
            ],
            outputs: Vec::new(),
            output_bytes_max: u64::MAX,
            joint: Some(Joint { shape, rules: Arc::clone(rules) }),
        }
    }

    #[test]
    fn rows_are_joined_padded_and_given_back_as_they_were() {
        let rules = Arc::new(JoinRules { fills: vec![Some(9), None], by_position: vec!["hidden".to_owned()] });
        let (a, b) = (request(&rules, 1, 2, &[1, 2]), request(&rules, 2, 3, &[3, 4, 5, 6, 7, 8]));
        let joined = inputs(&[&a, &b]).unwrap();
        assert_eq!((joined[0].1.dimensions(), joined[1].1.dimensions()), (&[3, 3][..], &[3, 2][..]));
        assert_eq!(numbers(&joined[0].1), [1, 2, 9, 3, 4, 5, 6, 7, 8]);
        assert_eq!(numbers(&joined[1].1), [1, 2, 3, 4, 5, 6]);

        let values = [
            ("hidden".to_owned(), i64s(&[3, 3, 1], &[10, 11, 99, 20, 21, 22, 30, 31, 32])),
            ("pooled".to_owned(), i64s(&[3, 1], &[1, 2, 3])),
        ];
        let given = outputs(&[&a, &b], &values).unwrap();
        assert_eq!(given[0][0].1.dimensions(), [1, 2, 1]);
        assert_eq!((numbers(&given[0][0].1), numbers(&given[0][1].1)), (vec![10, 11], vec![1]));
        assert_eq!(given[1][0].1.dimensions(), [2, 3, 1]);
        assert_eq!((numbers(&given[1][0].1), numbers(&given[1][1].1)), (vec![20, 21, 22, 30, 31, 32], vec![2, 3]));

        let short = [("hidden".to_owned(), i64s(&[2, 3, 1], &[0; 6]))];
        assert!(outputs(&[&a, &b], &short).is_err(), "a row is missing");
    }
}
