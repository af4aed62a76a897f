//! What server and worker say to each other: one packet each, a few words of JSON and, for small tensors, their bytes.
//!
//! `u32` length of the JSON (little endian), the JSON, then data. A packet has a largest size, which bounds everything
//! a reader allocates for it.

use mayfly_types::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::piece::Piece;
use super::report::Report;
use crate::{ChatError, Device, ElementType};

/// Bytes of one packet.
pub(super) const PACKET_BYTES_MAX: usize = 64 << 10;
/// Tensors that take more than this together go through the arena.
pub(super) const INLINE_BYTES_MAX: u64 = 16 << 10;
/// Before the JSON: how long it is.
const LENGTH_BYTES: usize = 4;

/// One tensor. Its bytes follow those of the one before, wherever they lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) element_type: ElementType,
    pub(super) dimensions: Vec<u32>,
}

impl Value {
    /// Bytes of its data; none if that cannot be.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.element_type.bytes_of(&self.dimensions).ok()
    }
}

/// Bytes of all of them; none if that cannot be.
pub(super) fn bytes_of(values: &[Value]) -> Option<u64> {
    values.iter().try_fold(0_u64, |sum, value| sum.checked_add(value.bytes()?))
}

/// An output that is wanted back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// Cut to one position of each row. Which ones follow the inputs' data: so many `u32`, little endian.
    pub(super) keep: Option<u32>,
}

/// What is done with the inputs of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Task {
    /// The graph runs.
    Run { outputs: Vec<Wanted>, output_bytes_max: u64 },
    /// The input [`PROMPT`], a chat as JSON or plain text, becomes the output [`TOKENS`].
    Prompt { chat: bool, output_bytes_max: u64 },
    /// The input [`TOKENS`] is gone on with as the input [`OPTIONS`], JSON, says.
    Generate { choices: u32, reuse: Option<[u8; 32]> },
}

/// Bytes of text.
pub(super) const PROMPT: &str = "prompt";
/// i32, one for each token.
pub(super) const TOKENS: &str = "tokens";
/// Bytes of JSON.
pub(super) const OPTIONS: &str = "options";

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// Never used twice in one process.
    pub(super) run: u64,
    pub(super) package: Digest,
    /// From now.
    pub(super) timeout_ms: u64,
    pub(super) inputs: Vec<Value>,
    /// Where their data lies in the arena; none has it in the packet.
    pub(super) at: Option<u64>,
    pub(super) task: Task,
}

/// The server's limits of generation, as far as they hold in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerationBounds {
    pub(crate) slots: u32,
    pub(crate) kv_bytes_max: u64,
    pub(crate) waiting_max: u32,
    pub(crate) prefill_chunk_max: u32,
    pub(crate) stall_ms: u64,
    pub(crate) constraint_compiles_max: u16,
}

/// The first packet. The arena's file comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    /// ONNX Runtime's library.
    pub(super) ort_dylib: std::path::PathBuf,
    /// The one folder with packages, each named by its digest.
    pub(super) room: std::path::PathBuf,
    pub(super) device: Device,
    pub(super) memory_bytes_max: u64,
    pub(super) shared_bytes_max: u64,
    pub(super) threads: u16,
    pub(super) runs_max: u32,
    pub(super) sessions_max: u32,
    pub(super) session_idle_ms: u64,
    pub(super) generation: GenerationBounds,
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ToWorker {
    Begin(Begin),
    Do(Order),
    /// Nobody waits for it any more.
    Stop {
        run: u64,
    },
    /// Of a generation: its reader has so many tokens of these choices, all counted.
    Read {
        run: u64,
        tokens: Vec<(u32, u32)>,
    },
    /// Of a generation: its reader wants no more of one choice.
    EndChoice {
        run: u64,
        choice: u32,
    },
    /// Of a generation: its reader wants no more of any, but how they ended.
    Cancel {
        run: u64,
    },
    /// Its outputs go here in the arena.
    Space {
        run: u64,
        at: u64,
    },
    /// What has it at work? It answers once.
    Report,
}

/// Why a run gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Fault {
    Stopped,
    Full {
        limit: u32,
    },
    NoRoom,
    NeverFits {
        needs: u64,
        budget: u64,
    },
    NoDevice(String),
    Load(String),
    Failed(String),
    TooLarge(String),
    /// A prompt could not be made.
    Prompt(ChatError),
    /// A generation could not be started, or had to end.
    Generation(GenerationFault),
}

/// What can be wrong with generations alone. What the server checks by itself is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum GenerationFault {
    /// Of a JSON schema.
    Keyword {
        keyword: String,
        at: String,
        reason: String,
    },
    /// The constraint.
    TooLarge(String),
    /// The constraint.
    Unusable(String),
    /// The model takes no constraint.
    Vocabulary(String),
    NotADecoder,
    Busy {
        waiting: u32,
        limit: u32,
    },
    BusyCompiling {
        limit: u32,
    },
    NeverFits {
        tokens: u64,
        limit: u64,
    },
    Stalled,
}

/// From the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum FromWorker {
    /// It is locked in and takes runs.
    Ready,
    /// It cannot; the text is for the log.
    Unusable(String),
    /// The inputs of this run were taken out of the arena.
    Taken {
        run: u64,
    },
    /// ONNX Runtime begins.
    Started {
        run: u64,
    },
    /// It ran. Without `inline` the outputs need space in the arena.
    Outputs {
        run: u64,
        load_us: Option<u64>,
        outputs: Vec<Value>,
        inline: bool,
    },
    /// The outputs are where there was space for them.
    Written {
        run: u64,
    },
    Failed {
        run: u64,
        fault: Fault,
    },
    /// A generation waits for its turn, or has it.
    Admitted {
        run: u64,
    },
    /// The prompt of a generation begins to run; so much of it is reused.
    Prefill {
        run: u64,
        cached: u32,
    },
    /// Tokens of one choice, and their text.
    Piece {
        run: u64,
        piece: Piece,
    },
    /// What it has at work. Only when it is asked.
    Report(Report),
}

/// A packet that is none of ours, or that would be too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("a packet of {0} bytes; at most {PACKET_BYTES_MAX} fit")]
    TooLarge(usize),
    #[error("a packet that says something else than it should")]
    Malformed,
}

/// `message` and `data` as one packet.
pub(super) fn encode(message: &impl Serialize, data: &[&[u8]]) -> Result<Vec<u8>, PacketError> {
    let json = serde_json::to_vec(message).map_err(|_| PacketError::Malformed)?;
    let len = data.iter().map(|part| part.len()).fold(LENGTH_BYTES + json.len(), usize::saturating_add);
    let json_len = u32::try_from(json.len()).map_err(|_| PacketError::TooLarge(len))?;
    if len > PACKET_BYTES_MAX {
        return Err(PacketError::TooLarge(len));
    }
    let mut packet = Vec::with_capacity(len);
    packet.extend_from_slice(&json_len.to_le_bytes());
    packet.extend_from_slice(&json);
    data.iter().for_each(|part| packet.extend_from_slice(part));
    Ok(packet)
}

/// What a packet says, and its data.
pub(super) fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<(T, &[u8]), PacketError> {
    let (length, rest) = packet.split_first_chunk::<LENGTH_BYTES>().ok_or(PacketError::Malformed)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| PacketError::Malformed)?;
    let (json, data) = rest.split_at_checked(length).ok_or(PacketError::Malformed)?;
    let message = serde_json::from_slice(json).map_err(|_| PacketError::Malformed)?;
    Ok((message, data))
}

/// A text of this side, short enough for any packet.
pub(super) fn short(text: &str) -> String {
    text.chars().take(400).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let types = prop::sample::select(vec![ElementType::F32, ElementType::Bool, ElementType::I64, ElementType::F16]);
        (".{0,20}", types, prop::collection::vec(any::<u32>(), 0..18))
            .prop_map(|(name, element_type, dimensions)| Value { name, element_type, dimensions })
    }

    fn order() -> impl Strategy<Value = Order> {
        let wanted = (".{0,9}", any::<Option<u32>>()).prop_map(|(name, keep)| Wanted { name, keep });
        (
            any::<(u64, u64, Option<u64>, u64)>(),
            prop::collection::vec(value(), 0..5),
            prop::collection::vec(wanted, 0..5),
        )
            .prop_map(|((run, timeout_ms, at, output_bytes_max), inputs, outputs)| Order {
                run,
                package: Digest::of(&run.to_le_bytes()),
                timeout_ms,
                inputs,
                at,
                task: Task::Run { outputs, output_bytes_max },
            })
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(order in order(), data in prop::collection::vec(any::<u8>(), 0..300)) {
            let (front, back) = data.split_at(data.len() / 3);
            let said = ToWorker::Do(order);
            let packet = encode(&said, &[front, back]).unwrap();
            let (heard, rest) = decode::<ToWorker>(&packet).unwrap();
            prop_assert_eq!(heard, said);
            prop_assert_eq!(rest, &data[..]);
        }

        #[test]
        fn any_bytes_are_an_error_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<FromWorker>(&bytes);
        }

        #[test]
        fn a_damaged_packet_is_an_error_or_another_message(
            values in prop::collection::vec(value(), 0..4), at in any::<prop::sample::Index>(), byte in any::<u8>(),
            cut in any::<prop::sample::Index>()
        ) {
            let said = FromWorker::Outputs { run: 7, load_us: Some(3), outputs: values, inline: true };
            let mut packet = encode(&said, &[b"data"]).unwrap();
            let place = at.index(packet.len());
            packet[place] = byte;
            packet.truncate(cut.index(packet.len()) + 1);
            if let Ok((FromWorker::Outputs { outputs, .. }, _)) = decode::<FromWorker>(&packet) {
                // Sums of sizes never wrap, whatever the sizes.
                let sum = bytes_of(&outputs);
                let exact = outputs.iter().try_fold(0_u128, |sum, value| Some(sum + u128::from(value.bytes()?)));
                prop_assert_eq!(sum.map(u128::from), exact.filter(|sum| *sum <= u128::from(u64::MAX)));
            }
        }
    }

    #[test]
    fn packets_have_a_largest_size() {
        let said = FromWorker::Failed { run: 1, fault: Fault::Failed("x".repeat(PACKET_BYTES_MAX)) };
        assert!(matches!(encode(&said, &[]), Err(PacketError::TooLarge(_))));
        let long = "ü".repeat(PACKET_BYTES_MAX);
        let said = FromWorker::Failed { run: 1, fault: Fault::Failed(short(&long)) };
        assert!(encode(&said, &[]).is_ok());
        assert_eq!(decode::<FromWorker>(&[]), Err(PacketError::Malformed));
        assert_eq!(decode::<FromWorker>(&u32::MAX.to_le_bytes()), Err(PacketError::Malformed));
    }

    #[test]
    fn more_dimensions_than_any_tensor_has_are_no_size() {
        let value = |dimensions: Vec<u32>| Value { name: String::new(), element_type: ElementType::F32, dimensions };
        assert_eq!(value(vec![1; 17]).bytes(), None);
        assert_eq!(value(vec![u32::MAX; 4]).bytes(), None);
        assert_eq!(bytes_of(&[value(vec![u32::MAX, u32::MAX / 4]), value(vec![u32::MAX, u32::MAX / 4])]), None);
        assert_eq!(bytes_of(&[value(vec![2, 3]), value(vec![])]), Some(28));
    }
}
