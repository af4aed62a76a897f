//! What is counted. A bill is made of lines; each names a meter, the model it ran on and an integer quantity.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ModelId;

/// A unit of account.
///
/// Tokens, rows and elements are priced; times are recorded and shown, and priced only where a tenant's own model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// Tokens a model read.
    InputTokens,
    /// Tokens of a prompt whose attention state was reused.
    CachedInputTokens,
    /// Tokens a model produced and the guest could see.
    OutputTokens,
    /// Rows of a model whose other dimensions are all fixed.
    Rows,
    /// Input elements of a model that has neither tokens nor fixed rows.
    Elements,
    /// Microseconds an executor worked for this call.
    InferenceMicros,
    /// Microseconds of guest CPU.
    GuestCpuMicros,
}

/// The text names no meter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a meter")]
pub struct UnknownMeter(String);

impl Meter {
    /// Every meter, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::InputTokens,
        Self::CachedInputTokens,
        Self::OutputTokens,
        Self::Rows,
        Self::Elements,
        Self::InferenceMicros,
        Self::GuestCpuMicros,
    ];

    /// The stable text form, as stored and as served.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InputTokens => "input_tokens",
            Self::CachedInputTokens => "cached_input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Rows => "rows",
            Self::Elements => "elements",
            Self::InferenceMicros => "inference_micros",
            Self::GuestCpuMicros => "guest_cpu_micros",
        }
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Meter {
    type Err = UnknownMeter;
    fn from_str(text: &str) -> Result<Self, UnknownMeter> {
        Self::ALL
            .into_iter()
            .find(|meter| meter.as_str() == text)
            .ok_or_else(|| UnknownMeter(text.chars().take(40).collect()))
    }
}

/// A quantity on one meter, for one model (or none: guest CPU).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Line {
    /// What is counted.
    pub meter: Meter,
    /// The model that did the work.
    pub model: Option<ModelId>,
    /// How much, in the meter's unit. Stored as a signed 64-bit integer, so never above `i64::MAX`.
    pub quantity: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for meter in Meter::ALL {
            assert_eq!(meter.as_str().parse(), Ok(meter));
        }
        assert!("tokens".parse::<Meter>().is_err());
    }
}
