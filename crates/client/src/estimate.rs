//! Authority time, which a client learns from PONGs as in NTP: the offset between its own clock and
//! the edge's, with an error bound. This module does no I/O and reads no clock; its callers supply
//! the time of each PONG and the time to estimate.

use std::collections::VecDeque;
use std::time::Duration;

pub use tickstorm_protocol::session::client::PongExchange;
use tickstorm_timebase::{Mono, UnixTime};

/// The age after which a sample no longer counts: by then, any fresh sample is more informative.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(30);

/// The drift between the clocks of two machines, as a divisor of the elapsed time: 200 ppm.
const DRIFT_DIVISOR: u64 = 5_000;

/// The largest number of samples kept. This is about three times the number that a client collects
/// within [`SAMPLE_AGE_MAX`] if it sends a HEARTBEAT every 2 s, including those at the start. An
/// edge that sends more PONGs cannot make a client keep more samples.
const SAMPLES_MAX: usize = 64;

const NANOS_PER_MICRO: i64 = 1_000;

/// Authority time at one moment, as far as a client can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The best estimate.
    pub unix: UnixTime,
    /// The bound of the estimate's error against the clock that the edge follows, in microseconds.
    pub error_us: u64,
}

/// Estimates authority time from the samples of the last 30 s.
#[derive(Debug, Default)]
pub struct Estimator {
    samples: VecDeque<EdgeOffset>,
}

impl Estimator {
    /// Creates an estimator without samples.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns from one PONG. A PONG without times, or with a negative round trip, is ignored.
    pub fn handle_exchange(&mut self, exchange: &PongExchange) {
        let Some(newest) = EdgeOffset::from_exchange(exchange) else {
            return;
        };
        let now = newest.read_at;
        self.samples.retain(|older| older.counts_at(now));
        // The intervals contradict each other: either the edge's clock was stepped, or this machine
        // was stalled. The older samples no longer describe the present time.
        if self
            .samples
            .iter()
            .any(|older| !older.agrees_with(&newest, now))
        {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(newest);
    }

    /// Discards all samples, because the time that they describe is no longer valid.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Returns authority time at `now`, or `None` if no usable PONG was read in the 30 s before.
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

/// The offset that one usable sample gives.
#[derive(Clone, Copy, Debug)]
struct EdgeOffset {
    /// Authority time minus the client's clock, in nanoseconds.
    offset_ns: i64,
    half_trip_ns: u64,
    edge_bound_ns: u64,
    read_at: Mono,
}

impl EdgeOffset {
    /// Computes the offset. All arithmetic is checked, because the other side may send any times.
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

    /// Returns the value by which samples are compared. It leaves out the edge's error bound, which
    /// is part of all samples alike.
    fn aged_half_trip_ns(&self, now: Mono) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.read_at.as_nanos());
        self.half_trip_ns.saturating_add(age_ns / DRIFT_DIVISOR)
    }

    fn error_ns(&self, now: Mono) -> u64 {
        self.aged_half_trip_ns(now)
            .saturating_add(self.edge_bound_ns)
    }

    /// Returns whether both samples can be true, that is, whether their intervals overlap.
    fn agrees_with(&self, other: &Self, now: Mono) -> bool {
        let reach = self.error_ns(now).saturating_add(other.error_ns(now));
        self.offset_ns.abs_diff(other.offset_ns) <= reach
    }
}
