//! The engines that generate: how full they are, and how many sequences share a step.

use mayfly_inference::EngineLoad;

use super::Page;

/// One family for each figure, one sample for each loaded engine: as many as sessions may be loaded.
pub(super) fn engines(page: &mut Page, engines: &[EngineLoad]) {
    let names: Vec<_> = engines.iter().map(|load| (load.digest.to_string(), load.device.to_string())).collect();
    let mut gauge = |name: &str, kind: &str, help: &str, of: fn(&EngineLoad) -> f64| {
        let samples = names
            .iter()
            .zip(engines)
            .map(|((model, device), load)| (vec![("model", model.as_str()), ("device", device.as_str())], of(load)));
        page.family(name, kind, help, samples);
    };
    let at = "of each loaded engine";
    let mut now = |name: &str, help: &str, of| gauge(name, "gauge", &format!("{help}, {at}."), of);
    now("mayfly_generation_sequences", "Sequences that hold a slot", |load| load.active.into());
    now("mayfly_generation_slots", "Slots", |load| load.slots.into());
    now("mayfly_generation_waiting", "Sequences that wait for a slot", |load| load.waiting.into());
    now("mayfly_generation_kv_tokens", "Tokens of attention state, in use or kept for reuse", |load| {
        float(load.kv_tokens)
    });
    now("mayfly_generation_kv_tokens_max", "The most tokens of attention state", |load| float(load.kv_tokens_max));
    now("mayfly_generation_state_bytes", "Bytes of attention state and logits", |load| float(load.state_bytes));
    let mut sum = |name: &str, help: &str, of| gauge(name, "counter", &format!("{help} since the load {at}."), of);
    sum("mayfly_generation_steps_total", "Prompt chunks and decode steps", |load| float(load.steps));
    sum("mayfly_generation_decode_steps_total", "Decode steps", |load| float(load.decode_steps));
    sum("mayfly_generation_decode_rows_total", "Rows of decode steps, a token each,", |load| float(load.decode_rows));
    sum("mayfly_generation_run_seconds_total", "Time inside ONNX Runtime", |load| load.run.as_secs_f64());
    sum("mayfly_generation_busy_seconds_total", "Time awake", |load| load.busy.as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "a figure to watch, no bill")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use mayfly_types::Digest;

    use super::*;

    pub(in crate::metrics) fn load() -> EngineLoad {
        EngineLoad {
            digest: Digest::of(b"model"),
            device: mayfly_inference::Device::Cpu,
            active: 3,
            slots: 8,
            waiting: 1,
            kv_tokens: 640,
            kv_tokens_max: 4096,
            state_bytes: 1 << 40,
            steps: 30,
            decode_steps: 20,
            decode_rows: 50,
            run: Duration::from_millis(1_500),
            busy: Duration::from_secs(2),
        }
    }

    #[test]
    fn each_engine_has_a_sample_and_none_has_the_families_still() {
        let mut page = Page(String::new());
        engines(&mut page, &[load()]);
        let labels = format!("{{model=\"{}\",device=\"cpu\"}}", load().digest);
        for (name, value) in [
            ("sequences", "3"),
            ("waiting", "1"),
            ("state_bytes", "1099511627776"),
            ("decode_rows_total", "50"),
            ("run_seconds_total", "1.5"),
        ] {
            let line = format!("mayfly_generation_{name}{labels} {value}");
            assert!(page.0.lines().any(|l| l == line), "{line} is not in\n{}", page.0);
        }
        let mut empty = Page(String::new());
        engines(&mut empty, &[]);
        assert!(empty.0.contains("# TYPE mayfly_generation_steps_total counter"), "{}", empty.0);
    }
}
