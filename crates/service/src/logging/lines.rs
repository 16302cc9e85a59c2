//! [`LineCounters`]: counts the log lines by level. A line is counted when its event has passed the
//! filter, before it is queued, so lines that are dropped later count as well.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::metrics::{RegisterError, collector};

const NAME: &str = "tickstorm_log_lines_total";

/// The counters, which exist before there is a registry: logging starts first.
#[derive(Clone, Debug)]
pub(super) struct LineCounters {
    all: IntCounterVec,
    error: IntCounter,
    warn: IntCounter,
    info: IntCounter,
    debug: IntCounter,
    trace: IntCounter,
}

impl LineCounters {
    /// Creates the counters, all at 0.
    pub(super) fn new() -> Self {
        let opts = Opts::new(
            NAME,
            "Log lines by level, including those that were dropped afterwards.",
        );
        let all = IntCounterVec::new(opts, &["level"]).expect("the name is valid");
        // The levels have the names that LOG_LEVEL gives them.
        let [error, warn, info, debug, trace] = ["error", "warn", "info", "debug", "trace"]
            .map(|level| all.with_label_values(&[level]));
        Self {
            all,
            error,
            warn,
            info,
            debug,
            trace,
        }
    }

    /// Registers the counters.
    pub(super) fn register(&self, registry: &Registry) -> Result<(), RegisterError> {
        collector(registry, NAME, self.all.clone()).map(drop)
    }
}

impl<S: Subscriber> Layer<S> for LineCounters {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let counter = match *event.metadata().level() {
            Level::ERROR => &self.error,
            Level::WARN => &self.warn,
            Level::INFO => &self.info,
            Level::DEBUG => &self.debug,
            Level::TRACE => &self.trace,
        };
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::dispatcher::with_default;

    use super::*;
    use crate::logging::{Level as LogLevel, LogFormat, counted_dispatch};
    use crate::metrics::encode;

    #[test]
    fn events_that_pass_the_filter_are_counted_by_level_and_others_are_not() {
        let (registry, counters) = (Registry::new(), LineCounters::new());
        let (dispatch, levels) = counted_dispatch(
            LogLevel::Info,
            LogFormat::Json,
            io::sink,
            counters.clone(),
            None,
        );
        with_default(&dispatch, || {
            tracing::error!("counted");
            for _ in 0..2 {
                tracing::warn!("counted");
            }
            for _ in 0..3 {
                tracing::info!("counted");
            }
            tracing::debug!("filtered out");
            tracing::trace!("filtered out");
            levels.set(&LogLevel::Debug.into());
            tracing::debug!("counted");
            tracing::trace!("filtered out");
            levels.set(&LogLevel::Error.into());
            tracing::warn!("filtered out");
        });
        // What was counted before is not lost.
        counters.register(&registry).unwrap();
        let text = encode(&registry).unwrap();
        for (level, count) in [
            ("error", 1),
            ("warn", 2),
            ("info", 3),
            ("debug", 1),
            ("trace", 0),
        ] {
            let line = format!("tickstorm_log_lines_total{{level=\"{level}\"}} {count}");
            assert!(text.lines().any(|has| has == line), "no {line} in {text}");
        }
    }
}
