//! Random days: whoever comes in whatever order, every call is answered once, none begins after its deadline, no line is
//! longer than it may be, each moves in order, and a free place is never kept from somebody who waits for it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    /// A call of a deployment, with so much work and so much patience.
    Arrive {
        of: u8,
        tenant: u8,
        work: u64,
        patience: u64,
    },
    /// A new revision of a deployment.
    Limit {
        of: u8,
        running_max: Option<u32>,
        waiting_max: Option<u32>,
    },
    /// Whoever waits longest of a deployment, or runs longest, breaks off.
    Abandon {
        of: u8,
    },
    Pass {
        time: u64,
    },
}

fn events() -> impl Strategy<Value = Event> {
    let some = |most: u32| prop::option::of(0..most);
    prop_oneof![
        8 => (0u8..4, 0u8..2, 1u64..30, 1u64..80)
            .prop_map(|(of, tenant, work, patience)| Event::Arrive { of, tenant, work, patience }),
        1 => (0u8..4, some(4), some(5)).prop_map(|(of, running_max, waiting_max)| Event::Limit {
            of,
            running_max: running_max.map(|places| places + 1),
            waiting_max,
        }),
        1 => (0u8..4).prop_map(|of| Event::Abandon { of }),
        4 => (1u64..20).prop_map(|time| Event::Pass { time }),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (1u32..40, 1u32..6, 0u32..5).prop_map(|(calls_max, running, waiting)| Bounds {
        calls_max,
        running_per_deployment_max: running,
        waiting_per_deployment_max: waiting,
    })
}

#[derive(Debug)]
struct Call {
    of: u8,
    work: u64,
    deadline: u64,
    /// When it ends; none while it waits.
    until: Option<u64>,
}

/// Who would own [`Places`]: calls, a clock, and timers.
struct Day {
    places: Places,
    bounds: Bounds,
    now: u64,
    limits: BTreeMap<u8, (Option<u32>, Option<u32>)>,
    calls: BTreeMap<CallNumber, Call>,
    /// Those who wait, in the order they came, by deployment.
    lines: BTreeMap<u8, Vec<CallNumber>>,
    arrived: u32,
    refused: u32,
    answered: u32,
}

impl Day {
    fn new(bounds: Bounds) -> Self {
        let (limits, calls, lines) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { places: Places::new(bounds), bounds, now: 0, limits, calls, lines, arrived: 0, refused: 0, answered: 0 }
    }

    fn running(&self, of: u8) -> u32 {
        let runs = |call: &&Call| call.of == of && call.until.is_some();
        u32::try_from(self.calls.values().filter(runs).count()).unwrap()
    }

    fn waiting(&self, of: u8) -> u32 {
        u32::try_from(self.lines.get(&of).map_or(0, Vec::len)).unwrap()
    }

    fn running_max(&self, of: u8) -> u32 {
        let wanted = self.limits.get(&of).and_then(|limits| limits.0);
        wanted.unwrap_or(u32::MAX).min(self.bounds.running_per_deployment_max)
    }

    fn arrive(&mut self, of: u8, tenant: u8, work: u64, patience: u64) {
        self.arrived += 1;
        let (running_max, waiting_max) = self.limits.get(&of).copied().unwrap_or_default();
        let deadline = self.now + patience;
        let wish = Wish {
            tenant: TenantId::from_bytes([tenant; 16]),
            deployment: DeploymentId::from_bytes([of; 16]),
            running_max,
            waiting_max,
            deadline,
        };
        let entered = self.places.arrive(&wish, self.now);
        self.obey();
        let (running, waiting) = (self.running(of), self.waiting(of));
        let call = Call { of, work, deadline, until: None };
        match entered {
            Ok(Entered::Runs(number)) => {
                assert_eq!(waiting, 0, "before nobody who waits");
                assert!(running < self.running_max(of));
                assert!(self.calls.insert(number, Call { until: Some(self.now + work), ..call }).is_none());
            }
            Ok(Entered::Waits(number)) => {
                assert!(running >= self.running_max(of), "there was a place");
                assert!(waiting < self.bounds.waiting_per_deployment_max);
                assert!(self.calls.insert(number, call).is_none());
                self.lines.entry(of).or_default().push(number);
            }
            Err(refused) => {
                self.refused += 1;
                match refused {
                    Refused::NodeFull { calls_max } => assert_eq!(calls_max, self.places.open()),
                    Refused::Share { open, .. } => assert!(open > 0, "who holds nothing has its share"),
                    Refused::LineFull { running_max, waiting_max, .. } => {
                        assert!(running >= running_max && waiting >= waiting_max);
                    }
                    Refused::TooLate { wait } => assert!(running >= self.running_max(of) && wait <= 30 * 6 * patience),
                }
            }
        }
    }

    /// Does what the places say, and nothing else.
    fn obey(&mut self) {
        let verdicts: Vec<_> = self.places.verdicts().collect();
        for verdict in verdicts {
            let (Verdict::Start(number) | Verdict::Expire(number)) = verdict;
            let of = self.calls[&number].of;
            assert_eq!(self.lines.get_mut(&of).unwrap().remove(0), number, "in the order they came");
            let call = self.calls.get_mut(&number).unwrap();
            if let Verdict::Start(_) = verdict {
                assert!(self.now < call.deadline, "none begins after its deadline");
                call.until = Some(self.now + call.work);
            } else {
                assert!(self.now >= call.deadline);
                self.calls.remove(&number);
                self.places.leave(number, self.now);
                self.answered += 1;
            }
        }
    }

    fn leave(&mut self, number: CallNumber) {
        let call = self.calls.remove(&number).unwrap();
        if call.until.is_none() {
            self.lines.get_mut(&call.of).unwrap().retain(|waits| *waits != number);
        }
        self.answered += 1;
        self.places.leave(number, self.now);
        self.obey();
    }

    fn pass(&mut self, time: u64) {
        for _ in 0..time {
            self.now += 1;
            let due = |call: &Call| call.until.map_or(self.now >= call.deadline, |until| self.now >= until);
            let due: BTreeSet<_> = self.calls.iter().filter(|(_, call)| due(call)).map(|(number, _)| *number).collect();
            for number in due {
                // One may have been told meanwhile that it is too late.
                if self.calls.get(&number).is_some_and(|call| call.until.is_none_or(|until| self.now >= until)) {
                    self.leave(number);
                }
            }
            self.check();
        }
    }

    fn check(&self) {
        assert_eq!(self.places.open(), u32::try_from(self.calls.len()).unwrap());
        assert!(self.places.open() <= self.bounds.calls_max);
        assert_eq!(self.places.waiting(), self.lines.values().map(|line| u32::try_from(line.len()).unwrap()).sum());
        for of in self.lines.keys() {
            assert!(self.running(*of) <= self.bounds.running_per_deployment_max);
            assert!(self.waiting(*of) <= self.bounds.waiting_per_deployment_max);
        }
        assert!(self.calls.values().all(|call| call.until.is_some() || self.now < call.deadline), "nobody overstays");
    }
}

proptest! {
    #[test]
    fn every_call_is_answered_once(bounds in bounds(), events in prop::collection::vec(events(), 0..300)) {
        let mut day = Day::new(bounds);
        for event in events {
            match event {
                Event::Arrive { of, tenant, work, patience } => day.arrive(of, tenant, work, patience),
                Event::Limit { of, running_max, waiting_max } => {
                    day.limits.insert(of, (running_max, waiting_max));
                }
                Event::Abandon { of } => {
                    let first = day.lines.get(&of).and_then(|line| line.first().copied());
                    let runs = || day.calls.iter().find(|(_, call)| call.of == of).map(|(number, _)| *number);
                    if let Some(number) = first.or_else(runs) {
                        day.leave(number);
                    }
                }
                Event::Pass { time } => day.pass(time),
            }
            day.check();
        }
        day.pass(10_000);
        prop_assert!(day.calls.is_empty() && day.places.is_empty(), "all have left");
        prop_assert_eq!(day.arrived, day.refused + day.answered);
    }

    /// What one deployment gets does not depend on what others do, as long as the node has room.
    #[test]
    fn a_busy_neighbour_changes_nothing(crowd in prop::collection::vec((1u64..20, 1u64..60), 0..60)) {
        let bounds = Bounds { calls_max: 10_000, running_per_deployment_max: 3, waiting_per_deployment_max: 3 };
        let alone = |crowd: &[(u64, u64)]| {
            let mut day = Day::new(bounds);
            day.limits.insert(0, (Some(2), Some(2)));
            day.limits.insert(1, (Some(1), Some(3)));
            let mut begun = Vec::new();
            for step in 0..60_usize {
                if let Some((work, patience)) = crowd.get(step) {
                    day.arrive(1, 1, *work, *patience);
                    day.arrive(1, 1, *work, *patience);
                }
                if step % 2 == 0 {
                    day.arrive(0, 0, 5, 40);
                }
                begun.push((day.running(0), day.waiting(0)));
                day.pass(1);
            }
            begun
        };
        prop_assert_eq!(alone(&crowd), alone(&[]));
    }
}
