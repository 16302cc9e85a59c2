//! [`TraceCounters`]: counts the spans that are sent and those that are not. The counters exist
//! before there is a registry: traces start before it.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::metrics::{RegisterError, collector};

const SENT: &str = "tickstorm_trace_spans_exported_total";
const DROPPED: &str = "tickstorm_trace_spans_dropped_total";

/// The counters of spans. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct TraceCounters {
    pub(super) exported: IntCounter,
    dropped: IntCounterVec,
    pub(super) queue_full: IntCounter,
    pub(super) export_failed: IntCounter,
    pub(super) rate_limited: IntCounter,
}

impl TraceCounters {
    /// Creates the counters, all at 0.
    pub(crate) fn new() -> Self {
        let exported = IntCounter::new(SENT, "Spans that the collector of traces has accepted.");
        let opts = Opts::new(
            DROPPED,
            "Spans that were not sent, by reason: queue_full, export_failed, because the collector \
             could not be reached or did not accept them, or rate_limited, for handshakes beyond \
             10 per second and shard.",
        );
        let dropped = IntCounterVec::new(opts, &["reason"]).expect("the name is valid");
        let [queue_full, export_failed, rate_limited] =
            ["queue_full", "export_failed", "rate_limited"]
                .map(|reason| dropped.with_label_values(&[reason]));
        Self {
            exported: exported.expect("the name is valid"),
            dropped,
            queue_full,
            export_failed,
            rate_limited,
        }
    }

    /// Registers the counters.
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), RegisterError> {
        collector(registry, SENT, self.exported.clone())?;
        collector(registry, DROPPED, self.dropped.clone()).map(drop)
    }
}
