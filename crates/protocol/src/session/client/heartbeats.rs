//! When a client sends HEARTBEAT: some at once for the time's sake, then often enough for the edge, and for a client that
//! releases ticks itself.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// How many HEARTBEATs open a connection, so that the best of that many samples tells the time.
const OPENING_HEARTBEATS: u8 = 8;
/// From one of them to the next.
const OPENING_INTERVAL: Duration = Duration::from_millis(100);
/// The longest from one time sample to the next for a client that needs the time exactly, as to release ticks itself.
const EXACT_INTERVAL: Duration = Duration::from_secs(2);
/// The same as long as the edge itself does not know the time.
const TIMELESS_INTERVAL: Duration = Duration::from_secs(1);
/// The same for a sparing client. The least that an edge may be set to take is a frame a second, in bursts of two: a
/// SUBSCRIBE and the first HEARTBEAT at once.
const TIMELESS_SPARING_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest heartbeat interval that is believed, so that a strange edge can't make a client send without pause.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// By how many hundredths a heartbeat comes earlier or later than planned, so that clients that started together part.
const JITTER_PERCENT: u32 = 10;

/// The plan of one connection's HEARTBEATs, from the ACK of AUTH on.
#[derive(Debug)]
pub(super) struct Heartbeats {
    interval: Duration,
    next: Mono,
    opening_left: u8,
    timeless_interval: Duration,
    /// A PONG has told a time.
    told: bool,
}

impl Heartbeats {
    /// The edge wants one at least each `interval`; the first is due at once.
    pub(super) fn new(interval: Duration, now: Mono) -> Self {
        Self {
            interval: interval.max(INTERVAL_MIN),
            next: now,
            opening_left: OPENING_HEARTBEATS,
            timeless_interval: TIMELESS_INTERVAL,
            told: false,
        }
    }

    /// The same without an opening, and with rarer samples: for an edge that takes few frames.
    pub(super) fn sparing(interval: Duration, now: Mono) -> Self {
        Self {
            opening_left: 1,
            timeless_interval: TIMELESS_SPARING_INTERVAL,
            ..Self::new(interval, now)
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Mono {
        self.next
    }

    /// The client needs the time exactly from now on: its next sample must not wait for the edge's interval.
    pub(super) fn turn_exact(&mut self, now: Mono) {
        self.next = self.next.min(now + EXACT_INTERVAL);
    }

    /// A PONG has told a time.
    pub(super) fn told(&mut self) {
        self.told = true;
    }

    /// One is sent at `now`: sets the moment of the next.
    pub(super) fn sent(&mut self, now: Mono, exact: bool, random: u32) {
        self.opening_left = self.opening_left.saturating_sub(1);
        if self.opening_left > 0 {
            self.next = now + OPENING_INTERVAL;
            return;
        }
        let steady = self.interval * 2 / 3;
        let wait = match (self.told, exact) {
            (false, _) => steady.min(self.timeless_interval),
            (true, true) => steady.min(EXACT_INTERVAL),
            (true, false) => steady,
        };
        let percent = 100 - JITTER_PERCENT + random % (2 * JITTER_PERCENT + 1);
        self.next = now + wait * percent / 100;
    }
}
