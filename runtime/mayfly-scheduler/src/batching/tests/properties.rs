//! Whatever comes in whatever order: each run is answered once, no batch is over its budget, nobody waits for ever.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::batching::batcher::PASSED_OVER_MAX;

#[derive(Clone, Debug)]
enum Event {
    Push {
        owner: Owner,
        shape: Option<Shape>,
    },
    /// By one of so many sessions, with every run whose number is a multiple of `dead` dead.
    Take {
        dead: u32,
        sharers: u32,
    },
    Leave {
        job: u32,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let shape = (1_u32..12, 1_u32..30, any::<bool>(), 0_u32..2).prop_map(|(rows, positions, pads, like)| Shape {
        rows,
        positions,
        pads,
        like: [like].into(),
    });
    prop_oneof![
        4 => (0_u128..4, proptest::option::weighted(0.8, shape)).prop_map(|(owner, shape)| Event::Push { owner, shape }),
        2 => (2_u32..40, 1_u32..5).prop_map(|(dead, sharers)| Event::Take { dead, sharers }),
        1 => (0_u32..200).prop_map(|job| Event::Leave { job }),
    ]
}

fn within_budget(batch: &[(Owner, Option<Shape>)], settings: &Settings) -> bool {
    let [first, rest @ ..] = batch else { return false };
    if rest.is_empty() {
        return true;
    }
    let shapes: Vec<&Shape> = batch.iter().filter_map(|(_, shape)| shape.as_ref()).collect();
    let rows: u32 = shapes.iter().map(|shape| shape.rows).sum();
    let longest = shapes.iter().map(|shape| shape.positions).max().unwrap_or(0);
    let same = shapes.iter().all(|shape| shape.positions == longest);
    shapes.len() == batch.len()
        && shapes.iter().all(|shape| Some(&shape.like) == first.1.as_ref().map(|shape| &shape.like))
        && (same || shapes.iter().all(|shape| shape.pads))
        && rows <= settings.rows_max
        && u64::from(rows) * u64::from(longest) <= settings.positions_max
}

proptest! {
    #[test]
    fn each_run_is_answered_once_and_no_batch_is_over_its_budget(events in proptest::collection::vec(event(), 1..200)) {
        let settings = Settings { runs_max: 12, ..SETTINGS };
        let mut batcher = Batcher::new(settings);
        let mut waiting: BTreeMap<u32, (Owner, Option<Shape>)> = BTreeMap::new();
        let mut passed: BTreeMap<Owner, u32> = BTreeMap::new();
        let mut job = 0;
        // One more take at the end for each that may be left.
        let events = events.into_iter().chain((0..12).map(|_| Event::Take { dead: u32::MAX, sharers: 1 }));
        for event in events {
            match event {
                Event::Push { owner, shape } => {
                    job += 1;
                    match batcher.push(run(owner, job, shape.clone())) {
                        Pushed::Waits => {}
                        Pushed::InsteadOf(gone) => {
                            let (other, _) = waiting.remove(&gone).unwrap();
                            let count = |of: Owner| waiting.values().filter(|(owner, _)| *owner == of).count();
                            prop_assert!(other != owner && count(other) > count(owner), "who has most gives way");
                        }
                        Pushed::Full(back) => {
                            prop_assert_eq!((back, waiting.len()), (job, settings.runs_max));
                            continue;
                        }
                    }
                    waiting.insert(job, (owner, shape));
                }
                Event::Leave { job } => {
                    let there = waiting.remove(&job).is_some();
                    prop_assert_eq!(batcher.remove(|other| *other == job), if there { vec![job] } else { vec![] });
                }
                Event::Take { dead, sharers } => {
                    let mut dropped = Vec::new();
                    let sessions = NonZeroUsize::new(sharers as usize).unwrap();
                    let taken = match batcher.take(at(100_000), sessions, |job| job.is_multiple_of(dead), &mut dropped) {
                        Take::Run(jobs) => jobs,
                        Take::Nothing => Vec::new(),
                        Take::WaitUntil(_) => panic!("there is no delay"),
                    };
                    for job in dropped {
                        prop_assert!(job.is_multiple_of(dead) && waiting.remove(&job).is_some());
                    }
                    prop_assert_eq!(taken.is_empty(), waiting.is_empty());
                    let rows: u32 = waiting.values().flat_map(|(_, shape)| shape).map(|shape| shape.rows).sum();
                    let settings = Settings { rows_max: settings.rows_max.min(rows.div_ceil(sharers)), ..settings };
                    let batch: Vec<_> = taken.iter().map(|job| waiting.remove(job).unwrap()).collect();
                    prop_assert!(batch.is_empty() || within_budget(&batch, &settings), "{batch:?}");
                    passed.retain(|owner, _| waiting.values().any(|(other, _)| other == owner));
                    for owner in waiting.values().map(|(owner, _)| *owner).collect::<std::collections::BTreeSet<_>>() {
                        let count = passed.entry(owner).or_default();
                        *count = if batch.iter().any(|(other, _)| *other == owner) { 0 } else { *count + 1 };
                        // Three others may have been passed over as often.
                        prop_assert!(*count <= PASSED_OVER_MAX + 3, "owner {owner} waits for ever");
                    }
                }
            }
            prop_assert_eq!(batcher.len(), waiting.len());
        }
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn busy_owners_are_served_alike(costs in proptest::collection::vec(1_u32..6, 2..5), rounds in 20_usize..60) {
        // Each owner always has something waiting, of its own size; nothing can be joined.
        let mut batcher = Batcher::new(SETTINGS);
        let mut served = vec![0_u64; costs.len()];
        let push = |batcher: &mut Batcher<u32>, owner: usize| {
            let cost = costs[owner].into();
            batcher.push(Waiting { cost, ..run(owner as Owner, u32::try_from(owner).unwrap(), None) });
        };
        (0..costs.len()).for_each(|owner| push(&mut batcher, owner));
        for _ in 0..rounds * costs.len() {
            for job in next(&mut batcher) {
                served[job as usize] += u64::from(costs[job as usize]);
                push(&mut batcher, job as usize);
            }
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        prop_assert!(most - least <= 12, "{served:?}");
    }
}
