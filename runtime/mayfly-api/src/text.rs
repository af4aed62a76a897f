//! Text of guests and strangers, made safe to show: no control characters reach a terminal, a log or a page.

/// Whether showing `c` could move a cursor, change a colour, reverse the reading order or hide text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// One line: tabs become spaces, every other control or invisible direction character is dropped.
pub fn clean_line(text: &str) -> String {
    text.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !is_unsafe(*c)).collect()
}

/// Several lines: as [`clean_line`], but line ends and tabs stay.
pub fn clean_text(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !is_unsafe(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        assert_eq!(clean_line("a\x1b[31mred\x1b[0m\r\nb\tc\u{9b}2J\u{202e}d"), "a[31mred[0mb c2Jd");
        assert_eq!(clean_text("a\nb\tc\x07\r"), "a\nb\tc");
        assert_eq!(clean_line("häuser 家"), "häuser 家");
    }
}
