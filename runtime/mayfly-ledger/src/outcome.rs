//! How a call can end, and what is charged for it. One table for the code, the docs and the tests.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was handed to the connection.
    Completed,
    /// The caller left before the end; work up to the stop is owed.
    ClientLeft,
    /// The deadline passed; work that had started is owed.
    Deadline,
    /// The guest trapped or broke a limit; work that had started is owed.
    GuestFault,
    /// A limit or a budget said no in mid-call; work before it is owed.
    Refused,
    /// Our own fault; nothing is owed.
    HostFault,
    /// The process died; what durable progress covers is owed.
    HostCrash,
    /// The answer of an earlier call with the same `Idempotency-Key` was sent again; nothing is owed.
    Replayed,
}

/// What is charged for an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Charged {
    /// All that was counted until the end.
    Counted,
    /// What the last progress row covers.
    DurableProgress,
    /// Nothing.
    Nothing,
}

impl Charged {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "as counted",
            Self::DurableProgress => "what durable progress covers",
            Self::Nothing => "0",
        }
    }
}

/// One row of the charge table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeRule {
    /// How the call ended.
    pub outcome: Outcome,
    /// What that costs.
    pub charged: Charged,
    /// The answer tells the caller not to try again (`x-should-retry: false`) if anything was charged: the work would be
    /// done, and paid, twice.
    pub retry_is_charged_again: bool,
    /// One line for people.
    pub text: &'static str,
}

/// The charge table.
const RULES: [ChargeRule; 8] = {
    use Charged::{Counted, DurableProgress, Nothing};
    use Outcome::{ClientLeft, Completed, Deadline, GuestFault, HostCrash, HostFault, Refused, Replayed};
    [
        rule(Completed, Counted, false, "the whole answer was handed to the connection, whatever ended the generation"),
        rule(ClientLeft, Counted, false, "the caller left; work stops within one step and is computed until the stop"),
        rule(Deadline, Counted, true, "the deadline passed; what was computed until then"),
        rule(GuestFault, Counted, true, "the handler trapped or broke a limit; what was computed until then"),
        rule(Refused, Counted, true, "a limit or a budget said no in mid-call; what was computed before"),
        rule(HostFault, Nothing, false, "our fault while the process lives"),
        rule(HostCrash, DurableProgress, false, "the process died; found at the next start"),
        rule(Replayed, Nothing, false, "the stored answer of an earlier call with the same `Idempotency-Key`"),
    ]
};

/// What costs nothing because it is no ending of its own.
const FREE: [(&str, &str); 3] = [
    ("refused at the door", "limits are asked before any work, so there is no row either"),
    ("work dropped before its run", "a hold that was not charged is given back"),
    ("cold start", "shown in `x-mayfly-cold` and `server-timing`"),
];

const fn rule(outcome: Outcome, charged: Charged, retry_is_charged_again: bool, text: &'static str) -> ChargeRule {
    ChargeRule { outcome, charged, retry_is_charged_again, text }
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Completed,
        Self::ClientLeft,
        Self::Deadline,
        Self::GuestFault,
        Self::Refused,
        Self::HostFault,
        Self::HostCrash,
        Self::Replayed,
    ];

    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientLeft => "client_left",
            Self::Deadline => "deadline",
            Self::GuestFault => "guest_fault",
            Self::Refused => "refused",
            Self::HostFault => "host_fault",
            Self::HostCrash => "host_crash",
            Self::Replayed => "replayed",
        }
    }

    /// Its row of the charge table.
    pub const fn rule(self) -> ChargeRule {
        // The table stands in the order of the variants; a test compares them.
        RULES[self as usize]
    }

    /// Whether what was counted is owed.
    pub const fn is_owed(self) -> bool {
        !matches!(self.rule().charged, Charged::Nothing)
    }
}

/// The charge table in Markdown, as the docs show it.
pub fn charge_table() -> String {
    let mut table = "| how it ends | charged | `x-should-retry: false` if charged | |\n|---|---|---|---|\n".to_owned();
    let mut line = |name: &str, charged: &str, retry: &str, text: &str| {
        writeln!(table, "| {name} | {charged} | {retry} | {text} |").expect("a string takes all that is written");
    };
    for rule in RULES {
        let retry = if rule.retry_is_charged_again { "yes" } else { "" };
        line(&format!("`{}`", rule.outcome.as_str()), rule.charged.as_str(), retry, rule.text);
    }
    for (name, text) in FREE {
        line(name, Charged::Nothing.as_str(), "", text);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_outcome_in_its_place() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.rule().outcome, outcome);
        }
    }

    #[test]
    fn what_is_owed() {
        let not_owed: Vec<_> = Outcome::ALL.into_iter().filter(|outcome| !outcome.is_owed()).collect();
        assert_eq!(not_owed, [Outcome::HostFault, Outcome::Replayed]);
        for outcome in Outcome::ALL {
            assert!(outcome.is_owed() || !outcome.rule().retry_is_charged_again, "{outcome:?}");
        }
    }

    #[test]
    fn the_markdown_has_a_row_for_each() {
        let table = charge_table();
        for outcome in Outcome::ALL {
            assert!(table.contains(&format!("| `{}` | {} |", outcome.as_str(), outcome.rule().charged.as_str())));
        }
        assert_eq!(table.lines().count(), 2 + Outcome::ALL.len() + FREE.len());
        assert!(table.lines().all(|line| line.matches('|').count() == 5));
    }
}
