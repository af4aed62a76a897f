//! Printing: tables for people, JSON for programs.

use std::io::Write as _;

use serde::Serialize;

/// Prints `value` as JSON, or what `people` makes of it.
///
/// # Errors
/// If it cannot be written as JSON.
pub(super) fn print<T: Serialize>(json: bool, value: &T, people: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(value)? } else { people(value) };
    if text.is_empty() {
        return Ok(());
    }
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end()) {
        // The reader of a pipe may leave whenever it likes.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Columns, as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// `1536` as `1.5 KiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(&["NAME", "N"], &[vec!["a-long-name".into(), "1".into()], vec!["b".into(), "22".into()]]);
        assert_eq!(text, "NAME         N\na-long-name  1\nb            22\n");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(90 << 20), "90.0 MiB");
    }
}
