//! From a call that was let in to an open one: its account with the prices as they stand now, its log, its deadline.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderValue, Method};
use mayfly_ledger::{Call, CountedBy, Journal, PriceBook, Tariff};
use mayfly_types::Name;
use tokio_util::task::TaskTracker;

use crate::admission::Ticket;
use crate::budget::CallBudget;
use crate::idempotency::Once;
use crate::open::{OpenCall, Watched, now};
use crate::status::Counters;
use crate::timing::Before;
use crate::{Config, Context, LogBook, Observer, Operation, Seen};

/// Where all work runs until pools are told apart.
const POOL: &str = "shared";

/// What every open call shares.
#[derive(Debug)]
pub(crate) struct Opener {
    config: Arc<Config>,
    journal: Arc<dyn Journal>,
    prices: RwLock<Arc<PriceBook>>,
    currency: HeaderValue,
    pool: Name,
    pub(crate) logs: LogBook,
    pub(crate) counters: Arc<Counters>,
    pub(crate) tasks: TaskTracker,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Opener {
    /// Panics if the currency is not ASCII text.
    pub(crate) fn new(
        config: Arc<Config>,
        journal: Arc<dyn Journal>,
        prices: PriceBook,
        currency: &str,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            logs: LogBook::new(&config),
            config,
            journal,
            prices: RwLock::new(Arc::new(prices)),
            currency: HeaderValue::try_from(currency).expect("a currency is three capital letters"),
            pool: POOL.parse().expect("it is a name"),
            counters: Arc::default(),
            tasks: TaskTracker::new(),
            observer,
        }
    }

    pub(crate) fn price_book(&self) -> Arc<PriceBook> {
        self.prices.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_price_book(&self, book: PriceBook) {
        *self.prices.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
    }

    pub(crate) fn currency(&self) -> &str {
        self.currency.to_str().unwrap_or_default()
    }

    pub(crate) fn open(
        &self,
        context: &Context,
        method: &Method,
        path: &str,
        ticket: Option<Ticket>,
        once: Option<Once>,
    ) -> OpenCall {
        let resolved = &context.resolved;
        let opened_at = ticket.as_ref().map_or_else(now, Ticket::opened_at);
        let tariff = Tariff {
            book: self.price_book(),
            tenant: resolved.project.tenant,
            pool: self.pool.clone(),
            at: opened_at,
            models: resolved.price_names.clone(),
        };
        let ledger_call = Arc::new(Call {
            id: context.request_id,
            parent: None,
            root: context.request_id,
            attempt: 1,
            tenant: resolved.project.tenant,
            payer: resolved.project.tenant,
            project: resolved.project.id,
            requested: resolved.deployment.id,
            served: resolved.deployment.id,
            revision: resolved.revision.id,
            deployment_name: resolved.deployment.name.clone(),
            key: context.key.id,
            end_user: context.end_user.clone(),
            channel: context.channel,
            counted_by: CountedBy::Host,
            opened_at,
        });
        let budget = CallBudget::new(ledger_call, tariff, context.cost_max(), ticket);
        let cancel = context.cancel.child_token();
        if context.dry_run {
            budget.only_quote(cancel.clone());
        }
        let deadline_ms = resolved.limits.deadline_ms_max;
        OpenCall {
            id: context.request_id,
            budget: Arc::new(budget),
            journal: self.journal.clone(),
            counters: self.counters.clone(),
            config: self.config.clone(),
            log: self.logs.for_call(resolved.deployment.id, context.request_id),
            tasks: self.tasks.clone(),
            cancel,
            stop: context.cancel.clone(),
            received: context.received,
            deadline: context.received + Duration::from_millis(deadline_ms),
            deadline_ms,
            request_body_bytes_max: resolved.limits.request_body_bytes_max,
            too_large: Arc::new(AtomicBool::new(false)),
            bodiless: method == Method::HEAD,
            watched: self.observer.clone().map(|observer| Watched { observer, seen: seen(context, method, path) }),
            trailers: context.trailers,
            once: once.map(Arc::new),
            dry_run: context.dry_run,
            currency: self.currency.clone(),
            before: Before::waiting(context.received),
            ran: OnceLock::new(),
        }
    }
}

/// What an observer is told of the call's head.
fn seen(context: &Context, method: &Method, path: &str) -> Seen {
    Seen {
        trace: context.trace,
        method: method.clone(),
        operation: Operation::at(path),
        project: context.resolved.project.name.clone(),
        models: context.resolved.price_names.clone(),
    }
}
