//! Coming and going.

use super::*;

#[test]
fn a_full_queue_refuses_whoever_has_most() {
    let small = Settings { runs_max: 4, ..SETTINGS };
    let mut batcher = filled(small, (0..4).map(|job| run(1, job, None)));
    assert_eq!(batcher.push(run(1, 4, None)), Pushed::Full(4));
    assert_eq!(batcher.push(run(2, 5, None)), Pushed::InsteadOf(3));
    assert_eq!(batcher.push(run(2, 6, None)), Pushed::InsteadOf(2));
    // Two each: nobody is put before the other.
    assert_eq!(batcher.push(run(2, 7, None)), Pushed::Full(7));
    assert_eq!(batcher.push(run(1, 8, None)), Pushed::Full(8));
    assert_eq!(batcher.push(run(3, 9, None)), Pushed::InsteadOf(6), "the last of those who have most");
    assert_eq!(batcher.len(), 4);
}

#[test]
fn the_dead_are_dropped_before_a_run() {
    let mut batcher = filled(SETTINGS, (0..4).map(|job| run(1, job, shape(1, 1))));
    let mut dropped = Vec::new();
    let taken = batcher.take(at(9), ONE, |job| job % 2 == 1, &mut dropped);
    assert!(matches!(taken, Take::Run(jobs) if jobs == [0, 2]));
    assert_eq!((dropped, batcher.len()), (vec![1, 3], 0));
}

#[test]
fn who_leaves_is_taken_out() {
    let mut batcher = filled(SETTINGS, (0..3).map(|job| run(1, job, None)));
    assert_eq!(batcher.remove(|job| *job == 1), [1]);
    assert_eq!(batcher.remove(|job| *job == 1), [0_u32; 0]);
    let rest: Vec<u32> = batcher.drain().map(|run| run.job).collect();
    assert_eq!((rest, batcher.len()), (vec![0, 2], 0));
}
