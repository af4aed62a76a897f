//! `mayfly usage`: what was counted.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use mayfly_api::Timestamp;
use mayfly_client::UsageQuery;

use super::Session;
use super::args::Usage;
use super::output::table;

/// Meters people look at, in the order of the columns.
const METERS: [(&str, &str); 5] = [
    ("input_tokens", "INPUT TOKENS"),
    ("output_tokens", "OUTPUT TOKENS"),
    ("rows", "ROWS"),
    ("elements", "ELEMENTS"),
    ("inference_micros", "INFERENCE MS"),
];

pub(super) async fn run(session: &Session, args: Usage) -> anyhow::Result<()> {
    let since = args.since.as_deref().map(parse_time).transpose()?;
    let until = args.until.as_deref().map(parse_time).transpose()?;
    let by: Vec<String> = args.by.iter().map(|name| name.replace('-', "_")).collect();
    let usage = session.client.usage(&UsageQuery { group_by: by, since, until, ..UsageQuery::default() }).await?;
    session.print(&usage, |usage| {
        let mut head: Vec<String> = usage.group_by.iter().map(|name| name.to_uppercase()).collect();
        head.push("CALLS".to_owned());
        head.extend(METERS.iter().map(|(_, title)| (*title).to_owned()));
        let rows: Vec<_> = usage
            .data
            .iter()
            .map(|group| {
                let mut row: Vec<_> = usage
                    .group_by
                    .iter()
                    .map(|by| group.names.get(by).or(group.group.get(by)).cloned().unwrap_or_default())
                    .collect();
                row.push(group.calls.to_string());
                row.extend(METERS.iter().map(|(meter, _)| {
                    let sum = group.usage.get(*meter).copied().unwrap_or(0);
                    if *meter == "inference_micros" {
                        format!("{}.{:03}", sum / 1000, sum % 1000)
                    } else {
                        sum.to_string()
                    }
                }));
                row
            })
            .collect();
        let head: Vec<_> = head.iter().map(String::as_str).collect();
        table(&head, &rows)
    })
}

/// RFC 3339, or a span before now: `90m`, `24h`, `7d`.
fn parse_time(text: &str) -> anyhow::Result<Timestamp> {
    let span = text.strip_suffix(['m', 'h', 'd']).and_then(|number| number.parse::<i64>().ok());
    if let Some(number) = span {
        let seconds = match text.chars().last() {
            Some('m') => 60,
            Some('h') => 3_600,
            _ => 86_400,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_micros();
        let back = number.checked_mul(seconds * 1_000_000).context("the span is too long")?;
        return Ok(Timestamp::from_micros(i64::try_from(now)? - back));
    }
    match text.parse() {
        Ok(time) => Ok(time),
        Err(error) => bail!("{error}, or a span such as 24h"),
    }
}
