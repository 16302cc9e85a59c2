//! The schedule of a client's HEARTBEATs: a few in quick succession at the start, to learn the
//! time, and then often enough for the edge, and for a client that releases ticks itself.

use std::num::NonZeroU32;
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The number of HEARTBEATs that open a connection. The best of that many samples gives a good
/// first estimate of the time.
const OPENING_HEARTBEATS: u8 = 8;
/// The interval between the opening HEARTBEATs.
const OPENING_INTERVAL: Duration = Duration::from_millis(100);
/// The longest interval between two time samples for a client that needs the exact time, for
/// instance to release ticks itself.
const EXACT_INTERVAL: Duration = Duration::from_secs(2);
/// The longest interval between two HEARTBEATs while the edge itself does not know the time.
const TIMELESS_INTERVAL: Duration = Duration::from_secs(1);
/// The interval that replaces [`TIMELESS_INTERVAL`] for a sparing client. The strictest limit that
/// an edge can be set to is one frame per second. An edge of an earlier version may accept bursts
/// of only two then, which SUBSCRIBE and the first HEARTBEAT, sent together, use up.
const TIMELESS_SPARING_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest heartbeat interval that is accepted from an edge, so that a misconfigured or
/// malicious edge cannot make a client send continuously.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The shortest heartbeat interval at an edge that allows one frame per second, and that divided by
/// the rate at others. A client sends at two thirds of the interval, less the jitter, and must not
/// be closed for it.
const FRAMES_INTERVAL: Duration = Duration::from_secs(2);
/// The jitter of a heartbeat's interval in percent, either way. It keeps clients that started
/// together from sending together.
const JITTER_PERCENT: u32 = 10;

/// The schedule of one connection's HEARTBEATs, starting with the ACK of AUTH.
#[derive(Debug)]
pub(super) struct Heartbeats {
    interval: Duration,
    next: Mono,
    /// When the last HEARTBEAT was sent; [`Mono::ZERO`] before the first.
    last: Mono,
    opening_left: u8,
    timeless_interval: Duration,
    /// The shortest interval between two HEARTBEATs after the opening ones, unless the edge's own
    /// interval is shorter.
    interval_least: Duration,
    /// Whether the last PONG carried authority time, which shows that the edge knows it.
    edge_knows_time: bool,
}

impl Heartbeats {
    /// Creates the schedule for an edge that wants a HEARTBEAT at least every `interval` and allows
    /// `frame_rate` frames per second, if it said how many. The first is due immediately. Those at
    /// the start fit into the burst that every edge allows; the later ones keep to the rate.
    pub(super) fn new(interval: Duration, frame_rate: Option<NonZeroU32>, now: Mono) -> Self {
        let allowed = frame_rate.map_or(Duration::ZERO, |rate| FRAMES_INTERVAL / rate.get());
        Self {
            interval: interval.max(INTERVAL_MIN).max(allowed),
            next: now,
            last: Mono::ZERO,
            opening_left: OPENING_HEARTBEATS,
            timeless_interval: TIMELESS_INTERVAL.max(allowed * 2 / 3),
            interval_least: Duration::ZERO,
            edge_knows_time: false,
        }
    }

    /// Creates a schedule with a single opening HEARTBEAT and with rarer samples, for an edge that
    /// accepts few frames.
    pub(super) fn sparing(interval: Duration, frame_rate: Option<NonZeroU32>, now: Mono) -> Self {
        Self {
            opening_left: 1,
            timeless_interval: TIMELESS_SPARING_INTERVAL,
            interval_least: TIMELESS_SPARING_INTERVAL,
            ..Self::new(interval, frame_rate, now)
        }
    }

    /// Returns when the next HEARTBEAT is due.
    pub(super) fn next(&self) -> Mono {
        self.next
    }

    /// Brings the next HEARTBEAT forward, because the client now needs the exact time and its next
    /// sample must not wait for the edge's interval.
    pub(super) fn require_exact_time(&mut self, now: Mono) {
        self.next = self.next.min(now + EXACT_INTERVAL);
    }

    /// Records that a PONG has carried authority time.
    pub(super) fn time_received(&mut self) {
        self.edge_knows_time = true;
    }

    /// Records that a PONG has carried no time. HEARTBEATs are then frequent until one does.
    pub(super) fn time_missing(&mut self) {
        self.edge_knows_time = false;
        self.hasten(self.last);
    }

    /// Brings the next HEARTBEAT forward to `now`, or to the shortest interval after the last one.
    pub(super) fn hasten(&mut self, now: Mono) {
        let soonest = now.max(self.last + self.timeless_interval);
        self.next = self.next.min(soonest);
    }

    /// Records that a HEARTBEAT is sent at `now`, and schedules the next one.
    pub(super) fn sent(&mut self, now: Mono, exact: bool, random: u32) {
        self.last = now;
        self.opening_left = self.opening_left.saturating_sub(1);
        if self.opening_left > 0 {
            self.next = now + OPENING_INTERVAL;
            return;
        }
        let steady = self.interval * 2 / 3;
        let wait = match (self.edge_knows_time, exact) {
            (false, _) => steady.min(self.timeless_interval),
            (true, true) => steady.min(EXACT_INTERVAL),
            (true, false) => steady,
        };
        let percent = 100 - JITTER_PERCENT + random % (2 * JITTER_PERCENT + 1);
        self.next = now + (wait * percent / 100).max(self.interval_least.min(steady));
    }
}
