//! Whose turn to be refused it is while the node fills up.
//!
//! Each may hold so many times what is still free. One alone so never takes all, several take alike, and whoever holds
//! least is refused last: there is always something free for who comes next. No list of who there is has to be kept.

/// A tenant may hold this many times the free places: alone, eight ninths of the node.
pub(super) const TENANT: u32 = 8;
/// A deployment may hold this many times the free places: alone, four fifths of the node.
pub(super) const DEPLOYMENT: u32 = 4;

/// Whether who holds `open` may take one of `free`.
pub(super) fn has_room(open: u32, free: u32, share: u32) -> bool {
    open < free.saturating_mul(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of `greedy` ones holds once all have asked in turns until nobody gets anything.
    fn settled(calls_max: u32, greedy: usize, share: u32) -> Vec<u32> {
        let mut held = vec![0_u32; greedy];
        loop {
            let before = held.clone();
            for one in 0..greedy {
                let free = calls_max - held.iter().sum::<u32>();
                held[one] += u32::from(has_room(held[one], free, share));
            }
            if held == before {
                return held;
            }
        }
    }

    #[test]
    fn one_alone_leaves_something_free() {
        assert_eq!(settled(9_000, 1, TENANT), [8_000]);
        assert_eq!(settled(10_000, 1, DEPLOYMENT), [8_000]);
    }

    #[test]
    fn several_hold_alike() {
        for (greedy, share) in [(2, DEPLOYMENT), (3, TENANT), (100, TENANT)] {
            let held = settled(10_000, greedy, share);
            let (least, most) = (held.iter().min().copied(), held.iter().max().copied());
            assert!(most <= least.map(|least| least + share), "{held:?}");
            assert!(held.iter().sum::<u32>() < 10_000, "something is left for who comes next");
        }
    }

    #[test]
    fn a_node_of_one_place_has_one() {
        assert_eq!(settled(1, 1, DEPLOYMENT), [1]);
        assert_eq!(settled(4, 1, DEPLOYMENT), [4]);
    }
}
