//! Authority time, which a client learns from PONGs as in NTP: the offset between its own clock and
//! the edge's, with an error bound. This module does no I/O and reads no clock; its callers supply
//! the time of each PONG and the time to estimate.
//!
//! An error bound holds only if the machine's own clock does. A machine that was suspended, or
//! stalled for seconds, has no samples until it has learned new ones; what the old ones say
//! then is only good for telling about how late something was. A clock that runs at a wrong rate is
//! noticed by its rate over minutes.

use std::collections::VecDeque;
use std::time::Duration;

pub use tickstorm_protocol::session::client::PongExchange;
use tickstorm_timebase::{Mono, UnixTime, was_suspended};

use crate::rate::{Point, RateWatch};

/// The age after which a sample no longer counts: by then, any fresh sample is more informative.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(30);

/// What is added to the error of an offset from before a stall. Machines count the time for which
/// they were suspended by a clock that may have whole seconds only.
const DOUBT_NS: u64 = 1_000_000_000;

/// Whether a jump of the time suspended is certainly a suspension. Elsewhere, it may be a step of
/// the wall clock.
const IS_SUSPENSION_CERTAIN: bool = cfg!(target_os = "linux");

/// The largest number of samples kept. This is about three times the number that a client collects
/// within [`SAMPLE_AGE_MAX`] if it sends a HEARTBEAT every 2 s, including those at the start. An
/// edge that sends more PONGs cannot make a client keep more samples.
const SAMPLES_MAX: usize = 64;

const NANOS_PER_MICRO: i64 = 1_000;

/// Authority time at one moment, as far as a client can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// The best estimate.
    pub unix: UnixTime,
    /// The bound of the estimate's error against the clock that the edge follows, in microseconds.
    pub error_us: u64,
}

impl Estimate {
    /// Creates an estimate.
    #[must_use]
    pub const fn new(unix: UnixTime, error_us: u64) -> Self {
        Self { unix, error_us }
    }

    /// Returns the latest moment that has certainly come.
    pub(crate) fn earliest(&self) -> UnixTime {
        self.unix
            .saturating_sub(Duration::from_micros(self.error_us))
    }
}

/// Estimates authority time from the samples of the last 30 s.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    samples: VecDeque<EdgeOffset>,
    rate: RateWatch,
    /// For how long the machine has been suspended in all, when that was last noted.
    suspended: Option<Duration>,
    stall: Option<Stall>,
}

/// The last moment at which this machine was seen to have been suspended or to have stalled.
#[derive(Clone, Copy, Debug)]
struct Stall {
    seen_at: Mono,
    /// The best offset from before, corrected by the time suspended.
    before: Option<EdgeOffset>,
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
        // A HEARTBEAT from before a stall may have been under way meanwhile, for longer than this
        // machine's clock tells.
        let is_void = |stall: &Stall| {
            u64::try_from(exchange.t1_us).unwrap_or(0) < stall.seen_at.as_nanos() / 1_000
        };
        if self.stall.as_ref().is_some_and(is_void) {
            return;
        }
        self.rate.handle_sample(Point {
            at: newest.read_at,
            offset_ns: newest.offset_ns,
            error_ns: newest.half_trip_ns.saturating_add(newest.edge_bound_ns),
        });
        self.insert(newest);
    }

    fn insert(&mut self, newest: EdgeOffset) {
        let (now, ppm) = (newest.read_at, self.rate.drift_ppm());
        self.samples.retain(|older| older.counts_at(now));
        // The intervals contradict each other: either the edge's clock was stepped, or this machine
        // was stalled. The older samples no longer describe the present time.
        if self
            .samples
            .iter()
            .any(|older| !older.agrees_with(&newest, now, ppm))
        {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(newest);
        if let Some(stall) = &mut self.stall {
            stall.before = None;
        }
    }

    /// Discards all samples, because the time that they describe is no longer valid.
    pub fn clear(&mut self) {
        self.samples.clear();
        self.rate.restart();
        self.stall = None;
    }

    /// Notes at `now` for how long the machine has been suspended in all. If that has jumped since
    /// it was last noted, all samples are discarded, and the result is true. Call this often:
    /// outside Linux, the time suspended also contains the drift between two clocks.
    pub fn handle_suspended(&mut self, now: Mono, suspended: Duration) -> bool {
        let before = self.suspended.replace(suspended).unwrap_or(suspended);
        if !was_suspended(before, suspended) {
            return false;
        }
        let doubt = if IS_SUSPENSION_CERTAIN {
            Duration::ZERO
        } else {
            suspended.abs_diff(before)
        };
        self.stall(now, suspended.saturating_sub(before), doubt);
        true
    }

    /// Discards all samples, because at `now` this machine was seen to have stalled for
    /// seconds, for a reason that may have affected its clock.
    pub fn handle_stall(&mut self, now: Mono) {
        self.stall(now, Duration::ZERO, Duration::ZERO);
    }

    /// Returns an estimator without samples that knows the rate of this machine's clock.
    pub(crate) fn apart(&self) -> Self {
        let mut rate = self.rate.clone();
        rate.restart();
        Self {
            rate,
            ..Self::default()
        }
    }

    fn stall(&mut self, now: Mono, suspended_for: Duration, doubt: Duration) {
        let ppm = self.rate.drift_ppm();
        let best = self
            .samples
            .iter()
            .min_by_key(|sample| sample.aged_half_trip_ns(now, ppm))
            .copied();
        // Without samples, the last stall's offset is still the best that is known.
        let before = best.or(self.stall.and_then(|stall| stall.before));
        let suspended_ns = i64::try_from(suspended_for.as_nanos()).unwrap_or(i64::MAX);
        let doubt_ns = u64::try_from(doubt.as_nanos()).unwrap_or(u64::MAX);
        self.stall = Some(Stall {
            seen_at: now,
            before: before.map(|offset| EdgeOffset {
                offset_ns: offset.offset_ns.saturating_add(suspended_ns),
                edge_bound_ns: offset.edge_bound_ns.saturating_add(doubt_ns),
                ..offset
            }),
        });
        self.samples.clear();
        self.rate.restart();
    }

    /// Returns when this machine was last seen to have stalled.
    pub(crate) fn stalled_at(&self) -> Option<Mono> {
        self.stall.map(|stall| stall.seen_at)
    }

    /// Returns whether the machine has been suspended since that was last noted.
    pub(crate) fn is_void(&self, suspended: Duration) -> bool {
        self.suspended
            .is_some_and(|before| was_suspended(before, suspended))
    }

    /// Records that the samples to come are those of another connection, whose edge may follow
    /// another clock.
    pub fn handle_connection(&mut self) {
        self.rate.restart();
    }

    /// Continues with what `other` has learned over a connection of its own.
    pub(crate) fn take_over(&mut self, other: &Self) {
        self.handle_connection();
        for &sample in &other.samples {
            if self
                .stall
                .is_none_or(|stall| sample.read_at > stall.seen_at)
            {
                self.insert(sample);
            }
        }
    }

    /// Returns authority time at `now` for telling how late something was: the estimate or, until
    /// there is one again after a stall, what the samples from before say, with an error bound that
    /// is larger by a second.
    pub(crate) fn estimate_lateness(&self, now: Mono) -> Option<Estimate> {
        let before = || {
            let before = self.stall?.before?;
            before.estimate(now, self.rate.drift_ppm(), DOUBT_NS)
        };
        self.estimate(now).or_else(before)
    }

    /// Returns authority time at `now`, or `None` if no usable PONG was read in the 30 s before.
    #[must_use]
    pub fn estimate(&self, now: Mono) -> Option<Estimate> {
        let ppm = self.rate.drift_ppm();
        let best = self
            .samples
            .iter()
            .filter(|sample| sample.counts_at(now))
            .min_by_key(|sample| sample.aged_half_trip_ns(now, ppm))?;
        best.estimate(now, ppm, 0)
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

    fn estimate(&self, now: Mono, ppm: u64, doubt_ns: u64) -> Option<Estimate> {
        let now_ns = i64::try_from(now.as_nanos()).ok()?;
        let error_ns = self.error_ns(now, ppm).saturating_add(doubt_ns);
        Some(Estimate {
            unix: UnixTime::from_nanos(now_ns.checked_add(self.offset_ns)?),
            error_us: error_ns.div_ceil(1_000),
        })
    }

    /// Returns the value by which samples are compared. It leaves out the edge's error bound, which
    /// is part of all samples alike.
    fn aged_half_trip_ns(&self, now: Mono, ppm: u64) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.read_at.as_nanos());
        let drift_ns = (age_ns / 1_000).saturating_mul(ppm) / 1_000;
        self.half_trip_ns.saturating_add(drift_ns)
    }

    fn error_ns(&self, now: Mono, ppm: u64) -> u64 {
        self.aged_half_trip_ns(now, ppm)
            .saturating_add(self.edge_bound_ns)
    }

    /// Returns whether both samples can be true, that is, whether their intervals overlap.
    fn agrees_with(&self, other: &Self, now: Mono, ppm: u64) -> bool {
        let reach = self
            .error_ns(now, ppm)
            .saturating_add(other.error_ns(now, ppm));
        self.offset_ns.abs_diff(other.offset_ns) <= reach
    }
}
