//! `mayfly limits`: what the calls of a tenant, project, deployment or key may use together.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use mayfly_api::{Limits, SpendLimit};
use mayfly_types::{Money, Period};

use super::Session;
use super::args::{Limits as Command, LimitsChange};
use super::credit::level;
use super::output::table;

/// What removes a limit.
const NONE: &str = "none";
const PERIODS: [(&str, Period); 3] = [("hour", Period::Hour), ("day", Period::Day), ("month", Period::Month)];

pub(super) async fn run(session: &Session, command: Command) -> anyhow::Result<()> {
    let client = &session.client;
    let limits = match command {
        Command::Show { of } => client.limits(level(session, &of)).await?,
        Command::Set { of, change } => {
            let level = level(session, &of);
            let mut limits = client.limits(level).await?;
            apply(&mut limits, change)?;
            client.set_limits(level, &limits).await?
        }
    };
    session.print(&limits, describe)
}

/// Changes what is given and leaves the rest.
fn apply(limits: &mut Limits, change: LimitsChange) -> anyhow::Result<()> {
    set(&mut limits.concurrency, change.concurrency, "--concurrency")?;
    set(&mut limits.requests_per_minute, change.requests_per_minute, "--requests-per-minute")?;
    set(&mut limits.tokens_per_minute, change.tokens_per_minute, "--tokens-per-minute")?;
    set(&mut limits.wakeups_per_minute, change.wakeups_per_minute, "--wakeups-per-minute")?;
    set(&mut limits.request_cost_max, change.request_cost_max, "--request-cost-max")?;
    if let Some(text) = change.spend {
        limits.spend = if text == NONE { None } else { Some(parse_spend(&text)?) };
    }
    limits.prepaid = change.prepaid.unwrap_or(limits.prepaid);
    Ok(())
}

fn set<T: FromStr>(limit: &mut Option<T>, text: Option<String>, flag: &str) -> anyhow::Result<()>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    if let Some(text) = text {
        let parse = || text.parse().with_context(|| format!("{flag} {text} (expected a number, or {NONE})"));
        *limit = if text == NONE { None } else { Some(parse()?) };
    }
    Ok(())
}

fn parse_spend(text: &str) -> anyhow::Result<SpendLimit> {
    let wrong = || format!("--spend {text} (expected for example 20/month, or {NONE})");
    let (amount, period) = text.split_once('/').with_context(wrong)?;
    let amount: Money = amount.parse().with_context(wrong)?;
    match PERIODS.iter().find(|(word, _per)| *word == period) {
        Some((_word, per)) => Ok(SpendLimit { amount, per: *per }),
        None => bail!("--spend {text}: `{period}` is not hour, day or month"),
    }
}

fn describe(limits: &Limits) -> String {
    fn row(name: &str, value: Option<impl ToString>) -> Vec<String> {
        vec![name.to_owned(), value.map_or_else(|| NONE.to_owned(), |value| value.to_string())]
    }
    let spend = limits.spend.as_ref().map(|spend| {
        let word = PERIODS.iter().find(|(_word, per)| *per == spend.per).map_or("", |(word, _per)| word);
        format!("{}/{word}", spend.amount)
    });
    let rows = [
        row("concurrency", limits.concurrency),
        row("requests per minute", limits.requests_per_minute),
        row("tokens per minute", limits.tokens_per_minute),
        row("wake-ups per minute", limits.wakeups_per_minute),
        row("spend", spend),
        row("prepaid", Some(if limits.prepaid { "yes" } else { "no" })),
        row("cost of a call, at most", limits.request_cost_max),
    ];
    table(&["LIMIT", "VALUE"], &rows)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn only_what_is_given_changes() {
        let mut limits = Limits { concurrency: Some(3), requests_per_minute: Some(60), ..Limits::default() };
        let change = LimitsChange {
            concurrency: text("none"),
            tokens_per_minute: text("1000"),
            spend: text("2.5/day"),
            prepaid: Some(true),
            ..LimitsChange::default()
        };
        apply(&mut limits, change).unwrap();
        let expect = Limits {
            requests_per_minute: Some(60),
            tokens_per_minute: Some(1000),
            spend: Some(SpendLimit { amount: "2.5".parse().unwrap(), per: Period::Day }),
            prepaid: true,
            ..Limits::default()
        };
        assert_eq!(limits, expect);
        let shown = describe(&limits);
        assert!(shown.contains("2.5/day") && shown.contains("concurrency              none"), "{shown}");
        let change = LimitsChange { spend: text("none"), prepaid: Some(false), ..LimitsChange::default() };
        apply(&mut limits, change).unwrap();
        assert_eq!((limits.spend, limits.prepaid), (None, false));
    }

    #[test]
    fn what_is_no_limit_is_refused_with_its_flag() {
        for bad in ["-1", "1.5", "NaN", "", "99999999999999999999"] {
            let change = LimitsChange { tokens_per_minute: text(bad), ..LimitsChange::default() };
            let error = apply(&mut Limits::default(), change).unwrap_err();
            assert!(error.to_string().contains("--tokens-per-minute"), "{error}");
        }
        for bad in ["20", "20/year", "x/day", "NaN/day"] {
            let change = LimitsChange { spend: text(bad), ..LimitsChange::default() };
            assert!(apply(&mut Limits::default(), change).unwrap_err().to_string().contains("--spend"));
        }
    }
}
