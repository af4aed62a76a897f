//! What processes of tenants' own models have at work, as far as they tell: all of a device together, since neither whose a
//! process is nor which packages a tenant brings may label anything.

use mayfly_inference::{Device, WorkerLoad};

use super::Page;

/// One sample for each device that has such a process.
pub(super) fn workers(page: &mut Page, loads: &[(Device, WorkerLoad)]) {
    let mut gauge = |name: &str, help: &str, of: fn(&WorkerLoad) -> u64| {
        let samples = loads.iter().map(|(device, load)| (vec![("device", device.as_str())], of(load)));
        page.family(name, "gauge", &format!("{help}, of processes of tenants' own models as they tell."), samples);
    };
    gauge("mayfly_worker_models_loaded", "Models loaded", |load| load.models);
    gauge("mayfly_worker_model_bytes", "Memory that loading models took", |load| load.model_bytes);
    gauge("mayfly_worker_generation_sequences", "Sequences that hold a slot", |load| load.sequences);
    gauge("mayfly_worker_generation_slots", "Slots of engines", |load| load.slots);
    gauge("mayfly_worker_generation_waiting", "Sequences that wait for a slot", |load| load.waiting);
    let help = "Tokens of attention state, in use or kept for reuse";
    gauge("mayfly_worker_generation_kv_tokens", help, |load| load.kv_tokens);
    gauge("mayfly_worker_generation_kv_tokens_max", "The most tokens of attention state", |load| load.kv_tokens_max);
    gauge("mayfly_worker_generation_state_bytes", "Bytes of attention state and logits", |load| load.state_bytes);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::metrics) fn load() -> (Device, WorkerLoad) {
        let load = WorkerLoad {
            models: 2,
            model_bytes: 300,
            sequences: 4,
            slots: 16,
            waiting: 6,
            kv_tokens: 70,
            kv_tokens_max: 800,
            state_bytes: 9000,
        };
        (Device::Cpu, load)
    }

    #[test]
    fn each_figure_has_its_device_and_nothing_else() {
        let mut page = Page(String::new());
        workers(&mut page, &[load()]);
        for (name, value) in [
            ("models_loaded", 2),
            ("model_bytes", 300),
            ("generation_sequences", 4),
            ("generation_slots", 16),
            ("generation_waiting", 6),
            ("generation_kv_tokens", 70),
            ("generation_kv_tokens_max", 800),
            ("generation_state_bytes", 9000),
        ] {
            let line = format!("mayfly_worker_{name}{{device=\"cpu\"}} {value}");
            assert!(page.0.lines().any(|other| other == line), "{line} is not in\n{}", page.0);
        }
        let mut empty = Page(String::new());
        workers(&mut empty, &[]);
        assert!(empty.0.contains("# TYPE mayfly_worker_models_loaded gauge"), "{}", empty.0);
    }
}
