//! `mayfly usage`: what was counted, and what it cost.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use mayfly_api::{Timestamp, Usage, UsageGroup};
use mayfly_client::UsageQuery;

use super::Session;
use super::args;
use super::output::table;

/// Meters people look at, in the order of the columns.
const METERS: [(&str, &str); 6] = [
    ("input_tokens", "INPUT TOKENS"),
    ("cached_input_tokens", "CACHED TOKENS"),
    ("output_tokens", "OUTPUT TOKENS"),
    ("rows", "ROWS"),
    ("elements", "ELEMENTS"),
    ("inference_micros", "INFERENCE MS"),
];

pub(super) async fn run(session: &Session, args: args::Usage) -> anyhow::Result<()> {
    let since = args.since.as_deref().map(parse_time).transpose()?;
    let until = args.until.as_deref().map(parse_time).transpose()?;
    let by: Vec<String> = args.by.iter().map(|name| name.replace('-', "_")).collect();
    let of_project = args.this_project || args.deployment.is_some();
    let query = UsageQuery {
        group_by: by,
        since,
        until,
        tenant: args.tenant.map(String::from),
        project: of_project.then(|| session.project().to_owned()),
        deployment: args.deployment.map(String::from),
        key: args.key_id,
        model: args.model,
        end_user: args.end_user,
    };
    let usage = session.client.usage(&query).await?;
    session.print(&usage, shown)
}

fn shown(usage: &Usage) -> String {
    let cost = format!("COST {}", usage.currency);
    let mut head: Vec<String> = usage.group_by.iter().map(|name| name.to_uppercase()).collect();
    head.push("CALLS".to_owned());
    head.extend(METERS.iter().map(|(_, title)| (*title).to_owned()));
    head.push(cost);
    let named = |group: &UsageGroup, by: &String| {
        let name = group.names.get(by).or(group.group.get(by)).map_or("", String::as_str);
        // A day comes as its first moment, in UTC.
        let name = if by == "day" { name.trim_end_matches("T00:00:00Z") } else { name };
        name.to_owned()
    };
    let mut rows: Vec<Vec<String>> = usage
        .data
        .iter()
        .map(|group| usage.group_by.iter().map(|by| named(group, by)).chain(sums(group)).collect())
        .collect();
    if !usage.group_by.is_empty() {
        let mut total = vec![String::new(); usage.group_by.len()];
        total[0] = "TOTAL".to_owned();
        total.extend(sums(&usage.total));
        rows.push(total);
    }
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    table(&head, &rows)
}

/// Calls, meters and cost, in the order of the columns.
fn sums(group: &UsageGroup) -> Vec<String> {
    let mut cells = vec![group.calls.to_string()];
    cells.extend(METERS.iter().map(|(meter, _)| {
        let sum = group.usage.get(*meter).copied().unwrap_or(0);
        if *meter == "inference_micros" { format!("{}.{:03}", sum / 1000, sum % 1000) } else { sum.to_string() }
    }));
    cells.push(group.cost.map_or_else(|| "-".to_owned(), |cost| cost.to_string()));
    cells
}

/// RFC 3339, or a span before now: `90m`, `24h`, `7d`.
pub(super) fn parse_time(text: &str) -> anyhow::Result<Timestamp> {
    let span = text.strip_suffix(['m', 'h', 'd']).and_then(|number| number.parse::<i64>().ok());
    if let Some(number) = span {
        let seconds = match text.chars().last() {
            Some('m') => 60,
            Some('h') => 3_600,
            _ => 86_400,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_micros();
        let back = number.checked_mul(seconds * 1_000_000);
        let then = back.and_then(|back| i64::try_from(now).ok()?.checked_sub(back)).context("the span is too long")?;
        return Ok(Timestamp::from_micros(then));
    }
    match text.parse() {
        Ok(time) => Ok(time),
        Err(error) => bail!("{error}, or a span such as 24h"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn groups_have_a_total_below() {
        let usage: Usage = serde_json::from_value(serde_json::json!({
            "group_by": ["model", "day"], "currency": "EUR",
            "data": [{"group": {"model": "mod_1", "day": "2026-11-27T00:00:00Z"}, "names": {"model": "minilm"}, "calls": 2,
                "usage": {"input_tokens": 8, "inference_micros": 1500}, "cost": "0.25"},
                {"group": {"model": "mod_2", "day": "2026-11-28T00:00:00Z"}, "calls": 1, "usage": {"rows": 1}}],
            "total": {"group": {}, "calls": 2, "usage": {"input_tokens": 8, "rows": 1}, "cost": "0.25"},
        }))
        .expect("usage");
        let text = shown(&usage);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = text.lines().map(words).collect();
        assert!(text.lines().next().is_some_and(|head| head.ends_with("COST EUR")));
        assert_eq!(lines[1], ["minilm", "2026-11-27", "2", "8", "0", "0", "0", "0", "1.500", "0.25"]);
        assert_eq!(
            lines[2],
            ["mod_2", "2026-11-28", "1", "0", "0", "0", "1", "0", "0.000", "-"],
            "unpriced is not free"
        );
        assert_eq!(lines[3], ["TOTAL", "2", "8", "0", "0", "1", "0", "0.000", "0.25"]);
    }
    #[test]
    fn times_are_moments_or_spans_back() {
        assert_eq!(parse_time("2026-11-27T00:00:00Z").unwrap(), "2026-11-27T00:00:00Z".parse().unwrap());
        let (day, hours) = (parse_time("1d").unwrap(), parse_time("24h").unwrap());
        assert!(hours.micros().abs_diff(day.micros()) < 60_000_000);
        for bad in ["", "d", "yesterday", "9000000000000000000m", "200000000000000d", "-106751991d"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
