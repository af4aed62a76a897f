//! `mayfly top`: the deployments of a node by load, looked at again and again.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mayfly_api::{DeploymentActivity, Node, Timestamp};
use mayfly_types::DeploymentId;
use serde::Serialize;

use super::Session;
use super::args::Top;
use super::output::{bytes, table};

/// Clears the screen and what has scrolled off it, and goes to its corner.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

const HEAD: [&str; 12] = [
    "DEPLOYMENT",
    "TIER",
    "OPEN",
    "CALLS/S",
    "CALLS",
    "FAILED",
    "REFUSED",
    "TOKENS/S",
    "IN",
    "OUT",
    "CPU MS",
    "MODELS",
];

/// One look at a node, as `--json` prints it. Rates are there from the second look on.
#[derive(Debug, Serialize)]
struct Look {
    at: Timestamp,
    node: Node,
    data: Vec<Entry>,
}

/// One deployment, the busiest first.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    activity: DeploymentActivity,
    #[serde(flatten)]
    rates: Option<Rates>,
}

/// What happened since the look before, by second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Rates {
    calls_per_second: f64,
    tokens_per_second: f64,
}

pub(super) async fn run(session: &Session, args: Top) -> anyhow::Result<()> {
    let mut before: Option<(Instant, Vec<DeploymentActivity>)> = None;
    loop {
        let node = session.client.node().await?;
        let activity = session.client.activity().await?;
        let looked = Instant::now();
        let earlier = before.as_ref().map(|(at, earlier)| (looked.duration_since(*at), &earlier[..]));
        let look = Look { at: now(), node, data: entries(&activity, earlier) };
        if args.once {
            return session.print(&look, |look| text(look, args.count));
        }
        let mut out = std::io::stdout().lock();
        let written = if session.global.json {
            writeln!(out, "{}", serde_json::to_string(&look)?)
        } else {
            write!(out, "{CLEAR}{}", text(&look, args.count))
        };
        // The reader of a pipe may leave whenever it likes.
        if written.and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        drop(out);
        before = Some((looked, activity));
        tokio::time::sleep(Duration::from_secs(u64::from(args.interval))).await;
    }
}

/// By load: calls that are open, then calls and tokens since the look before, then since the node began to count.
fn entries(activity: &[DeploymentActivity], before: Option<(Duration, &[DeploymentActivity])>) -> Vec<Entry> {
    let (elapsed, earlier) = before.unwrap_or_default();
    let earlier: HashMap<DeploymentId, &DeploymentActivity> = earlier.iter().map(|entry| (entry.id, entry)).collect();
    let mut entries: Vec<(_, Entry)> = activity
        .iter()
        .map(|now| {
            // A later beginning means that the node has forgotten what it had counted.
            let then = earlier.get(&now.id).filter(|then| then.since.is_none() || then.since == now.since);
            let (calls, all_tokens) = then.map_or((now.calls, tokens(now)), |then| {
                (beyond(now.calls, then.calls), beyond(tokens(now), tokens(then)))
            });
            let rates = before.map(|_| Rates {
                calls_per_second: per_second(calls, elapsed),
                tokens_per_second: per_second(all_tokens, elapsed),
            });
            let order = Reverse((now.calls_open, calls, all_tokens, now.calls, now.last_used_at));
            (order, Entry { activity: now.clone(), rates })
        })
        .collect();
    entries.sort_by_key(|(order, _)| *order);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn beyond(now: u64, then: u64) -> u64 {
    now.saturating_sub(then)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

fn used(activity: &DeploymentActivity, meter: &str) -> u64 {
    activity.usage.get(meter).copied().unwrap_or(0)
}

/// What models have read and written.
fn tokens(activity: &DeploymentActivity) -> u64 {
    ["input_tokens", "cached_input_tokens", "output_tokens"].iter().map(|meter| used(activity, meter)).sum()
}

fn text(look: &Look, count: usize) -> String {
    let rows: Vec<_> = look.data.iter().take(count).map(row).collect();
    let mut text = format!("{}\n{}\n\n{}", look.at, node_line(&look.node, &look.data), table(&HEAD, &rows));
    if look.data.len() > count {
        text.push_str(&format!("and {} more (-n)\n", look.data.len() - count));
    }
    text
}

/// What the node uses, as far as the key may know: a key of a tenant sees the sum of its own calls only.
fn node_line(node: &Node, data: &[Entry]) -> String {
    let own: u64 = data.iter().map(|entry| u64::from(entry.activity.calls_open)).sum();
    let mut text = format!("mayfly {}  calls open {}", node.version, node.calls_open.unwrap_or(own));
    let counts = [
        ("instances", node.instances.map(u64::from)),
        ("code mapped", node.code_mapped),
        ("models loaded", node.models_loaded),
        // Hosts that have no such models need no word of them.
        ("models apart", node.models_loaded_apart.filter(|count| *count > 0)),
        ("deployments", node.deployments),
    ];
    for (what, count) in counts {
        text.extend(count.map(|count| format!("  {what} {count}")));
    }
    let apart = node.model_bytes_apart.filter(|bytes| *bytes > 0);
    for (what, size) in [("models", node.model_bytes), ("models apart", apart), ("process", node.resident_bytes)] {
        text.extend(size.map(|size| format!("  {what} {}", bytes(size))));
    }
    text
}

fn row(entry: &Entry) -> Vec<String> {
    let Entry { activity, rates } = entry;
    let rate =
        |of: fn(&Rates) -> f64| rates.as_ref().map_or_else(|| "-".to_owned(), |rates| format!("{:.1}", of(rates)));
    let read = used(activity, "input_tokens").saturating_add(used(activity, "cached_input_tokens"));
    vec![
        format!("{}/{}", activity.project, activity.name),
        activity.tier.as_str().to_owned(),
        activity.calls_open.to_string(),
        rate(|rates| rates.calls_per_second),
        activity.calls.to_string(),
        activity.failed.to_string(),
        activity.turned_away.to_string(),
        rate(|rates| rates.tokens_per_second),
        read.to_string(),
        used(activity, "output_tokens").to_string(),
        used(activity, "guest_cpu_micros").div_ceil(1000).to_string(),
        bytes(activity.model_bytes),
    ]
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use mayfly_api::Tier;
    use serde_json::json;

    use super::*;

    fn deployment(id: DeploymentId, name: &str, since: i64, calls: u64, input: u64) -> DeploymentActivity {
        DeploymentActivity {
            id,
            project: "p".parse().unwrap(),
            name: name.parse().unwrap(),
            tier: Tier::Code,
            calls_open: 0,
            calls,
            failed: 0,
            turned_away: 0,
            usage: [("input_tokens".to_owned(), input), ("rows".to_owned(), 7)].into(),
            model_bytes: 1536,
            since: Some(Timestamp::from_micros(since)),
            last_used_at: None,
        }
    }

    #[test]
    fn the_busiest_since_the_last_look_comes_first() {
        let (old, busy, forgotten) = (DeploymentId::new(), DeploymentId::new(), DeploymentId::new());
        let before = [
            deployment(old, "old", 0, 900, 900),
            deployment(busy, "busy", 0, 10, 0),
            deployment(forgotten, "f", 0, 99, 0),
        ];
        let first = entries(&before, None);
        assert_eq!(first[0].activity.name.as_str(), "old", "without a look before, who did most");
        assert!(first.iter().all(|entry| entry.rates.is_none()));
        let now = [
            deployment(old, "old", 0, 900, 900),
            deployment(busy, "busy", 0, 14, 10),
            deployment(forgotten, "f", 5, 1, 0),
        ];
        let second = entries(&now, Some((Duration::from_secs(2), &before)));
        let told: Vec<_> = second.iter().map(|entry| (entry.activity.name.as_str(), entry.rates.unwrap())).collect();
        let rates = |calls, tokens| Rates { calls_per_second: calls, tokens_per_second: tokens };
        assert_eq!(told, [("busy", rates(2.0, 5.0)), ("f", rates(0.5, 0.0)), ("old", rates(0.0, 0.0))]);
        let open = DeploymentActivity { calls_open: 1, ..now[0].clone() };
        let third = entries(&[now[1].clone(), open], Some((Duration::from_secs(2), &before)));
        assert_eq!(third[0].activity.name.as_str(), "old", "what runs now comes before everything");
    }

    #[test]
    fn a_row_and_a_line_of_json() {
        let activity = [deployment(DeploymentId::new(), "e", 0, 4, 8)];
        let mut entry = entries(&activity, None).remove(0);
        assert_eq!(row(&entry), ["p/e", "code", "0", "-", "4", "0", "0", "-", "8", "0", "0", "1.5 KiB"]);
        assert_eq!(HEAD.len(), row(&entry).len());
        assert!(serde_json::to_value(&entry).unwrap().get("calls_per_second").is_none());
        entry.rates = Some(Rates { calls_per_second: 2.0, tokens_per_second: 4.0 });
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!((&json["name"], &json["calls_per_second"]), (&json!("e"), &json!(2.0)));
    }
}
