//! An input: what is asked of the worker, and what the worker does, step by step.
//!
//! Two bytes for what is asked and how; then steps: a number, a length (`u16`, little endian), so many bytes. Any bytes are
//! a script. Unless it is to begin by itself, the worker has said that it is ready, and heard an order.

/// Steps of one script that are played.
const STEPS_MAX: usize = 200;
/// Numbers of steps.
const KINDS: u8 = 10;

/// What a false worker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Waits for a packet.
    Hear,
    /// Sends a message and its data.
    Say { json: Vec<u8>, data: Vec<u8> },
    /// Sends a packet as it is.
    Raw(Vec<u8>),
    /// Sends a message with this much data.
    Fill { bytes: u32, json: Vec<u8> },
    /// Sends the last packet so many times more.
    Again(u8),
    /// Sends the last packet again, with a file.
    File,
    /// Writes into the shared memory, from where it was last given space on.
    Write { at: u32, bytes: Vec<u8> },
    /// Whoever waits for the worker leaves.
    Leave,
    /// So many milliseconds.
    Pause(u8),
    /// Nothing, until the other end is gone.
    Quiet,
}

/// In [`Script::manner`]: the script begins with the worker's first word.
const FROM_THE_START: u8 = 1 << 4;

/// An input, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) asked: u8,
    /// The lowest bit: callers are in a hurry; the next three: how a generation is read.
    pub(crate) manner: u8,
    pub(crate) steps: Vec<Step>,
}

impl Script {
    /// One in which nothing was said before.
    pub(crate) fn from_the_start(asked: u8, steps: Vec<Step>) -> Self {
        Self { asked, manner: FROM_THE_START, steps }
    }

    /// What is done before its own steps.
    pub(crate) fn beginning(&self) -> Vec<Step> {
        if self.manner & FROM_THE_START != 0 {
            return Vec::new();
        }
        vec![Step::Hear, Step::Say { json: b"\"ready\"".to_vec(), data: Vec::new() }, Step::Hear]
    }

    pub(crate) fn read(input: &[u8]) -> Self {
        let (asked, manner) = (input.first().copied().unwrap_or_default(), input.get(1).copied().unwrap_or_default());
        let mut rest = input.get(2..).unwrap_or_default();
        let mut steps = Vec::new();
        while let [kind, low, high, after @ ..] = rest
            && steps.len() < STEPS_MAX
        {
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
            let (body, left) = after.split_at(length);
            steps.push(Step::read(*kind, body));
            rest = left;
        }
        Self { asked, manner, steps }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = vec![self.asked, self.manner];
        for step in &self.steps {
            let (kind, body) = step.write();
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
            out.push(kind);
            out.extend(length.to_le_bytes());
            out.extend(&body[..usize::from(length)]);
        }
        out
    }
}

impl Step {
    fn read(kind: u8, body: &[u8]) -> Self {
        let number = |from: usize| {
            let bytes = body.get(from..from + 4).and_then(|bytes| bytes.try_into().ok());
            (bytes.map_or(0, u32::from_le_bytes), body.get(from + 4..).unwrap_or_default().to_vec())
        };
        let byte = body.first().copied().unwrap_or_default();
        match kind % KINDS {
            0 => Self::Hear,
            1 => {
                let (length, rest) = number(0);
                let (json, data) = rest.split_at(rest.len().min(length as usize));
                Self::Say { json: json.to_vec(), data: data.to_vec() }
            }
            2 => Self::Raw(body.to_vec()),
            3 => {
                let (bytes, json) = number(0);
                Self::Fill { bytes, json }
            }
            4 => Self::Again(byte),
            5 => Self::File,
            6 => {
                let (at, bytes) = number(0);
                Self::Write { at, bytes }
            }
            7 => Self::Leave,
            8 => Self::Pause(byte),
            _ => Self::Quiet,
        }
    }

    fn write(&self) -> (u8, Vec<u8>) {
        let with = |number: u32, parts: &[&[u8]]| [&number.to_le_bytes()[..], &parts.concat()].concat();
        match self {
            Self::Hear => (0, Vec::new()),
            Self::Say { json, data } => (1, with(u32::try_from(json.len()).unwrap_or(u32::MAX), &[json, data])),
            Self::Raw(packet) => (2, packet.clone()),
            Self::Fill { bytes, json } => (3, with(*bytes, &[json])),
            Self::Again(times) => (4, vec![*times]),
            Self::File => (5, Vec::new()),
            Self::Write { at, bytes } => (6, with(*at, &[bytes])),
            Self::Leave => (7, Vec::new()),
            Self::Pause(millis) => (8, vec![*millis]),
            Self::Quiet => (9, Vec::new()),
        }
    }
}
