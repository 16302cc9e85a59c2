//! [`Env`]: what a shard's steps read and do not change: settings, what all shards have in common,
//! and the time as clocks tell it.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::Limits;
use tickstorm_timebase::{Authority, Epoch, Mono, UnixTime};
use tokio::sync::watch;

use crate::admission::{Admission, Attempts};
use crate::auth::AcceptedCredentials;
use crate::feed::{FeedFrame, FeedLimits, Leftovers};
use crate::metrics::Metrics;
use crate::sys::socket::SocketOptions;

/// What the settings say to a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardSettings {
    pub(crate) limits: Limits,
    pub(crate) feeds: FeedLimits,
    pub(crate) ahead: Duration,
    pub(crate) write_deadline: Duration,
    pub(crate) sockets: SocketOptions,
    /// Whether the last microseconds before a tick are spun away: not if shards would spin against
    /// each other.
    pub(crate) spin: bool,
}

/// What the shards of an edge have in common: touched at accept, AUTH and close only, and counters.
#[derive(Clone)]
pub(crate) struct Commons {
    pub(crate) settings: Arc<ShardSettings>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) metrics: Metrics,
    pub(crate) authority: watch::Receiver<Option<Authority>>,
    pub(crate) credentials: watch::Receiver<AcceptedCredentials>,
}

/// A shard's surroundings.
pub(super) struct Env {
    pub(super) commons: Commons,
    /// The time as it was last published.
    authority: Option<Authority>,
    /// The generation of the last time that was known.
    generation: Option<u32>,
    /// The subscriptions of an earlier generation have not all been ended.
    is_ending: bool,
}

impl Env {
    pub(super) fn new(commons: Commons) -> Self {
        Self {
            commons,
            authority: None,
            generation: None,
            is_ending: false,
        }
    }

    pub(super) fn settings(&self) -> &ShardSettings {
        &self.commons.settings
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.commons.settings.limits
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.commons.metrics
    }

    /// Authority time's source at `mono`; none while the edge does not know the time.
    pub(super) fn authority(&self, mono: Mono) -> Option<&Authority> {
        self.authority
            .as_ref()
            .filter(|authority| authority.is_valid(mono))
    }

    /// The same for ticks and new subscriptions: none either while subscriptions of an earlier
    /// generation are being ended, so that none of them gets a tick of the new one before its
    /// ERROR.
    pub(super) fn ticking_authority(&self, mono: Mono) -> Option<&Authority> {
        self.authority(mono).filter(|_| !self.is_ending)
    }

    /// The generation of the last time that was known; none before the first one.
    pub(super) fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Takes over the time as it is now. True if it was stepped back: then all subscriptions of
    /// before must end, and until [`Env::end_ending`] there are neither ticks nor new
    /// subscriptions.
    pub(super) fn set_authority(&mut self, new: Option<Authority>) -> bool {
        self.authority = new;
        let Some(new) = new else { return false };
        let known = self.generation.replace(new.generation());
        let is_stepped = known.is_some_and(|known| known != new.generation());
        self.is_ending |= is_stepped;
        is_stepped
    }

    /// The subscriptions of before have ended.
    pub(super) fn end_ending(&mut self) {
        self.is_ending = false;
    }

    /// Counts the end of a connection.
    pub(super) fn count_closed(&self, reason: CloseReason) {
        let closed = &self.metrics().closed;
        closed.with_label_values(&[reason.label()]).inc();
        if matches!(reason, CloseReason::HeartbeatTimeout { .. }) {
            self.metrics().heartbeat_timeouts.inc();
        }
    }

    /// Counts a frame of a feed that is sent to one subscriber at `mono`, beside the hot loop.
    pub(super) fn count_frame(&self, frame: &FeedFrame, mono: Mono) {
        let metrics = self.metrics();
        metrics.messages_sent.inc();
        metrics.ticks_sent.inc_by(u64::from(frame.ticks));
        if let (Some(authority), true) = (self.authority(mono), frame.timed) {
            let late = late_ms(authority.time_at(mono), frame.first);
            metrics.publish_latency_ms.observe(late, 1);
        }
    }

    /// Counts what a chunk of a fan-out sent by `mono`.
    pub(super) fn count_chunk(&self, left: &Leftovers, mono: Mono) {
        let metrics = self.metrics();
        metrics.bytes_sent.inc_by(left.bytes);
        let time = self
            .authority(mono)
            .map(|authority| authority.time_at(mono));
        for part in left.parts.iter().filter(|part| part.sent > 0) {
            metrics.messages_sent.inc_by(part.sent);
            metrics.ticks_sent.inc_by(part.sent * u64::from(part.ticks));
            if let (Some(time), true) = (time, part.timed) {
                let late = late_ms(time, part.first);
                metrics.publish_latency_ms.observe(late, part.sent);
            }
        }
    }
}

/// Milliseconds from `first` to `time`. A tick is never sent before its time, so only a step makes
/// it negative.
fn late_ms(time: UnixTime, first: Epoch) -> f64 {
    let late_us = time
        .as_micros()
        .saturating_sub(first.time().as_micros())
        .max(0);
    Duration::from_micros(late_us.unsigned_abs()).as_secs_f64() * 1e3
}
