//! The rows and how they are printed.

use serde::Serialize;

/// One measured thing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Our figure, a median unless the note says otherwise; none if it could not be measured.
    pub(crate) ours: Option<f64>,
    /// The peer's figure; none where there is no peer.
    pub(crate) peer: Option<f64>,
    pub(crate) unit: &'static str,
    /// ours / peer.
    pub(crate) ratio: Option<f64>,
    /// In words.
    pub(crate) target: &'static str,
    pub(crate) pass: bool,
    pub(crate) note: String,
}

impl Row {
    /// A row that could not be measured: it does not pass.
    pub(crate) fn failed(name: &'static str, why: &str) -> Self {
        Self {
            name,
            ours: None,
            peer: None,
            unit: "",
            ratio: None,
            target: "",
            pass: false,
            note: format!("could not be measured: {why}"),
        }
    }
}

/// Prints the rows as a table.
#[expect(clippy::print_stdout, reason = "the table is the output")]
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<28} {:>10} {:>10} {:<4} {:>7}  {:<28} {:<5} note",
        "row", "ours", "peer", "unit", "ratio", "target", "pass"
    );
    for row in rows {
        println!(
            "{:<28} {:>10} {:>10} {:<4} {:>7}  {:<28} {:<5} {}",
            row.name,
            figure(row.ours),
            figure(row.peer),
            row.unit,
            figure(row.ratio),
            row.target,
            if row.pass { "yes" } else { "NO" },
            row.note
        );
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}
