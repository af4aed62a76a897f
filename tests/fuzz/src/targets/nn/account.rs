//! The account of one call: remembers everything, and can be told to refuse.

use std::collections::BTreeSet;
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mayfly_types::{Budget, HoldId, Line, Meter, Refusal, RefusalKind};

#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    refuses: bool,
    asked: u64,
    open: BTreeSet<u64>,
    charged: Vec<Line>,
    /// What an account must never see.
    broken: Option<&'static str>,
}

impl Account {
    pub(crate) fn new(refuses: bool) -> Self {
        Self(Mutex::new(Entries { refuses, ..Entries::default() }))
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What was charged on this meter.
    pub(crate) fn sum(&self, meter: Meter) -> u64 {
        self.entries().charged.iter().filter(|line| line.meter == meter).map(|line| line.quantity).sum()
    }

    /// Runs that ended: each leaves its time.
    pub(crate) fn runs(&self) -> u64 {
        self.entries().charged.iter().filter(|line| line.meter == Meter::InferenceMicros).count() as u64
    }

    /// After the call: everything that was held was given back, once.
    pub(crate) fn check_closed(&self) -> Result<(), String> {
        let entries = self.entries();
        match entries.broken {
            Some(broken) => Err(broken.to_owned()),
            None if entries.open.is_empty() => Ok(()),
            None => Err("a hold that is never given back".to_owned()),
        }
    }
}

impl Budget for Account {
    fn hold<'a>(&'a self, _lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>> {
        let mut entries = self.entries();
        entries.asked += 1;
        let answer = if entries.refuses && entries.asked.is_multiple_of(3) {
            let message = "the fuzzer says no".to_owned();
            Err(Refusal { kind: RefusalKind::Rate, message, retry_after_ms: Some(1) })
        } else {
            let id = entries.asked;
            entries.open.insert(id);
            Ok(HoldId(id))
        };
        std::future::ready(answer).boxed()
    }

    fn charge(&self, hold: HoldId, lines: &[Line]) {
        let mut entries = self.entries();
        if !entries.open.contains(&hold.0) {
            entries.broken = Some("a charge on a hold that is not open");
        }
        entries.charged.extend(lines);
    }

    fn release(&self, hold: HoldId) {
        let mut entries = self.entries();
        if !entries.open.remove(&hold.0) {
            entries.broken = Some("a hold that is given back twice");
        }
    }
}
