//! [`Env`]: the state that a shard's steps read but do not change: the settings, the state that all
//! shards share, and the authority time.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::Limits;
use tickstorm_timebase::{Authority, Epoch, Mono, UnixTime, was_suspended};
use tokio::sync::watch;

use super::debugged::DebugList;
use super::frame_counts::FrameCounts;
use crate::admission::{Admission, Attempts, ConnectionId, Rates};
use crate::auth::{AcceptedCredentials, Logins};
use crate::feed::{ChunkOutcome, Delivery, FeedFrame, FeedId, FeedLimits};
use crate::memory::Memory;
use crate::metrics::{Metrics, SentFrame};
use crate::networks::Networks;
use crate::proxy_fault_log::ProxyFaultLog;
use crate::sys::socket::SocketOptions;
use crate::tls::{Refusals, TlsConfigs};
use crate::traces::{ShardTraces, TraceReporter};

/// The settings of a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardSettings {
    pub(crate) limits: Limits,
    pub(crate) feeds: FeedLimits,
    pub(crate) ahead: Duration,
    pub(crate) write_deadline: Duration,
    /// The time over which clients are sent away.
    pub(crate) drain_timeout: Duration,
    pub(crate) sockets: SocketOptions,
    /// The most connections of the shard that may linger at the same time.
    pub(crate) lingering_max: usize,
    /// The memory in bytes that all connections of the shard may hold in buffers.
    pub(crate) buffered_max: usize,
    /// Whether to spin for the last microseconds before a tick. Off if shards would compete for a
    /// core by spinning.
    pub(crate) spin: bool,
}

/// The state that all shards of an edge share. A shard accesses it only at accept, AUTH,
/// SUBSCRIBE and close, and to update counters.
#[derive(Clone)]
pub(crate) struct Commons {
    pub(crate) settings: Arc<ShardSettings>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) logins: Arc<Logins>,
    /// The budgets of replayed ticks by address.
    pub(crate) replays: Arc<Rates>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) metrics: Metrics,
    pub(crate) authority: watch::Receiver<Option<Authority>>,
    pub(crate) credentials: watch::Receiver<AcceptedCredentials>,
    /// The configuration of new TLS connections; `None` if clients connect without TLS.
    pub(crate) tls: Option<TlsConfigs>,
    pub(crate) refusals: Arc<Refusals>,
    /// The load balancers that send PROXY headers; `None` without PROXY_PROTOCOL.
    pub(crate) balancers: Option<Networks>,
    pub(crate) proxy_faults: Arc<ProxyFaultLog>,
    /// Where to report what is traced; `None` if no traces are sent.
    pub(crate) traces: Option<TraceReporter>,
}

/// The settings, shared state and authority time of a shard.
pub(super) struct Env {
    pub(super) commons: Commons,
    /// The frames that the shard has received and sent.
    pub(super) frames: FrameCounts,
    /// The clients that an operator debugs.
    pub(super) debugged: DebugList,
    /// Reports what is traced; `None` if no traces are sent.
    pub(super) traces: Option<ShardTraces>,
    /// The authority as last published; `None` while the time is not known.
    authority: Option<Authority>,
    /// For how long the machine has been suspended.
    suspended: Duration,
    /// The generation of the last known authority time.
    generation: Option<u32>,
    /// Whether subscriptions of an earlier generation are still being ended.
    is_ending_subscriptions: bool,
}

impl Env {
    pub(super) fn new(shard: usize, commons: Commons) -> Self {
        let traces = commons.traces.clone();
        Self {
            traces: traces.map(|reporter| ShardTraces::new(shard, reporter)),
            commons,
            frames: FrameCounts::default(),
            debugged: DebugList::default(),
            authority: None,
            suspended: Duration::ZERO,
            generation: None,
            is_ending_subscriptions: false,
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

    /// Returns the id of the connection with this number.
    pub(super) fn connection_id(&self, number: u64) -> ConnectionId {
        self.commons.admission.connection_id(number)
    }

    /// Returns the authority that is valid at `mono`; `None` while the edge does not know the time.
    pub(super) fn authority(&self, mono: Mono) -> Option<&Authority> {
        self.authority
            .as_ref()
            .filter(|authority| authority.is_valid(mono) && authority.outlasts(self.suspended))
    }

    /// Sets for how long the machine has been suspended. An authority from before a suspension no
    /// longer counts. Returns true if there was one since the last call.
    pub(super) fn set_suspended(&mut self, suspended: Duration) -> bool {
        let before = std::mem::replace(&mut self.suspended, suspended);
        was_suspended(before, suspended)
    }

    /// Returns the authority for ticks and new subscriptions. Unlike [`Self::authority`], this is
    /// also `None` while subscriptions of an earlier generation are being ended, so that none of
    /// them gets a tick of the new generation before its ERROR.
    pub(super) fn ticking_authority(&self, mono: Mono) -> Option<&Authority> {
        self.authority(mono)
            .filter(|_| !self.is_ending_subscriptions)
    }

    /// Returns the generation of the last known authority time; `None` before the first one.
    pub(super) fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Sets the current authority time. Returns true if time was stepped back: all existing
    /// subscriptions must then be ended, and until [`Env::subscriptions_ended`] is called there are
    /// neither ticks nor new subscriptions.
    pub(super) fn set_authority(&mut self, new: Option<Authority>) -> bool {
        self.authority = new;
        let Some(new) = new else { return false };
        let known = self.generation.replace(new.generation());
        let is_stepped = known.is_some_and(|known| known != new.generation());
        self.is_ending_subscriptions |= is_stepped;
        is_stepped
    }

    /// Notes that all subscriptions of an earlier generation have been ended.
    pub(super) fn subscriptions_ended(&mut self) {
        self.is_ending_subscriptions = false;
    }

    /// Counts a closed connection.
    pub(super) fn count_closed(&self, reason: CloseReason) {
        let closed = &self.metrics().closed;
        closed.with_label_values(&[reason.label()]).inc();
        if matches!(reason, CloseReason::HeartbeatTimeout { .. }) {
            self.metrics().heartbeat_timeouts.inc();
        }
    }

    /// Counts `frames` DATA_BATCH frames that were sent, with `ticks` ticks each.
    pub(super) fn count_batches(&self, frames: u64, ticks: u64) {
        let metrics = self.metrics();
        metrics.messages_sent.inc_by(frames);
        metrics.ticks_sent.inc_by(frames * ticks);
        self.frames.count_sent_times(SentFrame::DataBatch, frames);
    }

    /// Counts a feed's frame that is sent to one subscriber at `mono`, outside the hot loop.
    pub(super) fn count_frame(&self, frame: &FeedFrame, mono: Mono) {
        self.count_batches(1, u64::from(frame.ticks));
        if !frame.timed {
            self.metrics().feeds.late_sends(frame.feed).inc();
        }
        if let (Some(authority), true) = (self.authority(mono), frame.timed) {
            self.observe_sends(frame.feed, frame.first, authority.time_at(mono), 1);
        }
    }

    /// Counts the frames that a chunk of a feed's fan-out has sent by `mono`.
    pub(super) fn count_chunk(&self, feed: FeedId, left: &ChunkOutcome, mono: Mono) {
        self.metrics().bytes_sent.inc_by(left.bytes);
        let time = self
            .authority(mono)
            .map(|authority| authority.time_at(mono));
        for part in left.parts.iter().filter(|part| part.sent > 0) {
            self.count_batches(part.sent, u64::from(part.ticks));
            if !part.timed {
                self.metrics().feeds.late_sends(feed).inc_by(part.sent);
            }
            if let (Some(time), true) = (time, part.timed) {
                self.observe_sends(feed, part.first, time, part.sent);
            }
        }
    }

    /// Records when a frame, which starts with the tick `first`, was sent to `subscribers`.
    fn observe_sends(&self, feed: FeedId, first: Epoch, time: UnixTime, subscribers: u64) {
        let metrics = &self.metrics().feeds;
        let left_us = first.time().as_micros().saturating_sub(time.as_micros());
        let lead = feed.lead(self.settings().ahead).as_micros();
        let lead_us = i64::try_from(lead).unwrap_or(i64::MAX);
        // No feed sends early, so only a step of the time could make the difference negative.
        let late_us = lead_us.saturating_sub(left_us).max(0);
        let late_ms = seconds(late_us) * 1e3;
        metrics
            .publish_latency_ms(feed)
            .observe(late_ms, subscribers);
        match feed.delivery {
            Delivery::AtTime => {}
            Delivery::Ahead => {
                let margin = metrics.ahead_margin(feed.mode);
                margin.observe(seconds(left_us), subscribers);
            }
        }
    }
}

fn seconds(micros: i64) -> f64 {
    let seconds = Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
    if micros < 0 { -seconds } else { seconds }
}
