//! Traces of ticks and handshakes, if a collector is configured. Shards and the timekeeper report
//! what has happened, when it is over, through [`TraceReporter`]; the [`collector`], a task of its
//! own, makes spans of the reports. A report never waits: without room, it is dropped and counted.
//!
//! The times of spans are authority time, so that those of different edges and clocks fit together,
//! however wrong an edge's host is.

mod collector;
mod handshakes;
mod heard_ticks;

use std::net::SocketAddr;

use tickstorm_bus::TraceParent;
use tickstorm_service::traces::{SpanContext, SpanKind, Tracer};
use tickstorm_timebase::{Announcement, Authority, Mono, Tick};
use tokio::sync::{mpsc, watch};

pub(crate) use collector::TraceCollector;
use handshakes::HandshakeBudget;

use crate::admission::ConnectionId;
use crate::feed::FeedId;

/// The most reports that wait to become spans: those of one tick from 64 shards, and of the
/// handshakes of some seconds.
const REPORTS_MAX: usize = 1_024;

/// The name of the span of a handshake.
const HANDSHAKE: &str = "handshake";

/// The reporting end of traces.
#[derive(Clone, Debug)]
pub(crate) struct TraceReporter {
    tracer: Tracer,
    reports: mpsc::Sender<Report>,
}

/// Something that has happened.
#[derive(Debug)]
enum Report {
    Announced(HeardAnnouncement),
    Sent(SentTick),
    Handshake(Box<Handshake>),
}

/// An announcement that the edge has accepted.
#[derive(Debug)]
struct HeardAnnouncement {
    announcement: Announcement,
    trace: Option<TraceParent>,
    /// Whether the clock's time is authority time.
    is_followed: bool,
    at: Mono,
}

/// A tick that one shard has sent to the subscribers of one feed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentTick {
    pub(crate) feed: FeedId,
    pub(crate) shard: usize,
    /// The first tick of the frame.
    pub(crate) first: Tick,
    /// The moment at which it should have been sent.
    pub(crate) due: Mono,
    /// The moment at which the first subscriber was sent it.
    pub(crate) released: Mono,
    /// The moment at which the last subscriber was sent it.
    pub(crate) ended: Mono,
    /// The number of frames that the fan-out has sent.
    pub(crate) frames: u64,
}

/// A handshake that has ended.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The place of its span.
    pub(crate) context: SpanContext,
    pub(crate) connection: ConnectionId,
    pub(crate) peer: SocketAddr,
    pub(crate) has_tls: bool,
    pub(crate) accepted: Mono,
    pub(crate) ended: Mono,
    pub(crate) outcome: HandshakeOutcome,
}

/// The end of a handshake.
#[derive(Debug)]
pub(crate) enum HandshakeOutcome {
    /// The client has authenticated.
    Served {
        identity: Box<str>,
        client_id: Box<str>,
        client_version: Box<str>,
        has_cookie: bool,
    },
    /// The connection was closed for this reason.
    Closed(&'static str),
}

/// Creates both ends of traces. The collector must be run as a task.
pub(crate) fn channel(
    tracer: Tracer,
    authority: watch::Receiver<Option<Authority>>,
) -> (TraceReporter, TraceCollector) {
    let (sender, reports) = mpsc::channel(REPORTS_MAX);
    let reporter = TraceReporter {
        tracer: tracer.clone(),
        reports: sender,
    };
    (reporter, TraceCollector::new(tracer, reports, authority))
}

impl TraceReporter {
    /// Reports that an accepted announcement was heard.
    pub(crate) fn announced(
        &self,
        announcement: &Announcement,
        trace: Option<TraceParent>,
        is_followed: bool,
        at: Mono,
    ) {
        self.report(Report::Announced(HeardAnnouncement {
            announcement: announcement.clone(),
            trace,
            is_followed,
            at,
        }));
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            self.tracer.count_queue_full();
        }
    }
}

/// The reporting end of one shard. It limits the handshakes that are traced.
pub(crate) struct ShardTraces {
    shard: usize,
    reporter: TraceReporter,
    served: HandshakeBudget,
    closed: HandshakeBudget,
}

impl ShardTraces {
    pub(crate) fn new(shard: usize, reporter: TraceReporter) -> Self {
        Self {
            shard,
            reporter,
            served: HandshakeBudget::default(),
            closed: HandshakeBudget::default(),
        }
    }

    /// Returns the index of the shard.
    pub(crate) const fn shard(&self) -> usize {
        self.shard
    }

    /// Reports that a fan-out is over.
    pub(crate) fn sent(&self, tick: SentTick) {
        self.reporter.report(Report::Sent(tick));
    }

    /// Returns the place of the span of a handshake that ends at `now`; `None` if it is not traced.
    /// Handshakes that fail have a limit of their own, so that an attack leaves room for clients.
    pub(crate) fn handshake(&self, is_served: bool, now: Mono) -> Option<SpanContext> {
        let tracer = &self.reporter.tracer;
        let context = tracer.sample(None, HANDSHAKE, &SpanKind::Server)?;
        let budget = if is_served {
            &self.served
        } else {
            &self.closed
        };
        if budget.take(now) {
            return Some(context);
        }
        tracer.count_rate_limited();
        None
    }

    /// Reports a handshake that has ended.
    pub(crate) fn ended(&self, handshake: Handshake) {
        self.reporter.report(Report::Handshake(Box::new(handshake)));
    }
}
