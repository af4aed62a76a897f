//! Once a minute: levels at rest and answers past their time are forgotten.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mayfly_ledger::Journal;

use crate::Config;
use crate::admission::Admission;
use crate::open::now;

const EVERY: Duration = Duration::from_secs(60);

/// What is kept in order.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) config: Arc<Config>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) admission: Admission,
}

/// Goes on until nobody holds the house any more.
pub(crate) async fn keep(house: Weak<House>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(house) = house.upgrade() else { return };
        house.admission.sweep();
        match forget(&house).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::error!(?error, "old answers could not be forgotten; trying again every minute");
            }
            Err(_still) => {}
        }
    }
}

async fn forget(house: &House) -> Result<(), mayfly_ledger::JournalError> {
    let age = house.config.idempotent_answer_seconds_max.saturating_mul(1_000_000);
    let oldest = now().saturating_sub(i64::try_from(age).unwrap_or(i64::MAX));
    let forgotten = house.journal.forget_answers(oldest, house.config.idempotent_answers_bytes_max).await?;
    if forgotten > 0 {
        tracing::debug!(forgotten, "forgot answers past their time");
    }
    Ok(())
}
