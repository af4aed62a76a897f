//! Random days of an engine: whatever comes in whatever order, every step is right and everybody ends exactly once.

use proptest::prelude::*;

use super::simulation::{MS, Simulation};
use crate::generation::{Owner, Refused, ReuseScope, SequenceId, Settings, Submission};

#[derive(Clone, Debug)]
enum Event {
    Submit {
        owner: u8,
        scope: u8,
        prompt: Vec<u32>,
        new: u32,
        choices: u8,
        deadline_ms: Option<u64>,
    },
    Steps(u8),
    Read {
        who: usize,
        tokens: u32,
    },
    Leave {
        who: usize,
    },
    /// While the next step runs.
    LeaveMeanwhile {
        who: usize,
    },
    Fail,
    Wait {
        ms: u64,
    },
}

/// Prompts of few tokens over few letters, so that beginnings coincide.
fn prompts() -> impl Strategy<Value = Vec<u32>> {
    let common = prop_oneof![Just(vec![]), Just(vec![1, 2, 3, 4, 0, 1, 2, 3, 4]), Just(vec![1, 2, 3, 3, 3])];
    (common, prop::collection::vec(0u32..4, 0..14)).prop_map(|(common, rest)| [common, rest].concat())
}

fn events() -> impl Strategy<Value = Event> {
    let deadline = prop::option::weighted(0.2, 1u64..400);
    prop_oneof![
        4 => (0u8..3, 0u8..3, prompts(), 0u32..14, 1u8..4, deadline).prop_map(
            |(owner, scope, prompt, new, choices, deadline_ms)| Event::Submit {
                owner, scope, prompt, new, choices, deadline_ms
            }
        ),
        6 => (1u8..12).prop_map(Event::Steps),
        4 => (0usize..20, 1u32..20).prop_map(|(who, tokens)| Event::Read { who, tokens }),
        1 => (0usize..20).prop_map(|who| Event::Leave { who }),
        1 => (0usize..20).prop_map(|who| Event::LeaveMeanwhile { who }),
        1 => Just(Event::Fail),
        1 => (1u64..120).prop_map(|ms| Event::Wait { ms }),
    ]
}

fn limits() -> impl Strategy<Value = Settings> {
    let sizes = (1u32..6, 8u32..40, 20u64..160, 1u32..12);
    let times = (1u32..8, 50u64..300, 1u32..12, 1u64..30);
    (sizes, times, any::<bool>()).prop_map(|(sizes, times, batched)| Settings {
        slots: sizes.0,
        context_max: sizes.1,
        kv_tokens_max: sizes.2,
        waiting_max: sizes.3,
        ahead_max: times.0,
        stall_after_ns: times.1 * MS,
        prefill_chunk_max: times.2,
        step_target_ns: times.3 * MS,
        batched,
    })
}

fn apply(simulation: &mut Simulation, event: Event) {
    let open = simulation.open();
    let pick = |who: usize| open.get(who % open.len().max(1)).copied();
    match event {
        Event::Submit { owner, scope, prompt, new, choices, deadline_ms } => {
            let reuse = (scope > 0).then_some(ReuseScope([scope; 32]));
            let deadline_ns = deadline_ms.map_or(u64::MAX, |ms| simulation.now + ms * MS);
            let first = simulation.request(&prompt, new);
            let first = Submission { owner: Owner(owner.into()), reuse, deadline_ns, ..first };
            for choice in 0..choices {
                let id = if choice == 0 { first.id } else { simulation.request(&prompt, new).id };
                submit(simulation, Submission { id, ..first.clone() });
            }
        }
        Event::Steps(count) => drop(simulation.steps(count.into())),
        Event::Read { who, tokens } => {
            if let Some(id) = pick(who) {
                simulation.read(id, tokens);
            }
        }
        Event::Leave { who } => {
            if let Some(id) = pick(who) {
                simulation.leave(id);
            }
        }
        Event::LeaveMeanwhile { who } => simulation.leave_meanwhile.extend(pick(who)),
        Event::Fail => drop(simulation.fail()),
        Event::Wait { ms } => simulation.now += ms * MS,
    }
}

/// Taken or refused, as the limits say.
fn submit(simulation: &mut Simulation, submission: Submission) {
    let settings = &simulation.settings;
    let tokens = submission.tokens_max();
    let limit = u64::from(settings.context_max).min(settings.kv_tokens_max);
    let (waiting, most) = (simulation.scheduler.load().waiting, settings.waiting_max);
    let expected = if submission.prompt.is_empty() || submission.new_tokens_max == 0 {
        Err(Refused::NothingToRun)
    } else if tokens > limit {
        Err(Refused::NeverFits { tokens, limit })
    } else if waiting >= most {
        Err(Refused::QueueFull { waiting, limit: most })
    } else {
        Ok(submission.id)
    };
    assert_eq!(simulation.submit(submission), expected);
}

/// No slot was lost: as many sequences as there are slots, each as large as may be, still run.
fn check_nothing_leaked(simulation: &mut Simulation) {
    let (slots, waiting_max) = (simulation.settings.slots, simulation.settings.waiting_max);
    let tokens = u64::from(simulation.settings.context_max).min(simulation.settings.kv_tokens_max);
    let prompt = vec![9; usize::try_from(tokens).expect("small") - 1];
    let ids: Vec<SequenceId> = (0..slots.min(waiting_max)).map(|_| simulation.add(&prompt, 1)).collect();
    simulation.drain();
    assert!(ids.iter().all(|id| simulation.seen(*id).accepted.len() == 1));
    simulation.check_all_ended();
    let load = simulation.scheduler.load();
    assert!(load.kv_tokens <= load.kv_tokens_max, "{load:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_is_right_and_everybody_ends_once(
        limits in limits(),
        readers_keep_up in any::<bool>(),
        events in prop::collection::vec(events(), 1..60),
    ) {
        let mut simulation = Simulation::new(limits);
        simulation.readers_keep_up = readers_keep_up;
        simulation.answers_may_stop = true;
        for event in events {
            apply(&mut simulation, event);
        }
        simulation.drain();
        simulation.check_all_ended();
        check_nothing_leaked(&mut simulation);
    }
}
