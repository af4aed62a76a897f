//! Bars for uploads, and a clock for what the server does that has no measure: on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the clock moves.
const TICK: Duration = Duration::from_millis(100);

/// Something on standard error that says how far it is, or nothing at all if nobody reads it. Gone when it is dropped.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    bar: ProgressBar,
    last: bool,
}

impl Shown {
    /// A bar for `bytes` that are sent.
    pub(super) fn upload(bytes: u64, json: bool) -> Self {
        let bar = if is_read(json) { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        let template = "{msg:20} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}";
        Self::styled(bar, template, "uploading")
    }

    /// A clock beside `what` is being waited for.
    pub(super) fn waiting(what: &str, json: bool) -> Self {
        let bar = if is_read(json) { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let shown = Self::styled(bar, CLOCK, what);
        shown.bar.enable_steady_tick(TICK);
        shown
    }

    fn styled(bar: ProgressBar, template: &str, message: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(message.to_owned());
        Self { bar, last: true }
    }

    /// For whoever counts: it does not end what is shown.
    pub(super) fn counter(&self) -> Self {
        Self { bar: self.bar.clone(), last: false }
    }

    /// So many of `total` bytes are sent. Once all are, the clock runs for `then`.
    pub(super) fn sent(&self, sent: u64, total: u64, then: &str) {
        self.bar.set_length(total);
        self.bar.set_position(sent);
        if sent >= total
            && let Ok(style) = ProgressStyle::with_template(CLOCK)
        {
            self.bar.set_style(style);
            self.bar.set_message(then.to_owned());
            self.bar.enable_steady_tick(TICK);
        }
    }
}

const CLOCK: &str = "{msg} {elapsed}";

/// Whether people are reading.
fn is_read(json: bool) -> bool {
    !json && std::io::stderr().is_terminal()
}

impl Drop for Shown {
    fn drop(&mut self) {
        if self.last {
            self.bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_becomes_a_clock_and_goes() {
        let shown = Shown::upload(0, true);
        let counter = shown.counter();
        counter.sent(512, 1_024, "checking");
        assert_eq!((shown.bar.position(), shown.bar.length()), (512, Some(1_024)));
        assert_eq!(shown.bar.message(), "uploading");
        counter.sent(1_024, 1_024, "checking");
        assert_eq!(shown.bar.message(), "checking");
        drop(counter);
        assert!(!shown.bar.is_finished(), "who counts does not end it");
        let bar = shown.bar.clone();
        drop(shown);
        assert!(bar.is_finished());
    }

    #[test]
    fn nobody_reads_json_with_their_eyes() {
        assert!(Shown::waiting("compiling", true).bar.is_hidden());
    }
}
