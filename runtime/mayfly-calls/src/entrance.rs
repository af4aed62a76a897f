//! What a call passes before it has a task, a row or an instance: the door, the limits of its levels and, if it has an
//! `Idempotency-Key`, the calls that run and the answers that were kept; last its turn, if its deployment has a line.
//! Whoever is refused by any of them is refused before the wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use mayfly_ledger::{Journal, KeptAnswer, Leases, Standing};
use mayfly_types::{Refusal, RefusalKind};

use crate::admission::{Admission, Denied, Ticket};
use crate::door::{Door, Permit, TurnedAway};
use crate::failure::Failure;
use crate::held::{NotHeld, Room};
use crate::idempotency::{Once, Repeats, scope};
use crate::open::now;
use crate::{Body, Config, Context, IdempotencyKey};

/// The way in. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    pub(crate) door: Door,
    pub(crate) admission: Admission,
    repeats: Repeats,
    room: Room,
    journal: Arc<dyn Journal>,
    config: Arc<Config>,
}

/// A call that was let in, and what it gives back when it ends.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) permit: Permit,
    /// None only for a replay that the money of its levels would not allow.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) once: Option<Once>,
    /// The answer was given before: it is given again.
    pub(crate) kept: Option<KeptAnswer>,
}

/// A call that was not let in: the answer, and how near its limits are.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) failure: Box<Failure>,
    pub(crate) standing: Option<Standing>,
    /// A limit said so without any wait.
    pub(crate) at_once: bool,
}

impl Entrance {
    pub(crate) fn new(config: Arc<Config>, journal: Arc<dyn Journal>, leases: Arc<dyn Leases>) -> Self {
        Self {
            door: Door::new(&config),
            admission: Admission::new(leases),
            repeats: Repeats::new(config.idempotent_calls_max),
            room: Room::new(config.idempotent_held_bytes_max),
            journal,
            config,
        }
    }

    /// Lets a call in. `wakes`: whether it would have to wake code or a model; asked only where that is limited.
    ///
    /// # Errors
    /// [`Away`]; nothing is taken and there is no row.
    pub(crate) async fn enter(
        &self,
        context: &Context,
        request: Request<Body>,
        wakes: impl FnOnce() -> bool,
    ) -> Result<(Entry, Request<Body>), Away> {
        let deadline = context.received + Duration::from_millis(context.resolved.limits.deadline_ms_max);
        let turned_away =
            |at_once| move |away: TurnedAway| Away { failure: Box::new(away.into()), standing: None, at_once };
        let mut permit = self.door.enter(context, deadline).map_err(turned_away(true))?;
        let levels = context.levels();
        let wakes = levels.0.iter().any(|(_, limits)| limits.wakeups_per_minute.is_some()) && wakes();
        let repeatable = context.idempotency.as_ref().filter(|_| !context.dry_run);
        let let_in = match self.admission.enter(levels.clone(), wakes, deadline).await {
            Ok(ticket) => LetIn::Ticket(ticket),
            // What was paid for can be had again without money.
            Err(Denied::Refused(refusal)) if refusal.kind == RefusalKind::Money && repeatable.is_some() => {
                LetIn::OnlyAgain(refusal)
            }
            Err(denied) => {
                let at_once = matches!(denied, Denied::Refused(_));
                return Err(Away { at_once, ..self.away(denied.into(), &levels) });
            }
        };
        let Some(wanted) = repeatable else {
            let ticket = let_in.ticket().map_err(|failure| self.away(failure, &levels))?;
            permit.turn(deadline, &context.cancel).await.map_err(turned_away(false))?;
            return Ok((Entry { permit, ticket: Some(ticket), once: None, kept: None }, request));
        };
        let looked_up = self.look_up(context, wanted, request, deadline).await;
        let (once, kept, request) = looked_up.map_err(|failure| self.away(failure, &levels))?;
        let ticket = match &kept {
            Some(_) => let_in.ticket().ok(),
            None => {
                let ticket = let_in.ticket().map_err(|failure| self.away(failure, &levels))?;
                permit.turn(deadline, &context.cancel).await.map_err(turned_away(false))?;
                Some(ticket)
            }
        };
        Ok((Entry { permit, ticket, once: Some(once), kept }, request))
    }

    /// Reads the body, and finds out whether the request runs or has run before.
    async fn look_up(
        &self,
        context: &Context,
        wanted: &IdempotencyKey,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<(Once, Option<KeptAnswer>, Request<Body>), Failure> {
        let (parts, body) = request.into_parts();
        let most = context.resolved.limits.request_body_bytes_max;
        let limit = self.config.idempotent_request_bytes_max.min(most);
        let late = |_elapsed| Failure::deadline(context.resolved.limits.deadline_ms_max).at_the_door();
        let read = tokio::time::timeout_at(deadline.into(), self.room.read(body, limit)).await.map_err(late)?;
        let held = read.map_err(|error| match error {
            NotHeld::TooLarge { .. } if limit == most => Failure::too_large(most, None),
            other => other.into(),
        })?;
        let once = self.repeats.begin(scope(context, &parts.method, wanted), &held.bytes)?;
        let age = self.config.idempotent_answer_seconds_max.saturating_mul(1_000_000);
        let oldest = now().saturating_sub(i64::try_from(age).unwrap_or(i64::MAX));
        let found = tokio::time::timeout_at(deadline.into(), self.journal.answer(once.scope, oldest)).await;
        let kept = found.map_err(late)?.map_err(Failure::from)?;
        if let Some(kept) = &kept {
            once.check(kept)?;
        }
        Ok((once, kept, Request::from_parts(parts, held.into_body())))
    }

    fn away(&self, failure: Failure, levels: &mayfly_ledger::Levels) -> Away {
        Away { failure: Box::new(failure), standing: self.admission.standing(levels), at_once: false }
    }
}

/// What the limits said.
enum LetIn {
    Ticket(Ticket),
    /// There is no money: only an answer that was kept can be given.
    OnlyAgain(Refusal),
}

impl LetIn {
    fn ticket(self) -> Result<Ticket, Failure> {
        match self {
            Self::Ticket(ticket) => Ok(ticket),
            Self::OnlyAgain(refusal) => Err(Denied::Refused(refusal).into()),
        }
    }
}

#[cfg(test)]
mod tests;
