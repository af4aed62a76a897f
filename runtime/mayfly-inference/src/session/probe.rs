//! Trying, in the child of an import, whether rows of a graph can be joined: the same rows alone and together must give
//! the same. Only floating-point noise may differ: kernels choose other paths for other sizes.

use std::time::{Duration, Instant};

use ort::session::{RunOptions, Session};

use super::run::execute;
use crate::{DimensionInfo, ElementType, Package, Role, RunBatching, Tensor, TensorInfo};

/// A graph whose runs take longer gains nothing worth trying for.
const RUN_MAX: Duration = Duration::from_secs(5);
/// Positions of the longer and of the shorter row.
const LONG: u32 = 9;
const SHORT: u32 = 5;
/// What to try for dimensions that mean something else: an image of three pixels is too small for most graphs.
const OTHERS: [u32; 3] = [8, 32, 224];

type Values = Vec<(String, Tensor)>;

/// What came of it.
pub(crate) fn try_joining(session: &mut Session, package: &Package, pads: bool) -> RunBatching {
    let found = OTHERS.iter().map(|&other| {
        let mut trial = Trial { session, package, other };
        trial.rows().and_then(|()| if pads { trial.padding() } else { Ok(None) })
    });
    let mut why = String::new();
    for found in found {
        match found {
            Ok(Some(by_position)) => return RunBatching::Padded { by_position },
            Ok(None) => return RunBatching::Rows,
            Err(Fault::Differs(text)) => return RunBatching::Alone { why: text },
            Err(Fault::Fails(text)) => why = text,
        }
    }
    RunBatching::Alone { why: format!("it could not be tried: {why}") }
}

enum Fault {
    /// Rows see each other.
    Differs(String),
    /// The graph does not take such inputs.
    Fails(String),
}

struct Trial<'a> {
    session: &'a mut Session,
    package: &'a Package,
    other: u32,
}

impl Trial<'_> {
    fn positions(&self, wanted: u32) -> u32 {
        self.package.info().max_tokens.map_or(wanted, |most| wanted.min(most))
    }

    /// One row of inputs, other ones for each `seed`.
    fn row(&self, seed: u64, positions: u32) -> Result<Values, Fault> {
        let info = self.package.info();
        let row = |input: &TensorInfo| {
            let dimensions: Vec<u32> = std::iter::once(1)
                .chain(input.dimensions.iter().enumerate().skip(1).map(|(axis, dimension)| match dimension {
                    DimensionInfo::Fixed(size) => *size,
                    _ if axis == 1 && has_positions(input.role) => positions,
                    DimensionInfo::Named(_) | DimensionInfo::Any => self.other,
                }))
                .collect();
            let bytes = input.element_type.bytes_of(&dimensions).map_err(|error| Fault::Fails(error.to_string()))?;
            if bytes > 64 << 20 {
                return Err(Fault::Fails(format!("one row of `{}` has {bytes} bytes", input.name)));
            }
            let mut draw = Draw(seed ^ 0x9e37_79b9_7f4a_7c15);
            let count = dimensions.iter().product::<u32>();
            let mut data = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
            for at in 0..count {
                let number = match input.role {
                    Role::Ids => draw.id(info.vocab_size, info.pad_id),
                    Role::Mask => 1,
                    Role::Positions => i64::from(at % positions.max(1)),
                    _ => 0,
                };
                let free = !matches!(input.role, Role::Ids | Role::Mask | Role::Positions | Role::TokenTypes);
                push(&mut data, input.element_type, if free { None } else { Some(number) }, &mut draw);
            }
            let tensor = Tensor::from_bytes(input.element_type, &dimensions, &data);
            Ok((input.name.clone(), tensor.map_err(|error| Fault::Fails(error.to_string()))?))
        };
        info.inputs.iter().map(row).collect()
    }

    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Values, Fault> {
        let options = RunOptions::new().map_err(|error| Fault::Fails(error.message().to_owned()))?;
        let began = Instant::now();
        let (outputs, _) = execute(self.session, inputs, &options).map_err(|error| Fault::Fails(error.to_string()))?;
        if began.elapsed() > RUN_MAX {
            return Err(Fault::Differs(format!("a run takes more than {} s", RUN_MAX.as_secs())));
        }
        Ok(outputs)
    }

    /// Rows alone and in company, in another order, beside themselves.
    fn rows(&mut self) -> Result<(), Fault> {
        let positions = self.positions(LONG);
        let rows = [self.row(1, positions)?, self.row(2, positions)?, self.row(3, positions)?];
        let order = [2, 0, 0, 1, 2];
        let alone = rows.iter().map(|row| self.run(row)).collect::<Result<Vec<_>, _>>()?;
        let together = self.run(&stack(&order.map(|at| &rows[at]))?)?;
        for (at, row) in order.iter().enumerate() {
            same_row(&alone[*row], &together, at, order.len(), |_| false)?;
        }
        Ok(())
    }

    /// A short row padded beside a long one. Gives the outputs that follow the positions; none if padding shows.
    fn padding(&mut self) -> Result<Option<Vec<String>>, Fault> {
        let (long, short) = (self.positions(LONG), self.positions(SHORT));
        if short == long {
            return Ok(None);
        }
        let (first, second) = (self.row(4, short)?, self.row(5, long)?);
        let padded = self.padded(&first, short, long)?;
        let (alone, together) = (self.run(&first)?, self.run(&stack(&[&padded, &second])?)?);
        let mut by_position = Vec::new();
        for ((name, short_output), (_, output)) in alone.iter().zip(&together) {
            match (short_output.dimensions().get(1), output.dimensions().get(1)) {
                (Some(one), Some(other)) if one == other => {}
                (None, None) => {}
                (Some(one), Some(other)) if (*one, *other) == (short, long) => by_position.push(name.clone()),
                _ => return Ok(None),
            }
        }
        match same_row(&alone, &together, 0, 2, |name| by_position.iter().any(|other| other == name)) {
            Ok(()) => Ok(Some(by_position)),
            Err(_) => Ok(None),
        }
    }

    fn padded(&self, row: &[(String, Tensor)], short: u32, long: u32) -> Result<Values, Fault> {
        let pad = i64::from(self.package.info().pad_id.unwrap_or_default());
        let inputs = self.package.info().inputs.iter().zip(row);
        let longer = inputs.map(|(input, (name, tensor))| {
            if !has_positions(input.role) {
                return Ok((name.clone(), tensor.clone()));
            }
            let fill = if input.role == Role::Ids { pad } else { 0 };
            let mut data = tensor.as_slice().to_vec();
            let mut dimensions = tensor.dimensions().to_vec();
            dimensions[1] = long;
            for _ in short..long {
                push(&mut data, input.element_type, Some(fill), &mut Draw(0));
            }
            let tensor = Tensor::from_bytes(input.element_type, &dimensions, &data);
            Ok((name.clone(), tensor.map_err(|error| Fault::Fails(error.to_string()))?))
        });
        longer.collect()
    }
}

fn has_positions(role: Role) -> bool {
    matches!(role, Role::Ids | Role::Mask | Role::TokenTypes | Role::Positions)
}

/// Rows one below the other.
fn stack(rows: &[&Values]) -> Result<Values, Fault> {
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let stacked = first.iter().enumerate().map(|(at, (name, like))| {
        let data: Vec<u8> = rows.iter().flat_map(|row| row[at].1.as_slice()).copied().collect();
        let mut dimensions = like.dimensions().to_vec();
        dimensions[0] = count;
        let tensor = Tensor::from_bytes(like.element_type(), &dimensions, &data);
        Ok((name.clone(), tensor.map_err(|error| Fault::Fails(error.to_string()))?))
    });
    stacked.collect()
}

/// Whether row `at` of `together`, which has `rows`, is what `alone` has as its only one; of outputs that `cut` is true of,
/// as far as `alone` goes.
fn same_row(
    alone: &[(String, Tensor)],
    together: &[(String, Tensor)],
    at: usize,
    rows: usize,
    cut: impl Fn(&str) -> bool,
) -> Result<(), Fault> {
    for ((name, one), (_, all)) in alone.iter().zip(together) {
        let no_rows = || Fault::Differs(format!("the output `{name}` does not have a row for each row that goes in"));
        if one.dimensions().first() != Some(&1) || all.dimensions().first().map(|rows| *rows as usize) != Some(rows) {
            return Err(no_rows());
        }
        let row = all.as_slice().len() / rows;
        let here = &all.as_slice()[row * at..row * (at + 1)];
        let here = if cut(name) { here.get(..one.as_slice().len()).ok_or_else(no_rows)? } else { here };
        if here.len() != one.as_slice().len() {
            return Err(no_rows());
        }
        if !alike(one.element_type(), one.as_slice(), here) {
            return Err(Fault::Differs(format!("rows of the output `{name}` depend on the rows beside them")));
        }
    }
    Ok(())
}

/// Equal but for the noise of the type, measured against the largest number there.
fn alike(element_type: ElementType, one: &[u8], other: &[u8]) -> bool {
    let noise = match element_type {
        ElementType::F32 | ElementType::F64 => 1e-4,
        ElementType::F16 => 5e-3,
        ElementType::Bf16 => 3e-2,
        ElementType::U8 | ElementType::I32 | ElementType::I64 | ElementType::Bool => return one == other,
    };
    let (one, other) = (numbers(element_type, one), numbers(element_type, other));
    let largest = one.iter().chain(&other).fold(0.0_f64, |most, number| most.max(number.abs()));
    // Not a number is not alike: nothing can be told from it.
    largest.is_finite() && one.iter().zip(&other).all(|(one, other)| (one - other).abs() <= noise * largest.max(1e-6))
}

fn numbers(element_type: ElementType, bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(element_type.size());
    let number = |word: &[u8]| match *word {
        [a, b] if element_type == ElementType::F16 => half::f16::from_le_bytes([a, b]).to_f64(),
        [a, b] => half::bf16::from_le_bytes([a, b]).to_f64(),
        [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    };
    words.map(number).collect()
}

/// Appends `number`, or something between -1 and 1 (0 and 1 for whole numbers) where there is none.
fn push(data: &mut Vec<u8>, element_type: ElementType, number: Option<i64>, draw: &mut Draw) {
    #[expect(clippy::cast_precision_loss, reason = "ids and zeros and ones: small, or of no importance")]
    let real = number.map_or_else(|| draw.real(), |number| number as f64);
    let whole = number.unwrap_or_else(|| draw.bit());
    #[expect(clippy::cast_possible_truncation, reason = "the type asked for is the type given")]
    match element_type {
        ElementType::F16 => data.extend(half::f16::from_f64(real).to_le_bytes()),
        ElementType::Bf16 => data.extend(half::bf16::from_f64(real).to_le_bytes()),
        ElementType::F32 => data.extend((real as f32).to_le_bytes()),
        ElementType::F64 => data.extend(real.to_le_bytes()),
        ElementType::U8 | ElementType::Bool => data.push(u8::try_from(whole).unwrap_or_default()),
        ElementType::I32 => data.extend(i32::try_from(whole).unwrap_or_default().to_le_bytes()),
        ElementType::I64 => data.extend(whole.to_le_bytes()),
    }
}

/// Numbers that look drawn and are the same each time (xorshift64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bit(&mut self) -> i64 {
        (self.next() >> 40 & 1).cast_signed()
    }

    fn real(&mut self) -> f64 {
        let word = u32::try_from(self.next() >> 40).unwrap_or_default();
        f64::from(word) / f64::from(1_u32 << 23) - 1.0
    }

    /// Below the vocabulary, and no padding. Where it is not known, the first few: no table is smaller.
    fn id(&mut self, vocab: Option<u32>, pad: Option<u32>) -> i64 {
        let most = u64::from(vocab.unwrap_or(4).max(1));
        let id = (self.next() >> 20) % most;
        let is_pad = pad.map(u64::from) == Some(id);
        (if is_pad { (id + 1) % most } else { id }).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_alike_and_more_is_not() {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let check = |one: &[f32], other: &[f32]| alike(ElementType::F32, &bytes(one), &bytes(other));
        assert!(check(&[1.0, 0.0], &[1.000_01, 0.000_01]));
        assert!(!check(&[1.0, 0.0], &[1.0, 0.001]));
        assert!(!check(&[f32::NAN], &[f32::NAN]));
        assert!(alike(ElementType::U8, &[1, 2], &[1, 2]) && !alike(ElementType::U8, &[1, 2], &[1, 3]));
    }

    #[test]
    fn what_is_drawn_is_in_its_range() {
        let mut draw = Draw(7);
        for _ in 0..1000 {
            assert!((-1.0..1.0).contains(&draw.real()) && (0..=1).contains(&draw.bit()));
            assert!([0, 2].contains(&draw.id(Some(3), Some(1))));
        }
    }
}
