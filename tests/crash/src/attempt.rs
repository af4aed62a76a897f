//! What one client did and saw.

use crate::chat;

/// What is counted, by the client and by the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meter {
    /// Rows of the guest `meter`.
    Rows,
    /// Tokens of the deployment `chat`.
    OutputTokens,
}

impl Meter {
    /// As usage names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::OutputTokens => "output_tokens",
        }
    }
}

/// How a client broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It closed the connection; what was on its way is lost.
    Closed,
    /// It said that it sends no more, which ends the call, and counted what was on its way.
    Drained,
}

/// One call, and what its client counted.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Sent as the end user: unique, so that the bill of this call can be asked for.
    pub(crate) name: String,
    pub(crate) meter: Meter,
    /// Path and query below the deployment.
    pub(crate) path: String,
    /// Answers frame by frame, not at once.
    pub(crate) streams: bool,
    /// Sent with an `Idempotency-Key` of the same name.
    pub(crate) idempotent: bool,
    /// Rows of one frame, or of the one answer. One for tokens.
    pub(crate) rows: u64,
    /// Frames of the whole answer, or the tokens asked for.
    pub(crate) frames: u64,
    /// Frames of which at least one byte came, or the tokens that came.
    pub(crate) received: u64,
    /// The head of a success came.
    pub(crate) opened: bool,
    /// The proper end of the answer was seen.
    pub(crate) complete: bool,
    /// The client itself broke off.
    pub(crate) left: Option<Left>,
    /// The answer was a refusal (429, 503 …): nothing is owed.
    pub(crate) refused: bool,
    /// The connection was made and the whole request written.
    pub(crate) sent: bool,
    /// What is wrong with the answer itself.
    pub(crate) wrong: Option<String>,
}

impl Attempt {
    /// A call that has not been made.
    pub(crate) fn new(name: String, meter: Meter, rows: u64, frames: u64) -> Self {
        Self {
            name,
            meter,
            path: String::new(),
            streams: true,
            idempotent: false,
            rows,
            frames,
            received: 0,
            opened: false,
            complete: false,
            left: None,
            refused: false,
            sent: false,
            wrong: None,
        }
    }

    /// The least and the most that may be billed for it.
    pub(crate) fn owed(&self) -> (u64, u64) {
        let (rows, received, whole) = (self.rows, self.rows * self.received, self.rows * self.frames);
        let tokens = self.meter == Meter::OutputTokens;
        match (self.refused, self.complete, self.streams) {
            (true, ..) => (0, 0),
            (false, true, _) => (whole, whole),
            (false, false, _) if !self.sent => (0, 0),
            // Nothing of a short answer came: its row may have been durable all the same.
            (false, false, false) => (0, rows),
            (false, false, true) => {
                let beyond = match self.left {
                    // Whoever closes may have any number of frames on the way.
                    Some(Left::Closed) => return (received, whole),
                    Some(Left::Drained) => chat::AFTER_LEAVING,
                    // Who was cut has read all that was written; beyond it one frame may be paid for.
                    None if tokens => chat::AFTER_A_KILL,
                    None => rows,
                };
                (received, whole.min(received + beyond))
            }
        }
    }
}
