//! [`Publication`]: a shard counts most of what it does in numbers of its own. These are added to
//! the metrics of all shards whenever the timer wheel advances, ten times per second.

use prometheus::IntGauge;
use tickstorm_timebase::{Clock, Mono};

use super::env::Env;
use super::feeds::Feeds;
use super::turn::Shard;
use crate::feed::FeedId;
use crate::metrics::FeedMetrics;
use crate::sys::network::Network;

/// The parts of the gauges of all shards that are this shard's.
pub(super) struct Publication {
    subscribers: [GaugePart; FeedId::ALL.len()],
    behind: GaugePart,
}

/// One shard's part of a gauge that shows the sum of all shards.
struct GaugePart {
    gauge: IntGauge,
    shown: i64,
}

impl Publication {
    pub(super) fn new(metrics: &FeedMetrics) -> Self {
        let of_feed = |id| GaugePart::new(metrics.subscribers(id).clone());
        Self {
            subscribers: FeedId::ALL.map(of_feed),
            behind: GaugePart::new(metrics.behind.clone()),
        }
    }

    fn publish(&mut self, env: &Env, feeds: &Feeds) {
        for (part, id) in self.subscribers.iter_mut().zip(FeedId::ALL) {
            part.show(feeds.subscribers(id));
        }
        self.behind.show(feeds.behind());
        env.frames.publish(&env.metrics().frames);
    }
}

impl GaugePart {
    fn new(gauge: IntGauge) -> Self {
        Self { gauge, shown: 0 }
    }

    fn show(&mut self, number: usize) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        if number != self.shown {
            self.gauge.add(number - self.shown);
            self.shown = number;
        }
    }
}

impl<N: Network, C: Clock> Shard<N, C> {
    /// Adds what the shard has counted by `now` to the metrics.
    pub(super) fn publish(&mut self, now: Mono) {
        self.turns.publish(now);
        self.publication
            .publish(&self.driver.env, &self.driver.feeds);
    }
}
