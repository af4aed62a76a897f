//! Prometheus' text format, written by hand. Units are in the names; a tenant is no label of a histogram.

use std::fmt::{Display, Write};

use mayfly_api::Tier;
use mayfly_calls::NodeStatus;
use mayfly_types::Name;

/// All that `/metrics` shows.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) status: NodeStatus,
    pub(crate) deployments: u64,
    /// Deployments above zero: bounded by whoever collects them.
    pub(crate) tiers: Vec<(Name, Name, Tier)>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) version: String,
}

/// The text of `/metrics`.
pub(crate) fn text(figures: &Figures) -> String {
    let status = &figures.status;
    let mut page = Page(String::with_capacity(4096));
    page.family("mayfly_info", "gauge", "What is running.", [(vec![("version", figures.version.as_str())], 1)]);
    page.single("mayfly_deployments", "gauge", "Registered deployments.", figures.deployments);
    page.single("mayfly_calls_open", "gauge", "Calls that have not settled.", status.calls_open);
    page.labelled("mayfly_calls_total", "counter", "Calls that ended, by outcome.", "outcome", &status.calls_total);
    page.labelled(
        "mayfly_calls_cold_total",
        "counter",
        "Calls that ended, by how cold they were.",
        "cold",
        &status.cold_total,
    );
    page.histogram("mayfly_call_duration_seconds", "Time from a call's head to its settlement.", &status.call_seconds);
    page.labelled(
        "mayfly_tokens_total",
        "counter",
        "Usage by meter, in the meter's unit.",
        "meter",
        &status.usage_total,
    );
    page.single("mayfly_instances", "gauge", "Instances alive.", status.instances.0);
    page.single("mayfly_instances_made_total", "counter", "Instances made.", status.instances.1);
    page.single("mayfly_code_mapped", "gauge", "Components mapped.", status.code.0);
    page.single("mayfly_code_maps_total", "counter", "Components mapped since the start.", status.code.1);
    page.single("mayfly_models_loaded", "gauge", "Models loaded.", status.models.0);
    page.single("mayfly_model_loads_total", "counter", "Loads of models.", status.models.1);
    page.single("mayfly_model_unloads_total", "counter", "Models dropped.", status.models.2);
    page.single(
        "mayfly_model_bytes",
        "gauge",
        "Resident bytes that loading the models added, as measured.",
        status.models.3,
    );
    let tiers = figures.tiers.iter().map(|(project, deployment, tier)| {
        (vec![("project", project.as_str()), ("deployment", deployment.as_str()), ("tier", tier.as_str())], 1)
    });
    page.family("mayfly_deployment_tier", "gauge", "The tier of each deployment above zero.", tiers);
    if let Some(bytes) = figures.resident_bytes {
        page.single("process_resident_memory_bytes", "gauge", "Resident memory of the process.", bytes);
    }
    page.0
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
        samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, u64)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
        }
    }

    fn labelled(&mut self, name: &str, kind: &str, help: &str, label: &str, samples: &[(&'static str, u64)]) {
        self.family(name, kind, help, samples.iter().map(|(word, value)| (vec![(label, *word)], *value)));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// `buckets`: upper bounds in seconds with cumulative counts, and the sum. The last bucket is `+Inf`, given or not.
    fn histogram(&mut self, name: &str, help: &str, (buckets, sum): &(Vec<(f64, u64)>, f64)) {
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
                usage_total: vec![("input_tokens", 21)],
                instances: (2, 9),
                code: (1, 4),
                models: (1, 2, 1, 4096),
                call_seconds: (vec![(0.001, 1), (0.1, 3), (f64::INFINITY, 4)], 1.5),
                ..NodeStatus::default()
            },
            deployments: 10_000,
            tiers: vec![("p".parse().unwrap(), "e".parse().unwrap(), Tier::Model)],
            resident_bytes: Some(1024),
            version: "1\"2".to_owned(),
        }
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
            "mayfly_code_mapped 1",
            "mayfly_models_loaded 1",
            "mayfly_model_loads_total 2",
            "mayfly_deployment_tier{project=\"p\",deployment=\"e\",tier=\"model\"} 1",
            "process_resident_memory_bytes 1024",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
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
