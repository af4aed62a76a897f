//! An account that writes down what is asked of it.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use mayfly_types::{Budget, Hold, HoldId, Line, Meter, Refusal, RefusalKind};

/// What happened, without times: those differ from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Held(Vec<(Meter, u64)>),
    Charged(Vec<(Meter, u64)>),
    Released,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    events: Mutex<Vec<Event>>,
    refuses: bool,
}

impl Account {
    pub(super) fn refusing() -> Arc<Self> {
        Arc::new(Self { refuses: true, ..Self::default() })
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub(super) async fn take(self: &Arc<Self>) -> Arc<Hold> {
        let budget: Arc<dyn Budget> = Arc::clone(self) as _;
        Arc::new(Hold::take(budget, &[]).await.unwrap())
    }

    fn add(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

fn quantities(lines: &[Line]) -> Vec<(Meter, u64)> {
    lines.iter().map(|line| (line.meter, line.quantity)).collect()
}

impl Budget for Account {
    fn hold<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>> {
        Box::pin(async move {
            if self.refuses {
                let message = "key k: 5 of 5 input_tokens are used".to_owned();
                return Err(Refusal { kind: RefusalKind::Money, message, retry_after_ms: None });
            }
            self.add(Event::Held(quantities(lines)));
            Ok(HoldId(7))
        })
    }

    fn charge(&self, hold: HoldId, lines: &[Line]) {
        assert_eq!(hold, HoldId(7));
        let lines = quantities(lines);
        if !lines.iter().all(|(meter, _)| *meter == Meter::InferenceMicros) {
            self.add(Event::Charged(lines));
        }
    }

    fn release(&self, hold: HoldId) {
        assert_eq!(hold, HoldId(7));
        self.add(Event::Released);
    }
}
