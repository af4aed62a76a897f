//! How much a run costs, from resolved slots and actual values. Pure: no tensors, no names, no I/O.
//!
//! Quantities are those of DESIGN's "Metering". What the host adds to a run (padding, batching) never gets here.
//!
//! A decoder's token is paid for once, as what it was: an input if the guest brought it, an output if the model gave it.
//! Somebody who runs a decode loop over `wasi:nn` so pays what `generation` would have cost: the tokens of the prompt as
//! input, however they were cut into runs, and one output token for each last position that was looked at.

/// Input elements to one unit of the meter `elements`.
pub(crate) const ELEMENTS_PER_UNIT: u64 = 1024;

/// A row in which every position is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EmptyRow(pub(crate) usize);

/// Input tokens of an encoder run of `rows` times `positions`.
///
/// `is_padding(i)`, with `i` row-major, says whether a position is masked *and* holds the padding token. It is free only
/// if such positions reach from it to the row's beginning or end: a hole in the middle is work. The charge is what is
/// kept, but at least a quarter (rounded up) of what was submitted, since padding is computed too.
///
/// # Errors
/// [`EmptyRow`], the first row that keeps nothing.
pub(crate) fn encoder_tokens(
    rows: usize,
    positions: usize,
    is_padding: impl Fn(usize) -> bool,
) -> Result<u64, EmptyRow> {
    let mut kept = 0_u64;
    for row in 0..rows {
        let places = row * positions..(row + 1) * positions;
        let leading = places.clone().take_while(|&at| is_padding(at)).count();
        if leading == positions {
            return Err(EmptyRow(row));
        }
        let trailing = places.rev().take_while(|&at| is_padding(at)).count();
        kept += (positions - leading - trailing) as u64;
    }
    let submitted = rows as u64 * positions as u64;
    Ok(kept.max(submitted.div_ceil(4)))
}

/// Input tokens of a decoder run: `positions` new ones in each row behind `past` earlier ones.
///
/// One new position behind a past is free if the outputs of the runs that left this past were `seen`: it is the token
/// that was chosen from them, and seeing them was charged as an output token. Where nobody looked, nothing was chosen:
/// the guest brings a token of its own, and a prompt fed one by one costs what it costs in one run. Attention state
/// cannot be copied, so each run that was seen makes one step free.
pub(crate) fn decoder_input_tokens(rows: u64, positions: u64, past: u64, seen: bool) -> u64 {
    if past > 0 && positions == 1 && seen { 0 } else { rows.saturating_mul(positions) }
}

/// Units of a graph that has neither tokens nor fixed rows; a run is never free.
pub(crate) fn element_units(elements: u64) -> u64 {
    elements.div_ceil(ELEMENTS_PER_UNIT).max(1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAD: i64 = 0;

    /// Rows of (id, mask), all of one length.
    fn charge(rows: &[Vec<(i64, i64)>]) -> Result<u64, EmptyRow> {
        let flat = rows.concat();
        encoder_tokens(rows.len(), rows[0].len(), |at| flat[at] == (PAD, 0))
    }

    fn text(kept: usize, leading: usize, trailing: usize) -> Vec<(i64, i64)> {
        let mut row = vec![(PAD, 0); leading];
        row.extend((0..kept).map(|id| (i64::try_from(id).unwrap() + 5, 1)));
        row.extend(vec![(PAD, 0); trailing]);
        row
    }

    #[test]
    fn examples() {
        assert_eq!(charge(&[text(6, 0, 2)]), Ok(6));
        // A quarter of what was submitted, rounded up.
        assert_eq!(charge(&[text(1, 0, 8)]), Ok(3));
        assert_eq!(charge(&[text(8, 0, 0), text(1, 4, 3)]), Ok(9));
        assert_eq!(charge(&[text(4, 0, 0), text(0, 2, 2)]), Err(EmptyRow(1)));
        for (positions, past, seen, tokens) in
            [(7, 0, false, 14), (7, 5, true, 14), (1, 5, true, 0), (1, 5, false, 2), (1, 0, true, 2), (1, 0, false, 2)]
        {
            assert_eq!(
                decoder_input_tokens(2, positions, past, seen),
                tokens,
                "{positions} behind {past}, seen: {seen}"
            );
        }
        assert_eq!([element_units(0), element_units(1024), element_units(1025)], [1, 1, 2]);
    }

    proptest! {
        #[test]
        fn a_decoder_s_prompt_costs_its_length_however_it_is_cut(cuts in proptest::collection::vec(1_u64..9, 1..20)) {
            let mut past = 0;
            let mut charged = 0;
            for positions in &cuts {
                charged += decoder_input_tokens(1, *positions, past, false);
                past += positions;
            }
            prop_assert_eq!(charged, past);
        }

        #[test]
        fn zeroed_masks_save_nothing(kept in 1_usize..40, zeroed in proptest::collection::vec(any::<bool>(), 40)) {
            let honest = text(kept, 0, 0);
            let cheat: Vec<_> = honest.iter().zip(&zeroed).map(|((id, mask), zero)| (*id, if *zero { 0 } else { *mask })).collect();
            prop_assert_eq!(charge(&[cheat]), charge(&[honest]));
        }

        #[test]
        fn padding_tokens_without_a_zero_mask_save_nothing(row in proptest::collection::vec((0_i64..3, Just(1_i64)), 1..40)) {
            let length = row.len() as u64;
            prop_assert_eq!(charge(&[row]), Ok(length));
        }

        #[test]
        fn holes_are_charged(first in 1_usize..10, hole in 1_usize..10, last in 1_usize..10) {
            let mut row = text(first, 0, hole);
            row.extend(text(last, 0, 0));
            prop_assert_eq!(charge(&[row]), Ok((first + hole + last) as u64));
        }

        #[test]
        fn where_the_padding_stands_changes_nothing(
            lengths in proptest::collection::vec(1_usize..20, 1..6),
            left in proptest::collection::vec(0_usize..20, 6),
            order in any::<prop::sample::Index>(),
        ) {
            let width = *lengths.iter().max().unwrap();
            let rows = |lead: &dyn Fn(usize, usize) -> usize| -> Vec<_> {
                lengths.iter().enumerate().map(|(row, &length)| {
                    let free = width - length;
                    let leading = lead(row, free);
                    text(length, leading, free - leading)
                }).collect()
            };
            let right = rows(&|_, _| 0);
            let mut mixed = rows(&|row, free| left[row].min(free));
            let by = order.index(mixed.len());
            mixed.rotate_left(by);
            prop_assert_eq!(charge(&right), charge(&mixed));
        }

        #[test]
        fn never_below_what_is_kept_nor_below_a_quarter(
            rows in proptest::collection::vec(proptest::collection::vec((0_i64..3, 0_i64..2), 12), 1..5),
        ) {
            let submitted = rows.len() as u64 * 12;
            let visible = rows.iter().flatten().filter(|(id, mask)| *mask == 1 || *id != PAD).count() as u64;
            match charge(&rows) {
                Ok(charge) => prop_assert!(charge >= visible && charge * 4 >= submitted && charge <= submitted),
                Err(EmptyRow(row)) => prop_assert!(rows[row].iter().all(|place| *place == (PAD, 0))),
            }
        }
    }
}
