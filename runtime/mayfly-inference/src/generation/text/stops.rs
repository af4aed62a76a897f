//! Stop strings in text that comes in pieces.

#[derive(Debug)]
pub(super) struct Stops {
    stops: Vec<String>,
    longest: usize,
}

impl Stops {
    pub(super) fn new(stops: &[String]) -> Self {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        Self { stops: stops.to_vec(), longest }
    }

    /// Where the stop string begins that is complete first behind the first `seen` bytes of `text`; the longest of
    /// several. So the answer does not depend on the pieces in which the text came.
    pub(super) fn first_in(&self, text: &str, seen: usize) -> Option<usize> {
        let bytes = text.as_bytes();
        (seen + 1..=bytes.len()).find_map(|end| {
            let complete = self.stops.iter().filter(|stop| bytes[..end].ends_with(stop.as_bytes()));
            complete.map(|stop| end - stop.len()).min()
        })
    }

    /// Bytes at the end of `text` that may be the beginning of a stop string. Whole characters, as stop strings are.
    pub(super) fn begun_at_end_of(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        let most = self.longest.saturating_sub(1).min(bytes.len());
        let begins = |length: &usize| {
            let end = &bytes[bytes.len() - length..];
            self.stops.iter().any(|stop| stop.len() > *length && stop.as_bytes().starts_with(end))
        };
        (1..=most).rev().find(begins).unwrap_or(0)
    }
}
