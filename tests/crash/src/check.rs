//! What was billed, against what was counted.

use anyhow::Context as _;

use crate::attempt::Attempt;
use crate::server::Server;

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) attempts: u64,
    pub(crate) early_kills: u64,
    complete: u64,
    cut: u64,
    left: u64,
    /// Rows that clients counted, and that were billed.
    counted: u64,
    billed: u64,
    /// Rows billed in the ledger that is there now.
    billed_here: u64,
    verified_rows: u64,
    pub(crate) problems: Vec<String>,
}

impl Findings {
    #[expect(clippy::print_stdout, reason = "the result is the output")]
    pub(crate) fn print(&self, seed: u64) {
        println!(
            "seed {seed}: {} calls ({} complete, {} cut by a kill, {} left by their client), {} kills during a start; \
             {} rows counted by clients, {} billed; {} ledger rows verified",
            self.attempts,
            self.complete,
            self.cut,
            self.left,
            self.early_kills,
            self.counted,
            self.billed,
            self.verified_rows
        );
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
        let (mut billed, mut cost) = (0, "0".to_owned());
        if let Some(group) = usage["data"].as_array().and_then(|groups| groups.first()) {
            billed = group["usage"]["rows"].as_u64().unwrap_or(0);
            cost = group["cost"].as_str().unwrap_or("0").to_owned();
        }
        let (least, most) = attempt.owed();
        if billed < least || billed > most {
            findings.problems.push(format!("billed {billed} rows, owed {least} to {most}: {attempt:?}"));
        }
        let expected = thousandths(billed);
        if cost != expected {
            findings.problems.push(format!("{billed} rows cost {cost}, not {expected}: {attempt:?}"));
        }
        findings.attempts += 1;
        findings.complete += u64::from(attempt.complete);
        findings.left += u64::from(attempt.left);
        findings.cut += u64::from(attempt.sent && !attempt.complete && !attempt.left && !attempt.refused);
        findings.counted += least;
        findings.billed += billed;
        findings.billed_here += billed;
    }
    Ok(())
}

/// Walks the whole ledger, and compares its sum with that of all attempts.
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
    let total = usage["data"][0]["usage"]["rows"].as_u64().unwrap_or(0);
    let billed = std::mem::take(&mut findings.billed_here);
    if total != billed {
        findings.problems.push(format!("all usage is {total} rows, the attempts together {billed}"));
    }
    Ok(())
}

/// `rows` at a thousandth each, as exact decimal text.
fn thousandths(rows: u64) -> String {
    let text = format!("{}.{:03}", rows / 1000, rows % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
