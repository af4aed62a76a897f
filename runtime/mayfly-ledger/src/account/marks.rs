//! Which usage stands behind which bytes of an answer. A handler works ahead of its caller by what the buffers between them
//! hold; what is durable must not.

use std::collections::VecDeque;

use super::Subject;

/// Marks kept at once. An answer whose bytes wait in more places than this is billed a little further ahead.
const MARKS_MAX: usize = 1024;

/// Usage as it was when a stretch of the answer had been made.
#[derive(Debug)]
pub(super) struct Mark {
    /// Bytes of the answer up to the end of the stretch.
    end: u64,
    /// How often usage had grown.
    pub(super) grown: u64,
    pub(super) used: Vec<(Subject, i64)>,
}

/// The marks of what was made and has not left.
#[derive(Debug, Default)]
pub(super) struct Marks {
    made: u64,
    /// The body that was written to.
    body: Option<u32>,
    /// More than one was.
    mixed: bool,
    waiting: VecDeque<Mark>,
}

impl Marks {
    /// `bytes` more were made after usage had grown `grown` times; `used` is asked for only if that is new.
    pub(super) fn add(&mut self, body: u32, bytes: usize, grown: u64, used: impl FnOnce() -> Vec<(Subject, i64)>) {
        if *self.body.get_or_insert(body) != body {
            self.mixed = true;
            self.waiting.clear();
        }
        if self.mixed {
            return;
        }
        self.made = self.made.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let room = self.waiting.len() < MARKS_MAX;
        match self.waiting.back_mut() {
            Some(last) if last.grown == grown => last.end = self.made,
            _ if room => self.waiting.push_back(Mark { end: self.made, grown, used: used() }),
            // Bytes without a mark count as made with the next ones.
            _ => {}
        }
    }

    /// Drops the marks of what ended before the first `upto` bytes did.
    pub(super) fn leave(&mut self, upto: u64) {
        while self.waiting.front().is_some_and(|mark| mark.end < upto) {
            self.waiting.pop_front();
        }
    }

    /// The first mark that is left. None if nothing was marked since: then all usage stands behind what leaves.
    pub(super) fn first(&self) -> Option<&Mark> {
        self.waiting.front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Usage is told apart by how often it has grown.
    fn grown(marks: &mut Marks, upto: u64) -> Option<u64> {
        marks.leave(upto);
        marks.first().map(|mark| mark.grown)
    }

    #[test]
    fn bytes_have_the_usage_of_their_time() {
        let mut marks = Marks::default();
        assert_eq!(grown(&mut marks, 0), None);
        for (bytes, at) in [(10, 1), (5, 1), (10, 4), (0, 5), (1, 6)] {
            marks.add(0, bytes, at, Vec::new);
        }
        let check = |marks: &mut Marks, upto, expect| assert_eq!(grown(marks, upto), expect, "{upto}");
        check(&mut marks, 0, Some(1));
        check(&mut marks, 15, Some(1));
        check(&mut marks, 16, Some(4));
        check(&mut marks, 25, Some(4));
        check(&mut marks, 26, Some(6));
        check(&mut marks, 27, None);
    }

    #[test]
    fn whoever_writes_to_two_bodies_is_billed_what_was_done() {
        let mut marks = Marks::default();
        marks.add(0, 1_000_000, 0, Vec::new);
        assert_eq!(grown(&mut marks, 10), Some(0));
        marks.add(1, 10, 7, Vec::new);
        marks.add(0, 10, 8, Vec::new);
        assert_eq!(grown(&mut marks, 10), None);
    }

    #[test]
    fn marks_are_bounded_and_err_on_the_side_of_the_bill() {
        let mut marks = Marks::default();
        let made = u64::try_from(MARKS_MAX).expect("small") + 10;
        for at in 1..=made {
            marks.add(0, 1, at, Vec::new);
        }
        assert_eq!(marks.waiting.len(), MARKS_MAX);
        assert_eq!(grown(&mut marks, 3), Some(3));
        assert_eq!(grown(&mut marks, made), None, "all of it");
        marks.add(0, 1, made + 1, Vec::new);
        assert_eq!(grown(&mut marks, made), Some(made + 1));
    }
}
