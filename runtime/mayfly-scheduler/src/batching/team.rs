//! Which sessions of a graph work at the same time: the wide one, whose runs use all threads, or the narrow ones, which
//! share them out.
//!
//! A run on all threads is done soonest, but its threads wait for each other at every operation; as many runs as there are
//! threads, on one each, are done sooner than one after the other. So the wide session serves while little waits, and once
//! there is something for every narrow one they work instead of it.

use std::num::NonZeroUsize;

/// How a graph's threads are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Team {
    /// Narrow sessions at most.
    narrow_max: usize,
    /// Threads of each.
    narrow_threads: NonZeroUsize,
    /// So many narrow ones use all threads and take the wide one's place; none where the narrow ones there may be are too
    /// few for that: then every session works whenever it is free.
    whole: Option<NonZeroUsize>,
}

/// The sessions of a graph at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Working {
    /// The wide session has no work.
    pub wide_free: bool,
    /// Narrow sessions without work.
    pub narrow_free: usize,
    /// Narrow sessions that work.
    pub narrow_working: usize,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The wide session takes what waits.
    Wide,
    /// A narrow session takes its share of what waits: one of so many.
    Narrow {
        /// Sessions that share what waits, this one included.
        sharers: NonZeroUsize,
    },
    /// What waits goes on waiting.
    Nobody,
}

impl Team {
    /// Of `sessions_max` sessions at most, the wide one included, for `threads` threads.
    pub fn new(threads: usize, sessions_max: usize) -> Self {
        let narrow_max = sessions_max.saturating_sub(1);
        let each = threads.div_ceil(narrow_max.max(1));
        let whole = threads.div_ceil(each.max(1));
        if narrow_max < 2 || whole < 2 {
            return Self { narrow_max, narrow_threads: NonZeroUsize::MIN, whole: None };
        }
        Self {
            narrow_max: whole,
            narrow_threads: NonZeroUsize::new(each).unwrap_or(NonZeroUsize::MIN),
            whole: NonZeroUsize::new(whole),
        }
    }

    /// Narrow sessions at most.
    pub fn narrow_max(&self) -> usize {
        self.narrow_max
    }

    /// Threads of a narrow session's runs.
    pub fn narrow_threads(&self) -> NonZeroUsize {
        self.narrow_threads
    }

    /// Whether one more narrow session could be of use to runs that can be joined: they never wait for each other, but
    /// are done sooner by narrow sessions once these use all threads.
    pub fn shares_joined(&self, working: &Working) -> bool {
        self.whole.is_some() && !self.is_whole(working)
    }

    fn is_whole(&self, working: &Working) -> bool {
        self.whole.is_some_and(|whole| working.narrow_free + working.narrow_working >= whole.get())
    }

    /// Whether what waits, `waiting` runs of which `joined` can be joined with others, has something for every narrow
    /// session.
    pub fn is_plenty(&self, waiting: usize, joined: usize) -> bool {
        // Two that cannot be joined gain from each other's company at once; those that can, from a run on all threads.
        let least = if joined < waiting { 2 } else { self.whole.map_or(2, NonZeroUsize::get) };
        waiting >= least
    }

    /// Whose turn it is. `is_plenty` is only asked where it matters.
    pub fn turn(&self, working: &Working, is_plenty: impl FnOnce() -> bool) -> Turn {
        let narrow = |sharers| NonZeroUsize::new(sharers).map_or(Turn::Nobody, |sharers| Turn::Narrow { sharers });
        if !self.is_whole(working) {
            // Each takes all there is: the others come for what does not fit in.
            return if working.wide_free { Turn::Wide } else { narrow(working.narrow_free.min(1)) };
        }
        match (working.wide_free, working.narrow_working) {
            (false, _) => Turn::Nobody,
            (true, 0) if !is_plenty() => Turn::Wide,
            (true, _) => narrow(working.narrow_free),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working(wide_free: bool, narrow_free: usize, narrow_working: usize) -> Working {
        Working { wide_free, narrow_free, narrow_working }
    }

    fn sharing(sharers: usize) -> Turn {
        Turn::Narrow { sharers: NonZeroUsize::new(sharers).expect("not zero") }
    }

    #[test]
    fn threads_are_shared_out() {
        let shape = |threads, sessions| {
            let team = Team::new(threads, sessions);
            (team.narrow_max(), team.narrow_threads().get(), team.whole.map(NonZeroUsize::get))
        };
        assert_eq!(shape(2, 3), (2, 1, Some(2)));
        assert_eq!(shape(2, 9), (2, 1, Some(2)), "more than threads are of no use");
        assert_eq!(shape(16, 9), (8, 2, Some(8)));
        assert_eq!(shape(12, 9), (6, 2, Some(6)));
        assert_eq!(shape(4, 3), (2, 2, Some(2)));
        assert_eq!(shape(2, 2), (1, 1, None), "one beside it takes nobody's place");
        assert_eq!(shape(1, 9), (8, 1, None), "as wide as they are");
        assert_eq!(shape(2, 1), (0, 1, None));
        assert_eq!(shape(2, 0), (0, 1, None));
    }

    #[test]
    fn the_wide_session_serves_while_little_waits() {
        let team = Team::new(4, 9);
        assert_eq!(team.turn(&working(true, 4, 0), || team.is_plenty(3, 3)), Turn::Wide);
        assert_eq!(team.turn(&working(true, 4, 0), || team.is_plenty(4, 4)), sharing(4));
        assert_eq!(team.turn(&working(true, 4, 0), || team.is_plenty(2, 0)), sharing(4), "those that cannot be joined");
        assert_eq!(team.turn(&working(true, 4, 0), || team.is_plenty(1, 0)), Turn::Wide);
        assert_eq!(team.turn(&working(false, 4, 0), || true), Turn::Nobody, "it has all the threads");
        assert_eq!(team.turn(&working(true, 1, 3), || false), sharing(1), "a thread is free");
        assert_eq!(team.turn(&working(true, 0, 4), || true), Turn::Nobody);
    }

    #[test]
    fn too_few_narrow_ones_work_beside_the_wide_one() {
        let team = Team::new(4, 9);
        assert!(team.shares_joined(&working(true, 3, 0)) && !team.shares_joined(&working(true, 2, 2)));
        assert_eq!(team.turn(&working(true, 3, 0), || true), Turn::Wide);
        assert_eq!(team.turn(&working(false, 2, 1), || true), sharing(1));
        assert_eq!(team.turn(&working(false, 0, 3), || true), Turn::Nobody);
        let alone = Team::new(4, 1);
        assert!(!alone.shares_joined(&working(true, 0, 0)));
        assert_eq!(alone.turn(&working(true, 0, 0), || true), Turn::Wide);
        assert_eq!(alone.turn(&working(false, 0, 0), || true), Turn::Nobody);
    }
}
