//! What is under way, on standard error: a line that changes on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tickstorm_timebase::{Clock, Mono, SystemClock};

/// Where there is no terminal, a line at most each so often.
const LINE_EACH: Duration = Duration::from_secs(10);

/// Progress of one phase after the other.
pub(crate) struct ProgressLine {
    bar: ProgressBar,
    is_terminal: bool,
    told: Mono,
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
            told: Mono::ZERO,
            phase: String::new(),
        }
    }

    /// A phase begins, of so many steps.
    pub(crate) fn begin(&mut self, phase: &str, steps: u64) {
        phase.clone_into(&mut self.phase);
        self.told = SystemClock.now();
        self.bar.set_length(steps);
        self.bar.set_position(0);
        self.bar.set_message(phase.to_owned());
        if !self.is_terminal {
            eprintln!("{phase}");
        }
    }

    /// So many steps of it are done.
    pub(crate) fn at(&mut self, steps: u64) {
        self.bar.set_position(steps);
        let now = SystemClock.now();
        if !self.is_terminal && now.since(self.told) >= LINE_EACH {
            self.told = now;
            let (phase, of) = (&self.phase, self.bar.length().unwrap_or_default());
            eprintln!("{phase}: {steps} of {of}");
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
