//! What one guest may use. Each limit has a name, a unit, a default and a ceiling that only the operator can raise.

use serde::{Deserialize, Serialize};

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $default:expr, $least:expr, $most:expr;)*) => {
        /// Limits of one revision. Missing keys take their default; unknown keys are errors.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct GuestLimits {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Default for GuestLimits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl GuestLimits {
            /// All values that are out of range, at once.
            ///
            /// # Errors
            /// One [`LimitError`] for each.
            pub fn validate(&self) -> Result<(), Vec<LimitError>> {
                let mut errors = Vec::new();
                $(if !($least..=$most).contains(&self.$name) {
                    errors.push(LimitError {
                        name: stringify!($name),
                        value: self.$name,
                        least: $least,
                        most: $most,
                    });
                })*
                if errors.is_empty() { Ok(()) } else { Err(errors) }
            }
        }
    };
}

/// A limit is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limit `{name}` is {value}; it must be between {least} and {most}")]
pub struct LimitError {
    /// The limit's name.
    pub name: &'static str,
    /// What was asked for.
    pub value: u64,
    /// The least it may be.
    pub least: u64,
    /// The most it may be.
    pub most: u64,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

limits! {
    /// Wall-clock time of a call: queue, guest, host calls and inference together.
    deadline_ms_max = 30_000, 10, 600_000;
    /// CPU time of the guest's own code.
    guest_cpu_ms_max = 5_000, 1, 600_000;
    /// Linear memory of one instance.
    memory_bytes_max = 128 * MIB, MIB, 1024 * MIB;
    /// Elements in one table.
    table_elements_max = 20_000, 100, 100_000;
    /// Resource handles alive at once (tensors, streams, fields).
    handles_max = 4_096, 16, 65_536;
    /// Request body.
    request_body_bytes_max = 16 * MIB, 0, 1024 * MIB;
    /// Response body.
    response_body_bytes_max = 64 * MIB, 0, 4096 * MIB;
    /// Names and values of one message's headers together.
    header_bytes_max = 64 * KIB, KIB, 1024 * KIB;
    /// Bytes of tensors alive at once in one instance, inputs and outputs.
    tensor_bytes_max = 512 * MIB, KIB, 16_384 * MIB;
    /// Bytes of guest output kept for one call's log.
    log_bytes_max = 64 * KIB, 0, MIB;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range() {
        assert_eq!(GuestLimits::default().validate(), Ok(()));
    }

    #[test]
    fn all_problems_at_once() {
        let limits = GuestLimits { deadline_ms_max: 0, memory_bytes_max: 1, ..GuestLimits::default() };
        let errors = limits.validate().expect_err("two limits are out of range");
        assert_eq!(errors.iter().map(|e| e.name).collect::<Vec<_>>(), ["deadline_ms_max", "memory_bytes_max"]);
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(serde_json::from_str::<GuestLimits>(r#"{"memory_bytes_max": 2000000}"#).is_ok());
        assert!(serde_json::from_str::<GuestLimits>(r#"{"memory": 1}"#).is_err());
    }
}
