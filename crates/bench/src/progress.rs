//! Progress on standard error: one line that is redrawn if it is a terminal, or else a new line
//! every [`LINE_INTERVAL`].

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tickstorm_service::stderr;
use tickstorm_timebase::{Clock, Mono, SystemClock};

/// The minimum interval between lines if standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The progress of a run, one phase after another.
pub(crate) struct ProgressLine {
    bar: ProgressBar,
    is_terminal: bool,
    is_hidden: bool,
    printed_at: Mono,
    phase: String,
}

impl ProgressLine {
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}");
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            is_terminal: std::io::stderr().is_terminal(),
            is_hidden: false,
            printed_at: Mono::ZERO,
            phase: String::new(),
        }
    }

    /// Hides the progress, because another run shows the same.
    pub(crate) fn hide(&mut self) {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        self.is_hidden = true;
    }

    /// Starts a phase of `steps` steps.
    pub(crate) fn start_phase(&mut self, phase: &str, steps: u64) {
        phase.clone_into(&mut self.phase);
        self.printed_at = SystemClock.now();
        self.bar.set_length(steps);
        self.bar.set_position(0);
        self.bar.set_message(phase.to_owned());
        if !self.is_terminal && !self.is_hidden {
            stderr::notice(format_args!("{phase}"));
        }
    }

    /// Records that `steps` steps of the phase are done.
    pub(crate) fn advance_to(&mut self, steps: u64) {
        self.bar.set_position(steps);
        let now = SystemClock.now();
        if !self.is_terminal && !self.is_hidden && now.since(self.printed_at) >= LINE_INTERVAL {
            self.printed_at = now;
            let (phase, total) = (&self.phase, self.bar.length().unwrap_or_default());
            stderr::notice(format_args!("{phase}: {steps}/{total}"));
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
