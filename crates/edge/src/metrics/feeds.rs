//! The metrics of feeds: when their ticks are sent, and to how many subscribers. Each feed is
//! measured against the time at which it was to send: a tick's own, or AHEAD_MS before it.

use prometheus::{IntCounter, IntGauge, Registry};
use tickstorm_service::metrics::{RegisterError, counters, int_gauge, int_gauges};
use tickstorm_timebase::Mode;

use crate::feed::FeedId;
use crate::histogram::BulkHistogram;

/// The bound of 1,000 ms is that of a tick which counts as delivered on time.
const PUBLISH_LATENCY_BUCKETS_MS: [f64; 13] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
];
const RELEASE_LATENESS_BUCKETS_S: [f64; 13] = [
    5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 0.1, 1.0,
];
const FANOUT_BUCKETS_S: [f64; 14] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5,
];
/// AHEAD_MS is 200 to 5,000, and nearly always close to its default, 800.
const AHEAD_MARGIN_BUCKETS_S: [f64; 18] = [
    -1.0, -0.25, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0,
];

const LABELS: [&str; 2] = ["mode", "delivery"];

/// One metric of each feed, in the order of [`FeedId::ALL`].
type OfFeeds<M> = [M; FeedId::ALL.len()];

/// The metrics of all feeds.
pub(crate) struct FeedMetrics {
    publish_latency_ms: OfFeeds<BulkHistogram>,
    release_lateness: OfFeeds<BulkHistogram>,
    fanout: OfFeeds<BulkHistogram>,
    /// By mode, in the order of [`Mode::ALL`].
    ahead_margin: [BulkHistogram; Mode::ALL.len()],
    late_sends: OfFeeds<IntCounter>,
    subscribers: OfFeeds<IntGauge>,
    pub(crate) behind: IntGauge,
}

impl FeedMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let values = FeedId::ALL.map(|id| [id.mode.name(), id.delivery.label()]);
        let of_feeds = |name: &str, help: &str, bounds: &'static [f64]| {
            BulkHistogram::register_all(registry, name, help, bounds, LABELS, values)
        };
        let subscribers = int_gauges(
            registry,
            "tickstorm_subscribers",
            "Subscribers, by the mode of their feed and its delivery: at_time or ahead.",
            &LABELS,
        )?;
        let late_sends = counters(
            registry,
            "tickstorm_late_sends_total",
            "Frames of feeds that were sent as REPLAY, because this edge was more than a second \
             late with them, counted once per subscriber. Replays for clients that resume are not \
             counted.",
            &LABELS,
        )?;
        Ok(Self {
            publish_latency_ms: of_feeds(
                "tickstorm_publish_latency_ms",
                "Authority time of a send minus the time at which the feed was to send the tick \
                 (its epoch_ms, or AHEAD_MS before it), in milliseconds. The time is read once per \
                 chunk of at most 1,024 sends and counted for each of them. REPLAY ticks are not \
                 counted.",
                &PUBLISH_LATENCY_BUCKETS_MS,
            )?,
            release_lateness: of_feeds(
                "tickstorm_release_lateness_seconds",
                "Delay from the time at which a feed was to send a tick to the start of its \
                 fan-out on a shard. REPLAY ticks are not counted.",
                &RELEASE_LATENESS_BUCKETS_S,
            )?,
            fanout: of_feeds(
                "tickstorm_fanout_seconds",
                "Time from the start to the end of a fan-out on a shard, so between its first and \
                 its last subscriber.",
                &FANOUT_BUCKETS_S,
            )?,
            ahead_margin: BulkHistogram::register_all(
                registry,
                "tickstorm_ahead_margin_seconds",
                "Time that was left before a tick's epoch_ms when an ahead feed sent it; negative \
                 if it was sent too late. Read and counted as tickstorm_publish_latency_ms is.",
                &AHEAD_MARGIN_BUCKETS_S,
                ["mode"],
                Mode::ALL.map(|mode| [mode.name()]),
            )?,
            late_sends: values.map(|values| late_sends.with_label_values(&values)),
            subscribers: values.map(|values| subscribers.with_label_values(&values)),
            behind: int_gauge(
                registry,
                "tickstorm_subscribers_behind",
                "Subscribers that are not up to date: their socket was full, or they are being \
                 sent a replay.",
            )?,
        })
    }

    /// Returns the histogram of `tickstorm_publish_latency_ms` of a feed.
    pub(crate) fn publish_latency_ms(&self, id: FeedId) -> &BulkHistogram {
        &self.publish_latency_ms[id.index()]
    }

    /// Returns the histogram of `tickstorm_release_lateness_seconds` of a feed.
    pub(crate) fn release_lateness(&self, id: FeedId) -> &BulkHistogram {
        &self.release_lateness[id.index()]
    }

    /// Returns the histogram of `tickstorm_fanout_seconds` of a feed.
    pub(crate) fn fanout(&self, id: FeedId) -> &BulkHistogram {
        &self.fanout[id.index()]
    }

    /// Returns the histogram of `tickstorm_ahead_margin_seconds` of a mode.
    pub(crate) fn ahead_margin(&self, mode: Mode) -> &BulkHistogram {
        match mode {
            Mode::Second => &self.ahead_margin[0],
            Mode::Minute => &self.ahead_margin[1],
        }
    }

    /// Returns the counter of a feed's frames that were sent as REPLAY.
    pub(crate) fn late_sends(&self, id: FeedId) -> &IntCounter {
        &self.late_sends[id.index()]
    }

    /// Returns the gauge of a feed's subscribers.
    pub(crate) fn subscribers(&self, id: FeedId) -> &IntGauge {
        &self.subscribers[id.index()]
    }
}
