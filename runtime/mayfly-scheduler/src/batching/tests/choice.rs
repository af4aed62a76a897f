//! Which runs share a batch.

use super::*;

#[test]
fn what_waits_goes_together_up_to_the_budget() {
    let mut batcher = filled(SETTINGS, (0..10).map(|job| run(1, job, shape(1, 4))));
    assert_eq!(next(&mut batcher), [0, 1, 2, 3, 4, 5, 6, 7], "eight rows");
    assert_eq!(next(&mut batcher), [8, 9]);
    assert_eq!(next(&mut batcher), [0_u32; 0]);
}

#[test]
fn padding_counts_and_never_more_than_doubles_the_work() {
    // 4 rows of 16 are the 64 positions of the budget.
    let mut batcher = filled(SETTINGS, (0..5).map(|job| run(1, job, shape(1, 16))));
    assert_eq!(next(&mut batcher), [0, 1, 2, 3]);
    // 16 and 1 make 32 of 17; one more would make 48 of 18.
    let lengths = [16, 1, 1, 1];
    let mut batcher = filled(SETTINGS, (0..4).zip(lengths).map(|(job, length)| run(1, job, shape(1, length))));
    assert_eq!(next(&mut batcher), [0, 1]);
    assert_eq!(next(&mut batcher), [2, 3]);
}

#[test]
fn only_what_can_be_joined_is_joined() {
    let like = |size| Some(Shape { rows: 1, positions: 1, pads: false, like: [size].into() });
    let fixed = |positions| Some(Shape { rows: 1, positions, pads: false, like: Box::default() });
    let mut batcher = filled(SETTINGS, [run(1, 0, like(7)), run(1, 1, like(8)), run(1, 2, None), run(1, 3, like(7))]);
    assert_eq!(next(&mut batcher), [0, 3]);
    assert_eq!(next(&mut batcher), [1]);
    assert_eq!(next(&mut batcher), [2], "it can be joined with nothing");
    let mut batcher = filled(SETTINGS, [run(1, 0, fixed(4)), run(1, 1, fixed(5)), run(1, 2, fixed(4))]);
    assert_eq!(next(&mut batcher), [0, 2]);
}

#[test]
fn what_is_larger_than_the_budget_runs_alone() {
    let mut batcher = filled(SETTINGS, [run(1, 0, shape(100, 50)), run(1, 1, shape(1, 50))]);
    assert_eq!(next(&mut batcher), [0]);
    assert_eq!(next(&mut batcher), [1]);
}

#[test]
fn owners_share_a_batch_and_take_turns_in_what_does_not_fit() {
    // One owner has many runs, another came later with two.
    let many = (0..20).map(|job| run(1, job, shape(1, 8)));
    let mut batcher = filled(SETTINGS, many.chain([run(2, 20, shape(1, 8)), run(2, 21, shape(1, 8))]));
    assert_eq!(next(&mut batcher), [0, 1, 2, 3, 4, 5, 20, 21]);
    // Where nothing can be joined they alternate.
    let mut batcher = filled(SETTINGS, (0..6).map(|job| run(1, job, None)).chain((6..8).map(|job| run(2, job, None))));
    let order: Vec<u32> = std::iter::from_fn(|| next(&mut batcher).first().copied()).collect();
    assert_eq!(order, [0, 6, 1, 7, 2, 3, 4, 5]);
}

#[test]
fn nobody_waits_for_ever() {
    // Owner 9 had a large run; new owners come and come, each served less than it.
    let mut batcher = filled(SETTINGS, [run(9, 0, shape(8, 8)), run(9, 1, shape(8, 8)), run(10, 2, None)]);
    assert_eq!(next(&mut batcher), [0]);
    for job in 3..100 {
        batcher.push(run(u128::from(job) + 10, job, None));
        if next(&mut batcher).contains(&1) {
            return;
        }
    }
    panic!("it was passed over for ever");
}

#[test]
fn a_delay_waits_for_company_but_not_where_the_batch_is_full_or_the_time_over() {
    let patient = Settings { delay: at(5), ..SETTINGS };
    let mut batcher = filled(patient, [run(1, 10, shape(1, 8))]);
    let take = |batcher: &mut Batcher<u32>, ms| batcher.take(at(ms), ONE, |_| false, &mut Vec::new());
    assert!(matches!(take(&mut batcher, 12), Take::WaitUntil(time) if time == at(15)));
    assert!(matches!(take(&mut batcher, 15), Take::Run(jobs) if jobs == [10]));
    // Alone by its nature, or with as much company as fits.
    let mut batcher = filled(patient, [run(1, 10, None)]);
    assert!(matches!(take(&mut batcher, 10), Take::Run(_)));
    let mut batcher = filled(patient, (10..18).map(|job| run(1, job, shape(1, 8))));
    assert!(matches!(take(&mut batcher, 10), Take::Run(jobs) if jobs.len() == 8));
}
