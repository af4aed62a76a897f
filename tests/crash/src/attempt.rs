//! What one client did and saw.

/// One call, and what its client counted.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Sent as the end user: unique, so that the bill of this call can be asked for.
    pub(crate) name: String,
    /// Path and query below the deployment.
    pub(crate) path: String,
    /// GET streams, POST answers once.
    pub(crate) streams: bool,
    /// Sent with an `Idempotency-Key` of the same name.
    pub(crate) idempotent: bool,
    /// Rows of one frame, or of the one answer.
    pub(crate) rows: u64,
    /// Frames of the whole answer.
    pub(crate) frames: u64,
    /// Frames of which at least one byte came.
    pub(crate) received: u64,
    /// The proper end of the answer was seen.
    pub(crate) complete: bool,
    /// The client itself broke off.
    pub(crate) left: bool,
    /// The answer was a refusal (429, 503 …): nothing is owed.
    pub(crate) refused: bool,
    /// The connection was made and the whole request written.
    pub(crate) sent: bool,
}

impl Attempt {
    /// The least and the most rows that may be billed for it.
    pub(crate) fn owed(&self) -> (u64, u64) {
        let rows = self.rows;
        match (self.refused, self.complete, self.streams) {
            (true, ..) => (0, 0),
            (false, true, _) => (rows * self.frames, rows * self.frames),
            // Nothing of a short answer came: its row may have been durable all the same.
            (false, false, false) => (0, if self.sent { rows } else { 0 }),
            // Whoever leaves may have frames on the way. Who was cut has read all that was written; beyond it one frame may
            // be paid for.
            (false, false, true) if self.left => (rows * self.received, rows * self.frames),
            (false, false, true) => (rows * self.received, rows * (self.received + 1).min(self.frames)),
        }
    }
}
