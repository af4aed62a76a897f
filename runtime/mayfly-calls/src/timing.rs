//! Where a call's time went, and how cold it was.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::HeaderValue;
use mayfly_host::Timings;

/// The coldest thing a call had to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cold {
    /// Nothing: a kept answer was given again, or an instance of an earlier request answered.
    None,
    /// An instance; code was mapped and models were loaded.
    Instance,
    /// Code had to be mapped.
    Code,
    /// A model had to be loaded.
    Model,
}

impl Cold {
    /// Every one, from warm to cold.
    pub(crate) const WORDS: [&'static str; 4] = ["none", "instance", "code", "model"];

    pub(crate) const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// What is known of the time before the host took over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    /// From the request's head to the door and from the code to the instance.
    pub(crate) queue: Duration,
    /// Getting the code.
    pub(crate) code: Duration,
    /// Whether it had to be mapped.
    pub(crate) mapped: bool,
    /// Whether a kept answer is given again: nothing runs.
    pub(crate) replayed: bool,
}

impl Before {
    /// Up to now nothing but waiting.
    pub(crate) fn waiting(received: Instant) -> Self {
        Self { queue: received.elapsed(), code: Duration::ZERO, mapped: false, replayed: false }
    }

    pub(crate) fn cold(&self, timings: &Timings) -> Cold {
        match (timings.model_load.is_some(), self.mapped) {
            _ if self.replayed => Cold::None,
            (true, _) => Cold::Model,
            (false, true) => Cold::Code,
            (false, false) if timings.reused => Cold::None,
            (false, false) => Cold::Instance,
        }
    }

    /// Whether code or a model had to be woken.
    pub(crate) fn woke(&self, timings: &Timings) -> bool {
        self.mapped || timings.model_load.is_some()
    }

    /// The `Server-Timing` header, in milliseconds.
    pub(crate) fn server_timing(&self, timings: &Timings) -> HeaderValue {
        let parts = [
            ("queue;dur=", self.queue + timings.inference_queue),
            (", code;dur=", self.code),
            (", instance;dur=", timings.instance),
            (", model;dur=", timings.model_load.unwrap_or_default()),
            (", guest;dur=", timings.guest_cpu),
            (", inference;dur=", timings.inference),
        ];
        let mut text = String::with_capacity(128);
        for (name, duration) in parts {
            text.push_str(name);
            // Rounded to microseconds. In integers: floats in words cost a tenth of a short call.
            let micros = (duration + Duration::from_nanos(500)).as_micros();
            let _ = write!(text, "{}.{:03}", micros / 1000, micros % 1000);
        }
        HeaderValue::try_from(text).expect("digits and ASCII words are a header value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coldest_tier_counts() {
        let warm = Before { queue: Duration::ZERO, code: Duration::ZERO, mapped: false, replayed: false };
        let mapped = Before { mapped: true, ..warm };
        let loaded = Timings { model_load: Some(Duration::from_millis(8)), ..Timings::default() };
        assert_eq!(warm.cold(&Timings::default()), Cold::Instance);
        assert_eq!(Before { replayed: true, ..warm }.cold(&Timings::default()), Cold::None);
        let reused = Timings { reused: true, ..Timings::default() };
        assert_eq!((warm.cold(&reused), warm.cold(&Timings { reused: true, ..loaded })), (Cold::None, Cold::Model));
        assert_eq!(mapped.cold(&Timings::default()), Cold::Code);
        assert_eq!(mapped.cold(&loaded), Cold::Model);
        assert_eq!(warm.cold(&loaded).as_str(), "model");
    }

    #[test]
    fn milliseconds_with_three_decimals() {
        let before = Before {
            queue: Duration::from_micros(12),
            code: Duration::from_micros(191),
            mapped: true,
            replayed: false,
        };
        let timings = Timings {
            instance: Duration::from_micros(16),
            reused: false,
            guest_cpu: Duration::from_nanos(1_234_567),
            model_load: Some(Duration::from_millis(108)),
            inference_queue: Duration::from_micros(1),
            inference: Duration::from_micros(3_200),
            ..Timings::default()
        };
        let expected = "queue;dur=0.013, code;dur=0.191, instance;dur=0.016, model;dur=108.000, guest;dur=1.235, inference;dur=3.200";
        assert_eq!(before.server_timing(&timings), expected);
    }
}
