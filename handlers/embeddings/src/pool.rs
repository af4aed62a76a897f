//! From a model's output to one vector per text: pooling, truncation, normalisation. Pure arithmetic on slices.

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Their average.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    Last,
    /// The largest of each number.
    Max,
}

impl Pooling {
    /// The pooling that a model's `pooling` property names.
    pub(crate) fn from_property(name: &str) -> Option<Self> {
        match name {
            "mean" => Some(Self::Mean),
            "cls" => Some(Self::Cls),
            "last" => Some(Self::Last),
            "max" => Some(Self::Max),
            _ => None,
        }
    }

    /// One vector of `width` numbers out of `tokens`, the vectors of a text's tokens one after the other, padding left
    /// out. `width` is not 0 and there is at least one token.
    pub(crate) fn pool(self, tokens: &[f32], width: usize) -> Vec<f32> {
        match self {
            Self::Cls => tokens[..width].to_vec(),
            Self::Last => tokens[tokens.len() - width..].to_vec(),
            Self::Mean => {
                let mut sums = tokens[..width].to_vec();
                for token in tokens.chunks_exact(width).skip(1) {
                    for (sum, value) in sums.iter_mut().zip(token) {
                        *sum += value;
                    }
                }
                #[expect(clippy::cast_precision_loss, reason = "no text has 2^24 tokens")]
                let share = 1.0 / (tokens.len() / width) as f32;
                for sum in &mut sums {
                    *sum *= share;
                }
                sums
            }
            Self::Max => {
                let mut most = tokens[..width].to_vec();
                for token in tokens.chunks_exact(width).skip(1) {
                    for (most, value) in most.iter_mut().zip(token) {
                        *most = if *value > *most { *value } else { *most };
                    }
                }
                most
            }
        }
    }
}

/// Scales `vector` to length 1. False if its length is 0 or no number.
pub(crate) fn normalize(vector: &mut [f32]) -> bool {
    let length = squares(vector).sqrt();
    if !(length.is_finite() && length > 0.0) {
        return false;
    }
    let scale = 1.0 / length;
    for value in vector {
        *value *= scale;
    }
    true
}

/// The sum of squares. Eight sums side by side, because the compiler may not reorder one.
fn squares(vector: &[f32]) -> f32 {
    let chunks = vector.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    let mut sums = [0.0_f32; 8];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolings() {
        let tokens = [1.0, -2.0, 3.0, 5.0, 2.0, 0.0];
        assert_eq!(Pooling::Mean.pool(&tokens, 2), [2.0, 1.0]);
        assert_eq!(Pooling::Cls.pool(&tokens, 2), [1.0, -2.0]);
        assert_eq!(Pooling::Last.pool(&tokens, 2), [2.0, 0.0]);
        assert_eq!(Pooling::Max.pool(&tokens, 2), [3.0, 5.0]);
        assert_eq!(Pooling::Mean.pool(&tokens, 6), tokens);
        assert_eq!(Pooling::from_property("weighted"), None);
    }

    #[test]
    fn unit_length() {
        let mut vector: Vec<f32> = (0..19).map(|n| n as f32 - 9.0).collect();
        assert!(normalize(&mut vector));
        let length: f32 = vector.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
        assert!(vector[0] < 0.0 && vector[9] == 0.0);
    }

    #[test]
    fn what_has_no_length_is_said_so() {
        assert!(!normalize(&mut [0.0, 0.0]));
        assert!(!normalize(&mut [f32::NAN, 1.0]));
        assert!(!normalize(&mut [f32::INFINITY]));
        assert!(!normalize(&mut []));
    }
}
