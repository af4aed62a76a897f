//! What was billed, against what was counted.

use std::fmt;

use anyhow::Context as _;

use crate::attempt::{Attempt, Left, Meter};
use crate::server::Server;

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) early_kills: u64,
    rows: Tally,
    tokens: Tally,
    verified_rows: u64,
    pub(crate) problems: Vec<String>,
}

/// The calls of one meter.
#[derive(Debug, Default)]
struct Tally {
    attempts: u64,
    complete: u64,
    cut: u64,
    left: u64,
    /// What clients counted, and what was billed.
    counted: u64,
    billed: u64,
    /// The most that was billed beyond what came to a client that was cut by a kill, and to one that left and read on.
    most_after_a_kill: u64,
    most_after_leaving: u64,
    /// Billed in the ledger that is there now.
    billed_here: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, complete, cut, left, counted, billed, .. } = self;
        write!(f, "{attempts} calls ({complete} complete, {cut} cut by a kill, {left} left by their client), ")?;
        write!(
            f,
            "{counted} counted by clients, {billed} billed, at most {} too many after a kill",
            self.most_after_a_kill
        )
    }
}

impl Findings {
    pub(crate) fn attempts(&self) -> u64 {
        self.rows.attempts + self.tokens.attempts
    }

    fn tally(&mut self, meter: Meter) -> &mut Tally {
        match meter {
            Meter::Rows => &mut self.rows,
            Meter::OutputTokens => &mut self.tokens,
        }
    }

    #[expect(clippy::print_stdout, reason = "the result is the output")]
    pub(crate) fn print(&self, seed: u64) {
        println!("seed {seed}: {} kills during a start; {} ledger rows verified", self.early_kills, self.verified_rows);
        println!("rows: {}", self.rows);
        println!("tokens: {}, {} after leaving", self.tokens, self.tokens.most_after_leaving);
        for problem in &self.problems {
            println!("PROBLEM: {problem}");
        }
        println!("{}", if self.problems.is_empty() { "ok: nothing lost, nothing billed twice" } else { "FAILED" });
    }
}

/// Compares each attempt with its bill.
pub(crate) fn attempts(server: &Server, attempts: &[Attempt], findings: &mut Findings) -> anyhow::Result<()> {
    for attempt in attempts {
        let usage = server.api("GET", &format!("/usage?end_user={}", attempt.name), b"")?;
        let (mut billed, mut cost, mut calls) = (0, "0".to_owned(), 0);
        if let Some(group) = usage["data"].as_array().and_then(|groups| groups.first()) {
            billed = group["usage"][attempt.meter.name()].as_u64().unwrap_or(0);
            cost = group["cost"].as_str().unwrap_or("0").to_owned();
            calls = group["calls"].as_u64().unwrap_or(0);
        }
        let (least, most) = attempt.owed();
        let problems = &mut findings.problems;
        if billed < least || billed > most {
            problems.push(format!("billed {billed}, owed {least} to {most}: {attempt:?}"));
        }
        let expected = thousandths(billed);
        if cost != expected {
            problems.push(format!("{billed} cost {cost}, not {expected}: {attempt:?}"));
        }
        // A call is counted with its ending.
        if attempt.meter == Meter::OutputTokens && (calls > 1 || (calls == 0 && attempt.opened)) {
            problems.push(format!("{calls} endings: {attempt:?}"));
        }
        if let Some(wrong) = &attempt.wrong {
            problems.push(format!("{wrong}: {attempt:?}"));
        }
        let cut = attempt.sent && !attempt.complete && attempt.left.is_none() && !attempt.refused;
        let left = attempt.left.is_some() && !attempt.complete;
        let beyond = billed.saturating_sub(least);
        let tally = findings.tally(attempt.meter);
        tally.attempts += 1;
        tally.complete += u64::from(attempt.complete);
        tally.left += u64::from(left);
        tally.cut += u64::from(cut);
        tally.counted += least;
        tally.billed += billed;
        tally.billed_here += billed;
        if cut {
            tally.most_after_a_kill = tally.most_after_a_kill.max(beyond);
        }
        if attempt.left == Some(Left::Drained) {
            tally.most_after_leaving = tally.most_after_leaving.max(beyond);
        }
    }
    Ok(())
}

/// Walks the whole ledger, and compares its sums with those of all attempts.
pub(crate) fn ledger(server: &Server, findings: &mut Findings) -> anyhow::Result<()> {
    let report = server.api("POST", "/ledger/verify", b"")?;
    for problem in report["problems"].as_array().context("problems")? {
        findings.problems.push(format!("ledger verify: {problem}"));
    }
    // Nothing runs now, and recovery has ended what was open.
    if report["open"] != 0 {
        findings.problems.push(format!("{} calls are open after a restart", report["open"]));
    }
    findings.verified_rows += report["rows"].as_u64().context("rows")?;
    let usage = server.api("GET", "/usage", b"")?;
    for meter in [Meter::Rows, Meter::OutputTokens] {
        let total = usage["data"][0]["usage"][meter.name()].as_u64().unwrap_or(0);
        let billed = std::mem::take(&mut findings.tally(meter).billed_here);
        if total != billed {
            let name = meter.name();
            findings.problems.push(format!("all usage is {total} {name}, the attempts together {billed}"));
        }
    }
    Ok(())
}

/// `units` at a thousandth each, as exact decimal text.
fn thousandths(units: u64) -> String {
    let text = format!("{}.{:03}", units / 1000, units % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
