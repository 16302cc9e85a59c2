//! Measures elapsed time, for reports and for the time limits of steps.

use std::time::{Duration, Instant};

/// A stopwatch that starts when it is created.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "the duration of a development task is independent of authority time"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Returns the elapsed time as text, such as `1.5 s`.
    pub(crate) fn seconds(self) -> String {
        format!("{:.1} s", self.elapsed().as_secs_f64())
    }
}
