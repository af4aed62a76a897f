//! Characters out of bytes that come in any pieces.

/// Bytes that are the beginning of a character, until the rest of it comes.
#[derive(Debug, Default)]
pub(super) struct Characters {
    pending: Vec<u8>,
}

impl Characters {
    /// Appends what `bytes` completes. What can be no character becomes U+FFFD, as `String::from_utf8_lossy` does it
    /// for all bytes at once.
    pub(super) fn push(&mut self, bytes: &[u8], into: &mut String) {
        if self.pending.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            into.push_str(text);
            return;
        }
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        while let Some(chunk) = rest.utf8_chunks().next() {
            into.push_str(chunk.valid());
            rest = &rest[chunk.valid().len()..];
            let bad = match std::str::from_utf8(rest) {
                Ok(_) => continue,
                Err(error) => error.error_len(),
            };
            // No length: the end is missing, and may come.
            let Some(bad) = bad else { break };
            into.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[bad..];
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
    }

    /// Whether the last character is unfinished.
    pub(super) fn is_within_one(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing more comes: an unfinished character becomes U+FFFD.
    pub(super) fn finish(&mut self, into: &mut String) {
        into.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
    }
}
