//! Authority time as a client learns it from PONGs, as in NTP: one offset between its own clock and the edge's, and how wrong that
//! may be. Without I/O and without a clock: whoever reads PONGs says when, whoever asks says when.

use std::collections::VecDeque;
use std::time::Duration;

pub use tickstorm_protocol::session::client::PongExchange;
use tickstorm_timebase::{Mono, UnixTime};

/// Samples older than this no longer count: by then they say less than any fresh one.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(30);

/// How far two machines' clocks may drift apart, as a divisor of the time in which they do: 200 ppm.
const DRIFT_DIVISOR: u64 = 5_000;

/// Thrice what a client that asks every 2 s collects within [`SAMPLE_AGE_MAX`]; an edge that answers more often gains nothing.
const SAMPLES_MAX: usize = 64;

const NANOS_PER_MICRO: i64 = 1_000;

/// Authority time at some moment, as far as a client can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The best guess.
    pub unix: UnixTime,
    /// How far, in microseconds, the guess may be from the clock that the edge follows.
    pub error_us: u64,
}

/// The samples of the last 30 s, and what they say together.
#[derive(Debug, Default)]
pub struct Estimator {
    samples: VecDeque<EdgeOffset>,
}

impl Estimator {
    /// An estimator that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns from one PONG. One without times, or whose round trip is negative, says nothing and is ignored.
    pub fn handle_exchange(&mut self, exchange: &PongExchange) {
        let Some(newest) = EdgeOffset::from_exchange(exchange) else {
            return;
        };
        let now = newest.read_at;
        self.samples.retain(|older| older.counts_at(now));
        // The edge's clock was stepped, or this machine stood still: what came before speaks of another time.
        if self.samples.iter().any(|older| !older.meets(&newest, now)) {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(newest);
    }

    /// Forgets everything: the time that it was learned from is no more.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Authority time at `now`; none before the first usable PONG, or 30 s after the last.
    #[must_use]
    pub fn estimate(&self, now: Mono) -> Option<Estimate> {
        let best = self
            .samples
            .iter()
            .filter(|sample| sample.counts_at(now))
            .min_by_key(|sample| sample.aged_half_trip_ns(now))?;
        let now_ns = i64::try_from(now.as_nanos()).ok()?;
        Some(Estimate {
            unix: UnixTime::from_nanos(now_ns.checked_add(best.offset_ns)?),
            error_us: best.error_ns(now).div_ceil(1_000),
        })
    }
}

/// What one usable sample says.
#[derive(Clone, Copy, Debug)]
struct EdgeOffset {
    /// Authority time minus the client's clock, in nanoseconds.
    offset_ns: i64,
    half_trip_ns: u64,
    edge_bound_ns: u64,
    read_at: Mono,
}

impl EdgeOffset {
    /// Arithmetic is checked throughout: the times are whatever the other side sent.
    fn from_exchange(exchange: &PongExchange) -> Option<Self> {
        if exchange.t2_us == 0 || exchange.t3_us == 0 {
            return None;
        }
        let nanos = |micros: i64| micros.checked_mul(NANOS_PER_MICRO);
        let (t1, t2) = (nanos(exchange.t1_us)?, nanos(exchange.t2_us)?);
        let (t3, t4) = (nanos(exchange.t3_us)?, nanos(exchange.t4_us)?);
        let (there, back) = (t2.checked_sub(t1)?, t3.checked_sub(t4)?);
        let round_trip = there.checked_sub(back)?;
        Some(Self {
            offset_ns: (there / 2).checked_add(back / 2)?,
            half_trip_ns: u64::try_from(round_trip).ok()?.div_ceil(2),
            edge_bound_ns: u64::from(exchange.error_bound_us) * 1_000,
            read_at: Mono::from_nanos(u64::try_from(t4).ok()?),
        })
    }

    fn counts_at(&self, now: Mono) -> bool {
        now.since(self.read_at) <= SAMPLE_AGE_MAX
    }

    /// What samples are compared by: the edge's bound is in all of them alike.
    fn aged_half_trip_ns(&self, now: Mono) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.read_at.as_nanos());
        self.half_trip_ns.saturating_add(age_ns / DRIFT_DIVISOR)
    }

    fn error_ns(&self, now: Mono) -> u64 {
        self.aged_half_trip_ns(now)
            .saturating_add(self.edge_bound_ns)
    }

    /// Whether both can be true: their intervals have a point in common.
    fn meets(&self, other: &Self, now: Mono) -> bool {
        let reach = self.error_ns(now).saturating_add(other.error_ns(now));
        self.offset_ns.abs_diff(other.offset_ns) <= reach
    }
}
