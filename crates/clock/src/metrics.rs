//! What a clock counts. The labels' values are closed lists, and each series is there from the start.

use prometheus::{IntCounter, IntCounterVec, Registry};
use tickstorm_bus::DropReason;
use tickstorm_service::metrics::{RegisterError, counter, counters};
use tickstorm_timebase::Mode;

/// Handles of a clock's series.
#[derive(Debug)]
pub(crate) struct Metrics {
    announcements: IntCounterVec,
    dropped: IntCounterVec,
    /// Time requests answered.
    pub(crate) answers: IntCounter,
    /// Steps of the host's clock.
    pub(crate) steps: IntCounter,
}

impl Metrics {
    /// Registers all series; a registry serves one clock.
    pub(crate) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let metrics = Self {
            announcements: counters(
                registry,
                "tickstorm_clock_announcements_total",
                "Announcements sent, by mode.",
                &["mode"],
            )?,
            dropped: counters(
                registry,
                "tickstorm_clock_bus_dropped_total",
                "Messages from the bus that the clock dropped, by reason.",
                &["reason"],
            )?,
            answers: counter(
                registry,
                "tickstorm_clock_answers_total",
                "Time requests of edges that were answered.",
            )?,
            steps: counter(
                registry,
                "tickstorm_clock_host_steps_total",
                "Steps of the host's clock, each of which began another timeline.",
            )?,
        };
        for mode in Mode::ALL {
            metrics.announcements(mode);
        }
        for reason in DropReason::ALL {
            metrics.dropped(reason);
        }
        Ok(metrics)
    }

    /// Announcements of this mode.
    pub(crate) fn announcements(&self, mode: Mode) -> IntCounter {
        self.announcements.with_label_values(&[mode.name()])
    }

    /// Messages dropped for this reason.
    pub(crate) fn dropped(&self, reason: DropReason) -> IntCounter {
        self.dropped.with_label_values(&[reason.label()])
    }
}
