//! The index by call: one ending for each, parts without a gap and in their order.

use std::collections::HashMap;

use rusqlite::Connection;

use super::fingerprint::Seed;
use super::{Problems, name};
use crate::DbError;

/// Open calls that are compared with their table; a ledger with more has none of our limits.
const OPEN_MAX: usize = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) ended: u64,
    pub(super) open_count: u64,
    /// Calls without an end, and where they opened.
    pub(super) open: HashMap<[u8; 16], i64>,
    /// Of all entries.
    pub(super) fingerprint: u64,
    pub(super) problems: Problems,
}

/// Walks the entries of rows up to `newest`.
pub(super) fn walk(connection: &Connection, newest: i64, seed: &Seed) -> Result<Calls, DbError> {
    let sql = "SELECT call, part, pos FROM ledger INDEXED BY ledger_call WHERE call IS NOT NULL ORDER BY call, part";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut calls = Calls::default();
    let mut call = Vec::new();
    let mut parts: Vec<(i64, i64)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (part, pos): (i64, i64) = (row.get(1)?, row.get(2)?);
        if pos > newest {
            continue;
        }
        let id = row.get_ref(0)?.as_blob().map_err(|error| DbError::damaged("ledger row", error))?;
        if id != call {
            calls.close(&call, &parts);
            parts.clear();
            call.clear();
            call.extend_from_slice(id);
        }
        calls.fingerprint = calls.fingerprint.wrapping_add(seed.entry(id, part, pos));
        parts.push((part, pos));
    }
    calls.close(&call, &parts);
    Ok(calls)
}

impl Calls {
    /// Looks at one call: its parts, from corrections (newest first) over the end to opening and progress.
    fn close(&mut self, call: &[u8], parts: &[(i64, i64)]) {
        let Some((least, _)) = parts.first() else { return };
        if !parts.iter().zip(*least..).all(|((part, _), expected)| *part == expected) {
            // 0 is missing where a call that has not ended begins with 1.
            self.problems.add(|| format!("{} lacks rows", name(call)));
        }
        let end = parts.iter().find(|(part, _)| *part == 0);
        let lives = parts.iter().filter(|(part, _)| *part > 0);
        let corrections = parts.iter().rev().filter(|(part, _)| *part < 0);
        // As it should have been written.
        if !lives.clone().chain(end).chain(corrections).is_sorted_by_key(|(_, pos)| *pos) {
            self.problems.add(|| format!("the rows of {} are not in their order", name(call)));
        }
        match (end, parts.first()) {
            (Some(_), _) => self.ended += 1,
            (None, Some((1, pos))) => {
                self.open_count += 1;
                if self.open.len() < OPEN_MAX {
                    self.open.extend(<[u8; 16]>::try_from(call).ok().map(|call| (call, *pos)));
                } else {
                    self.problems.add(|| format!("{} is open beside {OPEN_MAX} others", name(call)));
                }
            }
            (None, _) => self.problems.add(|| format!("{} has neither an opening nor an end", name(call))),
        }
    }
}
