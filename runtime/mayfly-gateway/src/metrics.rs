//! Prometheus' text format, written by hand. Units are in the names; a tenant is no label, and what labels a deployment
//! or a model is bounded by whoever collects it.

use std::fmt::{Display, Write};

use mayfly_api::Tier;
use mayfly_calls::{Activity, Buckets, NodeStatus};
use mayfly_types::{Meter, Name};

use self::engines::engines;
use self::residency::residency;
use self::workers::workers;

mod engines;
mod residency;
mod workers;

/// All that `/metrics` shows.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) status: NodeStatus,
    pub(crate) deployments: u64,
    /// Deployments above zero or called lately: bounded by whoever collects them.
    pub(crate) watched: Vec<Deployment>,
    /// Microseconds since the Unix epoch.
    pub(crate) started_at: i64,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) version: String,
}

/// One deployment of [`Figures`].
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) project: Name,
    pub(crate) name: Name,
    pub(crate) tier: Tier,
    pub(crate) activity: Option<Activity>,
}

/// What counts as tokens.
const TOKENS: [Meter; 3] = [Meter::InputTokens, Meter::CachedInputTokens, Meter::OutputTokens];

/// The text of `/metrics`.
pub(crate) fn text(figures: &Figures) -> String {
    let status = &figures.status;
    let mut page = Page(String::with_capacity(16 * 1024));
    page.family("mayfly_info", "gauge", "What is running.", [(vec![("version", figures.version.as_str())], 1)]);
    page.single("mayfly_deployments", "gauge", "Registered deployments.", figures.deployments);
    calls(&mut page, status);
    usage(&mut page, status);
    page.single("mayfly_instances", "gauge", "Instances alive.", status.instances.0);
    page.single("mayfly_instances_made_total", "counter", "Instances made.", status.instances.1);
    page.single(
        "mayfly_instances_idle",
        "gauge",
        "Instances that wait for their next request.",
        status.instances_kept.0,
    );
    let reused = "Requests that an instance of an earlier one answered.";
    page.single("mayfly_instances_reused_total", "counter", reused, status.instances_kept.1);
    page.single("mayfly_code_mapped", "gauge", "Components mapped.", status.code.0);
    page.single("mayfly_code_maps_total", "counter", "Components mapped since the start.", status.code.1);
    page.single("mayfly_models_loaded", "gauge", "Models loaded.", status.models.0);
    page.single("mayfly_model_loads_total", "counter", "Loads of models.", status.models.1);
    page.single("mayfly_model_unloads_total", "counter", "Models dropped.", status.models.2);
    let help = "Memory of their own that loading the models took, as measured.";
    page.single("mayfly_model_bytes", "gauge", help, status.models.3);
    residency(&mut page, &status.devices);
    page.single("mayfly_workers", "gauge", "Processes of tenants' own models.", status.workers.0);
    let help = "Processes of tenants' own models that were started.";
    page.single("mayfly_worker_starts_total", "counter", help, status.workers.1);
    let help = "Processes of tenants' own models that failed.";
    page.single("mayfly_worker_crashes_total", "counter", help, status.workers.2);
    workers(&mut page, &status.worker_loads);
    let help = "What the runs of a call waited for their executors, of calls that ran a model over wasi:nn.";
    page.histogram("mayfly_inference_queue_wait_seconds", help, &status.inference_queue_seconds);
    let help = "From a call's head to the first token that its handler was handed, of calls that generated.";
    page.histogram("gen_ai_server_time_to_first_token_seconds", help, &status.first_token_seconds);
    engines(&mut page, &status.engines);
    deployments(&mut page, &figures.watched);
    let help = "Spans that a collector has taken.";
    page.single("mayfly_spans_exported_total", "counter", help, status.spans.exported);
    let help = "Spans that were lost: their queue was full, or no collector took them.";
    page.single("mayfly_spans_dropped_total", "counter", help, status.spans.dropped);
    if let Some(bytes) = figures.resident_bytes {
        page.single("process_resident_memory_bytes", "gauge", "Resident memory of the process.", bytes);
    }
    let help = "When the server started, seconds since the Unix epoch.";
    page.single("process_start_time_seconds", "gauge", help, seconds(u64::try_from(figures.started_at).unwrap_or(0)));
    page.0
}

fn calls(page: &mut Page, status: &NodeStatus) {
    page.single("mayfly_calls_open", "gauge", "Calls that have not settled.", status.calls_open);
    page.single(
        "mayfly_calls_waiting",
        "gauge",
        "Calls that wait for a place of their deployment.",
        status.calls_waiting,
    );
    page.labelled("mayfly_calls_total", "Calls that ended, by outcome.", "outcome", &status.calls_total);
    page.labelled("mayfly_calls_cold_total", "Calls that ended, by how cold they were.", "cold", &status.cold_total);
    let help = "Answers of the host in place of a handler's, by error code: refusals by a limit, faults, deadlines.";
    page.labelled("mayfly_errors_total", help, "code", &status.errors_total);
    page.histogram("mayfly_call_duration_seconds", "Time from a call's head to its settlement.", &status.call_seconds);
    let help = "What calls waited for a place of their deployment, of those that had to and got one.";
    page.histogram("mayfly_call_queue_wait_seconds", help, &status.line_seconds);
    let help = "Time from a call's head to its refusal, of calls that a limit refused at once.";
    page.histogram("mayfly_refusal_seconds", help, &status.refusal_seconds);
    let help = "What the end of a call waited until its row in the ledger was durable.";
    page.histogram("mayfly_ledger_commit_seconds", help, &status.commit_seconds);
}

/// Each meter under a name that has its unit.
fn usage(page: &mut Page, status: &NodeStatus) {
    let of =
        |meter: Meter| status.usage_total.iter().find(|(word, _)| *word == meter.as_str()).map_or(0, |(_, sum)| *sum);
    let tokens = TOKENS.map(|meter| (meter.as_str(), of(meter)));
    page.labelled("mayfly_tokens_total", "Tokens that models read and made, by meter.", "meter", &tokens);
    page.single("mayfly_rows_total", "counter", "Rows of models without tokens.", of(Meter::Rows));
    let help = "Input elements of models with neither tokens nor rows, in units of 1,024.";
    page.single("mayfly_elements_total", "counter", help, of(Meter::Elements));
    let help = "Executors' time for calls, as their rows in the ledger have it.";
    page.single("mayfly_inference_seconds_total", "counter", help, seconds(of(Meter::InferenceMicros)));
    page.single(
        "mayfly_guest_cpu_seconds_total",
        "counter",
        "CPU time of handlers.",
        seconds(of(Meter::GuestCpuMicros)),
    );
}

fn deployments(page: &mut Page, watched: &[Deployment]) {
    fn labels(deployment: &Deployment) -> Vec<(&str, &str)> {
        vec![("project", deployment.project.as_str()), ("deployment", deployment.name.as_str())]
    }
    let tiers = watched.iter().filter(|deployment| deployment.tier > Tier::Zero).map(|deployment| {
        let mut labels = labels(deployment);
        labels.push(("tier", deployment.tier.as_str()));
        (labels, 1)
    });
    page.family("mayfly_deployment_tier", "gauge", "The tier of each deployment above zero.", tiers);
    let active = || watched.iter().filter_map(|one| Some((labels(one), one.activity.as_ref()?)));
    let help = "Calls that ended, of the deployments called last.";
    let ended = active().map(|(labels, activity)| (labels, activity.calls));
    page.family("mayfly_deployment_calls_total", "counter", help, ended);
    let help = "Calls that were turned away before they opened, of the deployments called last.";
    let away = active().map(|(labels, activity)| (labels, activity.turned_away));
    page.family("mayfly_deployment_turned_away_total", "counter", help, away);
    let help = "Tokens that models read and made, of the deployments called last.";
    let tokens = active().map(|(labels, activity)| {
        let used = Meter::ALL.iter().zip(activity.usage).filter(|(meter, _)| TOKENS.contains(meter));
        (labels, used.map(|(_, sum)| sum).sum::<u64>())
    });
    page.family("mayfly_deployment_tokens_total", "counter", help, tokens);
}

#[expect(clippy::cast_precision_loss, reason = "a figure to watch, no bill")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, impl Display)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
        }
    }

    /// Counters that one label tells apart.
    fn labelled(&mut self, name: &str, help: &str, label: &str, samples: &[(&'static str, u64)]) {
        self.family(name, "counter", help, samples.iter().map(|(word, value)| (vec![(label, *word)], *value)));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// `buckets`: upper bounds in seconds with cumulative counts, and the sum. The last bucket is `+Inf`, given or not.
    fn histogram(&mut self, name: &str, help: &str, (buckets, sum): &Buckets) {
        self.head(name, "histogram", help);
        let count = buckets.last().map_or(0, |(_, count)| *count);
        for (bound, count) in buckets.iter().filter(|(bound, _)| bound.is_finite()) {
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Resident memory of this process; none where the system does not tell.
pub(crate) async fn resident_bytes() -> Option<u64> {
    resident_in(&tokio::fs::read_to_string("/proc/self/status").await.ok()?)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            status: NodeStatus {
                calls_total: vec![("completed", 3), ("deadline", 1)],
                usage_total: vec![("input_tokens", 21), ("guest_cpu_micros", 1_500_000)],
                errors_total: vec![("rate_limited", 5)],
                engines: vec![engines::tests::load()],
                devices: vec![residency::tests::device()],
                instances: (2, 9),
                instances_kept: (1, 4),
                code: (1, 4),
                models: (1, 2, 1, 4096),
                workers: (3, 8, 5),
                worker_loads: vec![workers::tests::load()],
                call_seconds: (vec![(0.001, 1), (0.1, 3), (f64::INFINITY, 4)], 1.5),
                ..NodeStatus::default()
            },
            deployments: 10_000,
            watched: vec![
                deployment("e", Tier::Model, Some(4)),
                deployment("z", Tier::Zero, Some(1)),
                deployment("n", Tier::Code, None),
            ],
            started_at: 1_500_000,
            resident_bytes: Some(1024),
            version: "1\"2".to_owned(),
        }
    }

    fn deployment(name: &str, tier: Tier, calls: Option<u64>) -> Deployment {
        let name: Name = name.parse().unwrap();
        let activity = calls.map(|calls| Activity {
            deployment: mayfly_types::DeploymentId::new(),
            project: mayfly_types::ProjectId::new(),
            name: name.clone(),
            since: 0,
            last_used: 0,
            calls,
            failed: 0,
            turned_away: 2,
            usage: [10, 1, 5, 100, 0, 7, 7],
        });
        Deployment { project: "p".parse().unwrap(), name, tier, activity }
    }

    #[test]
    fn lines_of_the_text() {
        let text = text(&figures());
        for line in [
            "mayfly_info{version=\"1\\\"2\"} 1",
            "mayfly_calls_total{outcome=\"completed\"} 3",
            "mayfly_tokens_total{meter=\"input_tokens\"} 21",
            "mayfly_call_duration_seconds_bucket{le=\"0.001\"} 1",
            "mayfly_call_duration_seconds_bucket{le=\"+Inf\"} 4",
            "mayfly_call_duration_seconds_sum 1.5",
            "mayfly_call_duration_seconds_count 4",
            "mayfly_instances 2",
            "mayfly_instances_idle 1",
            "mayfly_instances_reused_total 4",
            "mayfly_code_mapped 1",
            "mayfly_models_loaded 1",
            "mayfly_model_loads_total 2",
            "mayfly_workers 3",
            "mayfly_worker_starts_total 8",
            "mayfly_worker_crashes_total 5",
            "mayfly_guest_cpu_seconds_total 1.5",
            "mayfly_errors_total{code=\"rate_limited\"} 5",
            "mayfly_deployment_calls_total{project=\"p\",deployment=\"z\"} 1",
            "mayfly_deployment_tokens_total{project=\"p\",deployment=\"e\"} 16",
            "mayfly_deployment_turned_away_total{project=\"p\",deployment=\"e\"} 2",
            "process_start_time_seconds 1.5",
            "mayfly_deployment_tier{project=\"p\",deployment=\"e\",tier=\"model\"} 1",
            "process_resident_memory_bytes 1024",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_sleeps_has_no_tier_and_what_was_not_called_no_counts() {
        let text = text(&figures());
        assert!(!text.contains("deployment=\"z\",tier"), "{text}");
        assert!(!text.lines().any(|line| line.contains("calls_total") && line.contains("deployment=\"n\"")), "{text}");
    }

    #[test]
    fn names_carry_units_and_a_histogram_has_no_label_of_its_own() {
        for line in text(&figures()).lines() {
            let words: Vec<_> = line.split(' ').collect();
            let ["#", "TYPE", name, kind] = words[..] else {
                let labels = line.split_once('{').map_or("", |(_, rest)| rest);
                assert!(!labels.contains("tenant"), "{line}");
                assert!(!line.contains("_bucket{") || labels.matches('=').count() == 1, "{line}");
                continue;
            };
            match kind {
                "counter" => assert!(name.ends_with("_total"), "{name}"),
                "histogram" => assert!(name.ends_with("_seconds"), "{name}"),
                _ => assert!(kind == "gauge" && !name.ends_with("_total"), "{name}"),
            }
        }
    }

    #[test]
    fn every_sample_has_its_type_before_it() {
        let text = text(&figures());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap().to_owned();
            } else if !line.starts_with('#') {
                assert!(line.starts_with(&family), "{line} stands under {family}");
            }
        }
    }

    #[tokio::test]
    async fn resident_memory() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t     12 kB\n"), Some(12 * 1024));
        assert_eq!(resident_in("VmRSS: many kB"), None);
        if cfg!(target_os = "linux") {
            assert!(resident_bytes().await.unwrap() > 1 << 20);
        }
    }
}
