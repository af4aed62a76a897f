//! A walk over the whole ledger: is everything as it was written, and do the tables beside the rows agree with them?
//!
//! One thread walks the rows in their order (lines, sums), one follows their chains, one walks the index by call
//! (endings). Rows are never
//! changed, so both may look at different moments: what is newer than the first look is left out. Sums are compared
//! hour by hour through a fingerprint that is linear in them, so memory does not grow with the ledger.

mod calls;
mod chains;
mod fingerprint;
mod tables;
mod walk;

use std::collections::HashMap;

use mayfly_ledger::Verification;
use rusqlite::Connection;

use super::sums;
use crate::DbError;
use crate::db::Db;
use fingerprint::{Fingerprints, Seed};
use tables::Tables;

/// Problems that are told.
const PROBLEMS_MAX: usize = 100;

/// What is wrong, in words; what goes beyond [`PROBLEMS_MAX`] is left out.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: impl FnOnce() -> String) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(problem());
        }
    }
}

/// Walks everything, through `connection` and one more of `db`. Takes seconds per million rows; blocking.
pub(super) fn verify(db: &Db, connection: &Connection) -> Result<Verification, DbError> {
    let newest: Option<i64> = connection.query_row("SELECT max(pos) FROM ledger", [], |row| row.get(0))?;
    let newest = newest.unwrap_or(0);
    let mut problems = Problems::default();
    let seed = Seed::default();
    let mut tables = Tables::read(connection, &mut problems)?;
    let (walked, chains, calls) = std::thread::scope(|scope| {
        let (links, batches) = chains::links();
        let boots = tables.boots.clone();
        let chains = scope.spawn(move || chains::follow(&batches, boots));
        let calls = scope.spawn(|| db.read_here(|connection| calls::walk(connection, newest, &seed)));
        let walked = walk::walk(connection, &mut tables, &seed, links, &mut problems);
        let panicked = |_panic| DbError::Failed { detail: "a thread of the walk panicked".to_owned() };
        let (chains, calls) = (chains.join().map_err(panicked), calls.join().map_err(panicked));
        Ok::<_, DbError>((walked?, chains?, calls??))
    })?;
    for problem in chains.0.iter().chain(&calls.problems.0) {
        problems.add(|| problem.clone());
    }
    if walked.calls != calls.fingerprint {
        problems.add(|| "the index of calls and the rows are not of the same rows".to_owned());
    }
    for name in db.damaged_logs()? {
        problems.add(|| format!("redo/{name} is a part of the redo log that could not be read to its end"));
    }
    compare_live(connection, calls.open, &mut problems)?;
    compare_rollups(connection, walked.sums, &seed, &mut problems)?;
    Ok(Verification {
        rows: walked.rows,
        boots: tables.boots.len() as u64,
        calls: calls.ended,
        open: calls.open_count,
        problems: problems.0,
    })
}

/// The table of open calls must have those that were opened by a row of their own and have not ended.
fn compare_live(
    connection: &Connection,
    mut open: HashMap<[u8; 16], i64>,
    problems: &mut Problems,
) -> Result<(), DbError> {
    let sql = "SELECT v.call, v.pos, v.boot = l.boot FROM ledger_live v LEFT JOIN ledger l ON l.pos = v.pos";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let call = row.get_ref(0)?.as_blob().map_err(|error| DbError::damaged("live call", error))?;
        let key = <[u8; 16]>::try_from(call).ok();
        let (pos, same_boot): (i64, Option<bool>) = (row.get(1)?, row.get(2)?);
        let opened = key.and_then(|key| open.remove(&key));
        if opened != Some(pos) || same_boot != Some(true) {
            problems.add(|| format!("the table of open calls has {}, which its rows do not say", name(call)));
        }
    }
    for call in open.keys() {
        problems.add(|| format!("the table of open calls lacks {}", name(call)));
    }
    Ok(())
}

/// The sums of each hour must be those of the rows.
fn compare_rollups(
    connection: &Connection,
    mut left: Fingerprints,
    seed: &Seed,
    problems: &mut Problems,
) -> Result<(), DbError> {
    let sql = "SELECT subject, hour, end_user, model, meter, price, quantity_high, quantity_low, money_high, money_low
               FROM rollup";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (subject, hour): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (quantity, quantity_low) = (row.get(6)?, row.get(7)?);
        let (money, money_low) = (row.get(8)?, row.get(9)?);
        if !sums::is_split(quantity_low) || !sums::is_split(money_low) {
            problems.add(|| format!("a sum of {} is not written as sums are", hour_text(hour)));
        }
        let base = seed.base(subject, hour, walk::bytes(row.get_ref(2)?).unwrap_or_default());
        let (quantity, money) = (sums::join(quantity, quantity_low), sums::join(money, money_low));
        left.of(hour).take(base, row.get(3)?, row.get(4)?, row.get(5)?, quantity, money);
    }
    for hour in left.unequal() {
        problems.add(|| format!("the sums of {} are not those of its rows", hour_text(hour)));
    }
    Ok(())
}

/// A call for people, whatever its bytes are.
fn name(call: &[u8]) -> String {
    match <[u8; 16]>::try_from(call) {
        Ok(bytes) => mayfly_types::RequestId::from_bytes(bytes).to_string(),
        Err(_) => format!("a call of {} bytes", call.len()),
    }
}

fn hour_text(hour: i64) -> String {
    format!("the hour that begins {} seconds after the Unix epoch", i128::from(hour) * 3600)
}
