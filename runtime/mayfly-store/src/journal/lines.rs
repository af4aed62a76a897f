//! Lines of a row as compact JSON: `[[meter,model,quantity],[meter,model,quantity,price,amount],...]`.
//!
//! Models and meters are numbers of the store; a line without a price has three. There is one way to write a list, and
//! only that is read: the hash of a row covers its text.

use crate::DbError;

/// A line in the store's numbers. `model` is 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) meter: i64,
    pub(super) model: i64,
    pub(super) quantity: i64,
    /// Price and amount.
    pub(super) priced: Option<(i64, i64)>,
}

/// The text of `lines`; none if there are none.
pub(super) fn write(lines: &[Line]) -> Option<String> {
    use std::fmt::Write as _;
    if lines.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(2 + 32 * lines.len());
    for line in lines {
        text.push(if text.is_empty() { '[' } else { ',' });
        let wrote = match line.priced {
            None => write!(text, "[{},{},{}]", line.meter, line.model, line.quantity),
            Some((price, amount)) => {
                write!(text, "[{},{},{},{price},{amount}]", line.meter, line.model, line.quantity)
            }
        };
        wrote.expect("a string takes all text");
    }
    text.push(']');
    Some(text)
}

/// Reads what [`write`] wrote into `lines`, which is emptied first.
pub(super) fn read(text: &str, lines: &mut Vec<Line>) -> Result<(), DbError> {
    lines.clear();
    let mut text = Text(text.as_bytes());
    read_all(&mut text, lines).ok_or_else(|| DbError::damaged("ledger row", "its lines cannot be read"))
}

fn read_all(text: &mut Text<'_>, lines: &mut Vec<Line>) -> Option<()> {
    text.take(b'[')?;
    loop {
        text.take(b'[')?;
        let meter = text.number()?;
        text.take(b',')?;
        let model = text.number()?;
        text.take(b',')?;
        let quantity = text.number()?;
        let priced = match text.next()? {
            b']' => None,
            b',' => {
                let price = text.number()?;
                text.take(b',')?;
                let amount = text.number()?;
                text.take(b']')?;
                Some((price, amount))
            }
            _ => return None,
        };
        lines.push(Line { meter, model, quantity, priced });
        match text.next()? {
            b',' => {}
            b']' => return text.0.is_empty().then_some(()),
            _ => return None,
        }
    }
}

struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    /// A whole number as `Display` writes it.
    fn number(&mut self) -> Option<i64> {
        let negative = self.0.first() == Some(&b'-');
        if negative {
            self.0 = &self.0[1..];
        }
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.0.split_at(digits);
        if digits == 0 || (number[0] == b'0' && (digits > 1 || negative)) {
            return None;
        }
        self.0 = rest;
        // Below zero all along, because the least number has no opposite.
        let mut value: i64 = 0;
        for digit in number {
            value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
        }
        if negative { Some(value) } else { value.checked_neg() }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(lines: &[Line], text: &str) {
        assert_eq!(write(lines).as_deref(), Some(text));
        let mut back = Vec::new();
        read(text, &mut back).unwrap();
        assert_eq!(back, lines);
        assert!(serde_json::from_str::<Vec<Vec<i64>>>(text).is_ok(), "it is JSON");
    }

    #[test]
    fn text_and_back() {
        check(&[Line { meter: 1, model: 0, quantity: 9, priced: None }], "[[1,0,9]]");
        let extreme = Line { meter: 7, model: 12, quantity: i64::MIN, priced: Some((3, i64::MAX)) };
        let zero = Line { meter: 4, model: 1, quantity: 0, priced: Some((1, 0)) };
        check(&[extreme, zero], "[[7,12,-9223372036854775808,3,9223372036854775807],[4,1,0,1,0]]");
        assert_eq!(write(&[]), None);
    }

    #[test]
    fn anything_else_is_refused() {
        let mut lines = Vec::new();
        for text in [
            "",
            "[]",
            "[[]]",
            "[[1,2]]",
            "[[1,2,3,4]]",
            "[[1,2,3]",
            "[[1,2,3]]]",
            "[[1,2,3]],",
            "[[1, 2,3]]",
            "[[01,2,3]]",
            "[[-0,2,3]]",
            "[[+1,2,3]]",
            "[[1,2,9223372036854775808]]",
            "[[1,2,3,4,5,6]]",
            "[[1,2,3e1]]",
            "[1,2,3]",
        ] {
            assert!(read(text, &mut lines).is_err(), "{text}");
        }
    }
}
