//! What loaded models take of each device's budget, and who comes and goes for it.

use mayfly_inference::DeviceResidency;

use super::Page;

/// One sample for each device that has a budget; of those there are few.
pub(super) fn residency(page: &mut Page, devices: &[DeviceResidency]) {
    let names: Vec<_> = devices.iter().map(|device| device.device.to_string()).collect();
    let mut family = |name: &str, kind: &str, help: &str, of: fn(&DeviceResidency) -> u64| {
        let samples = names.iter().zip(devices).map(|(name, device)| (vec![("device", name.as_str())], of(device)));
        page.family(name, kind, help, samples);
    };
    let help = "What counts against the budget for models: measured at loads, attention state at its bound.";
    family("mayfly_model_budget_used_bytes", "gauge", help, |device| device.bytes);
    family("mayfly_model_budget_bytes", "gauge", "The budget for models.", |device| device.bytes_max);
    let help = "Of what counts against the budget, models that are kept loaded.";
    family("mayfly_model_pinned_bytes", "gauge", help, |device| device.pinned_bytes);
    let help = "Files that sessions map; shared, and no part of the budget.";
    family("mayfly_model_mapped_bytes", "gauge", help, |device| device.mapped_bytes);
    let help = "Loads that have not begun, for want of room or behind others.";
    family("mayfly_model_loads_queued", "gauge", help, |device| device.loads_queued.into());
    family("mayfly_model_load_waiters", "gauge", "Callers that wait for a load.", |device| device.waiting.into());
    let help = "Sessions dropped to make room for others.";
    family("mayfly_model_evictions_total", "counter", help, |device| device.evicted_for_room_total);
    let help = "Sessions dropped since nobody used them.";
    family("mayfly_model_idle_unloads_total", "counter", help, |device| device.evicted_idle_total);
    let help = "Loads refused for want of room, at once or after a wait.";
    family("mayfly_model_loads_refused_total", "counter", help, |device| device.refused_total);
}

#[cfg(test)]
pub(super) mod tests {
    use mayfly_inference::Device;

    use super::*;

    pub(crate) fn device() -> DeviceResidency {
        DeviceResidency {
            device: Device::Cpu,
            bytes: 10,
            mapped_bytes: 400,
            pinned_bytes: 4,
            bytes_max: 100,
            loads_queued: 2,
            waiting: 3,
            evicted_for_room_total: 5,
            evicted_idle_total: 6,
            refused_total: 7,
        }
    }

    #[test]
    fn each_figure_has_its_device() {
        let mut page = Page(String::new());
        residency(&mut page, &[device()]);
        for (name, value) in [
            ("budget_used_bytes", 10),
            ("budget_bytes", 100),
            ("pinned_bytes", 4),
            ("mapped_bytes", 400),
            ("loads_queued", 2),
            ("load_waiters", 3),
            ("evictions_total", 5),
            ("idle_unloads_total", 6),
            ("loads_refused_total", 7),
        ] {
            let line = format!("mayfly_model_{name}{{device=\"cpu\"}} {value}");
            assert!(page.0.lines().any(|other| other == line), "{line} is not in\n{}", page.0);
        }
    }
}
