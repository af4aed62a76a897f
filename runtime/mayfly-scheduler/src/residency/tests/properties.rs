//! Whatever comes, in whatever order: the rules hold (the device checks them), and nobody is forgotten.

use proptest::prelude::*;

use super::device::{Answer, Device, State, settings};
use crate::residency::{SessionId, Settings};

const FAR: u64 = u64::MAX / 4;

#[derive(Debug, Clone)]
enum Event {
    Ask { bytes: u64, patience: u64 },
    Join { at: usize, patience: u64 },
    Want { bytes: u64, evicts: bool },
    Leave { at: usize },
    Pin { at: usize, pinned: bool },
    Work { at: usize },
    Rest { at: usize },
    LoadEnds { percent: Option<u64> },
    UnloadsEnd,
    Time { ns: u64 },
    Settle { kept: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let at = || 0..64_usize;
    let patience = || prop_oneof![0..50_u64, Just(FAR)];
    prop_oneof![
        4 => (1..130_u64, patience()).prop_map(|(bytes, patience)| Event::Ask { bytes, patience }),
        1 => (at(), patience()).prop_map(|(at, patience)| Event::Join { at, patience }),
        1 => (1..60_u64, any::<bool>()).prop_map(|(bytes, evicts)| Event::Want { bytes, evicts }),
        1 => at().prop_map(|at| Event::Leave { at }),
        1 => (at(), prop::bool::weighted(0.3)).prop_map(|(at, pinned)| Event::Pin { at, pinned }),
        2 => at().prop_map(|at| Event::Work { at }),
        2 => at().prop_map(|at| Event::Rest { at }),
        4 => prop_oneof![4 => Just(Some(100)), 1 => (10..100_u64).prop_map(Some), 1 => Just(None)]
            .prop_map(|percent| Event::LoadEnds { percent }),
        3 => Just(Event::UnloadsEnd),
        2 => (1..40_u64).prop_map(|ns| Event::Time { ns }),
        6 => any::<u64>().prop_map(|kept| Event::Settle { kept }),
    ]
}

/// One of the sessions there are, or are asked for.
fn pick(device: &Device, at: usize) -> Option<SessionId> {
    let all: Vec<_> = device.known.keys().copied().chain(device.queue.iter().map(|(id, ..)| *id)).collect();
    (!all.is_empty()).then(|| all[at % all.len()])
}

fn apply(device: &mut Device, event: &Event) {
    let until = |now: u64, patience: u64| now.saturating_add(patience);
    match *event {
        Event::Ask { bytes, patience } => drop(device.ask(bytes, until(device.now, patience))),
        Event::Join { at, patience } => {
            let coming = |id: &SessionId| device.is_queued(*id) || device.loading() == Some(*id);
            if let Some(id) = pick(device, at).filter(coming) {
                device.join(id, until(device.now, patience));
            }
        }
        Event::Want { bytes, evicts } => drop(device.want(bytes, evicts)),
        Event::Leave { at } => {
            let all: Vec<_> = device.waits.keys().copied().collect();
            if !all.is_empty() {
                device.leave(all[at % all.len()]);
            }
        }
        Event::Pin { at, pinned } => {
            if let Some(id) = pick(device, at) {
                device.pin(id, pinned);
            }
        }
        Event::Work { at } | Event::Rest { at } => {
            if let Some(id) = pick(device, at) {
                device.does(id, matches!(event, Event::Work { .. }));
            }
        }
        Event::LoadEnds { percent } => {
            let bytes = device.loading().map_or(0, |id| device.known[&id].bytes);
            device.load_ends(percent.map(|percent| bytes * percent / 100));
        }
        Event::UnloadsEnd => device.unloads_end(),
        Event::Time { ns } => device.now += ns,
        Event::Settle { kept } => device.settle(|id| kept >> (id.0 % 64) & 3 == 3),
    }
}

/// Nobody works, nothing is pinned, time passes: everything that can come does.
fn calm(device: &mut Device) {
    let pinned: Vec<_> = device.known.keys().copied().chain(device.queue.iter().map(|(id, ..)| *id)).collect();
    pinned.into_iter().for_each(|id| device.pin(id, false));
    for _ in 0..200 {
        let all: Vec<_> = device.known.keys().copied().collect();
        all.into_iter().for_each(|id| device.does(id, false));
        device.settle(|_| false);
        let bytes = device.loading().map(|id| device.known[&id].bytes);
        device.load_ends(bytes);
        device.unloads_end();
        device.now += device.settings.stay_ns;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_and_everybody_is_answered(
        events in prop::collection::vec(event(), 1..120),
        sessions_max in 1..8_u32,
        passes_max in 0..4_u32,
    ) {
        let mut device = Device::new(Settings { sessions_max, passes_max, ..settings() });
        for event in &events {
            apply(&mut device, event);
            prop_assert!(device.bytes() <= 100, "{} bytes after {event:?}", device.bytes());
            let load = device.core.load();
            prop_assert_eq!(load.bytes.own, device.bytes());
            prop_assert_eq!(load.waiting as usize, device.waits.len());
            prop_assert_eq!(load.queued as usize, device.queue.len());
        }
        calm(&mut device);
        prop_assert!(device.waits.is_empty() && device.queue.iter().all(|(_, _, stands, _)| *stands), "{device:?}");
        // Who waited for good got it, unless its load failed: in the calm nobody else is refused. Those that stand and let
        // nobody go for them come once what is there has idled out, one after the other; then these go, too.
        for _ in 0..2 * device.queue.len() + 2 {
            device.now += device.settings.idle_ns;
            device.settle(|_| false);
            let bytes = device.loading().map(|id| device.known[&id].bytes);
            device.load_ends(bytes);
            device.unloads_end();
        }
        device.now += device.settings.idle_ns;
        device.settle(|_| false);
        prop_assert!(device.queue.is_empty(), "{device:?}");
        prop_assert!(device.known.values().all(|known| known.state == State::Leaving), "{device:?}");
    }

    /// Under work that never rests for long, the order of arrival is all that counts among loads of one size.
    #[test]
    fn equals_are_served_in_order(count in 2..12_usize, rests in prop::collection::vec(0..8_usize, 20..60)) {
        let mut device = Device::new(Settings { sessions_max: 2, ..settings() });
        let mut order = Vec::new();
        for _ in 0..count {
            order.push(device.ask(40, FAR).unwrap().1);
        }
        let mut served = Vec::new();
        for rest in rests {
            device.now += 7;
            let all: Vec<_> = device.known.keys().copied().collect();
            all.iter().enumerate().for_each(|(at, id)| device.does(*id, at != rest % 4));
            device.settle(|_| false);
            device.load_ends(Some(40));
            device.unloads_end();
            let new = device.answers.iter().filter(|(id, _)| !served.contains(*id)).map(|(id, _)| *id);
            let new: Vec<_> = new.collect();
            served.extend(new);
        }
        prop_assert_eq!(&served[..], &order[..served.len()]);
        prop_assert!(device.answers.values().all(|answer| *answer == Answer::Loaded));
    }
}

#[test]
fn measures_above_predictions_are_brought_back_within_the_budget() {
    let mut device = Device::new(settings());
    for _ in 0..30 {
        let _ = device.ask(20, FAR);
        device.settle(|_| false);
        device.load_ends(Some(35));
        device.now += device.settings.stay_ns;
        device.settle(|_| false);
        device.unloads_end();
        assert!(device.surprised && device.bytes() <= 100, "{} bytes", device.bytes());
    }
}
