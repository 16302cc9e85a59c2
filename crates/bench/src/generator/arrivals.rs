//! The arrival times of frames. While a frame arrives, its times are only written down; histograms
//! are filled afterwards, so that counting does not slow down what is counted.

use hdrhistogram::Histogram;

use super::frame_ticks::FrameTicks;

/// The longest latency that a histogram holds, in nanoseconds: 10 minutes. A longer one counts as
/// this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// The number of significant digits of a histogram.
const DIGITS: u8 = 3;
/// The unit in which arrival times are stored, in nanoseconds: with it, 32 bits hold 7 minutes.
const UNIT_NS: u64 = 100;

/// Creates a histogram for latencies in nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are valid")
}

/// The time at which a frame was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) ns: u64,
    /// The same in authority time, in microseconds, before which `sent_unix_us` must not be. `None`
    /// for the ticks of a burst.
    pub(super) unix_us: Option<i64>,
}

/// The arrivals of one frame at all clients of a thread.
#[derive(Debug, Default)]
pub(super) struct FrameArrivals {
    due: Option<Due>,
    first_ns: u64,
    last_ns: u64,
    /// Arrivals as offsets from `first_ns`, in [`UNIT_NS`].
    after: Vec<u32>,
}

impl FrameArrivals {
    /// Records the arrival at one more client. `due` is called for the first arrival only.
    pub(super) fn record(&mut self, at_ns: u64, due: impl FnOnce() -> Option<Due>) {
        if self.after.is_empty() {
            self.first_ns = at_ns;
            self.due = due();
        }
        self.last_ns = at_ns;
        let after = at_ns.saturating_sub(self.first_ns) / UNIT_NS;
        self.after.push(u32::try_from(after).unwrap_or(u32::MAX));
    }

    /// Returns the time of the last arrival, or 0 if there was none.
    pub(super) fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Summarises the arrivals and adds their latencies to `latencies`. Authority time is
    /// `offset_ns` ahead of the machine's own clock, within `error_ns`.
    pub(super) fn finish(
        &self,
        ticks: FrameTicks,
        offset_ns: Option<i64>,
        error_ns: u64,
        latencies: &mut Latencies,
    ) -> Option<FrameSeen> {
        let due = self.due.filter(|_| !self.after.is_empty())?;
        let sent_ns = offset_ns
            .and_then(|offset_ns| (ticks.sent_unix_us * 1_000).checked_sub(offset_ns))
            .and_then(|sent_ns| u64::try_from(sent_ns).ok());
        let sent_early = due
            .unix_us
            .is_some_and(|unix_us| ticks.sent_unix_us < unix_us);
        let mut early = 0;
        for after in &self.after {
            let at_ns = self.first_ns + u64::from(*after) * UNIT_NS;
            early += u64::from(sent_early || at_ns + UNIT_NS + error_ns < due.ns);
            let latency = at_ns.saturating_sub(due.ns);
            latencies.of(ticks.bare).saturating_record(latency.max(1));
            if let (Some(sent_ns), false) = (sent_ns, ticks.bare) {
                let latency = at_ns.saturating_sub(sent_ns);
                latencies.after_sent.saturating_record(latency.max(1));
            }
        }
        Some(FrameSeen {
            ticks,
            due_ns: due.ns,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            count: self.after.len() as u64,
            early,
        })
    }
}

/// A frame that has arrived at a number of clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameSeen {
    pub(crate) ticks: FrameTicks,
    pub(crate) due_ns: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) count: u64,
    /// The number of clients at which it arrived before it was due.
    pub(crate) early: u64,
}

/// Latencies in nanoseconds. The latency of a frame of several ticks is that of its first tick,
/// which has waited longest.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// Frames of the edge, from due to arrival.
    pub(crate) edge: Histogram<u64>,
    /// Frames of the edge, from `sent_unix_us` to arrival.
    pub(crate) after_sent: Histogram<u64>,
    /// Frames of the bare loop, from due to arrival.
    pub(crate) bare: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            edge: histogram(),
            after_sent: histogram(),
            bare: histogram(),
        }
    }
}

impl Latencies {
    fn of(&mut self, bare: bool) -> &mut Histogram<u64> {
        if bare { &mut self.bare } else { &mut self.edge }
    }

    /// Adds the latencies of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.edge, &other.edge),
            (&mut self.after_sent, &other.after_sent),
            (&mut self.bare, &other.bare),
        ];
        for (mine, theirs) in pairs {
            mine.add(theirs)
                .expect("all histograms have the same bounds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKS: FrameTicks = FrameTicks {
        bare: false,
        first_ms: 1_000,
        last_ms: 1_000,
        count: 1,
        sent_unix_us: 104_500,
    };

    fn arrivals(due: Due) -> FrameArrivals {
        let mut arrivals = FrameArrivals::default();
        for at_ns in [5_000_000, 6_000_000, 9_000_000] {
            arrivals.record(at_ns, || Some(due));
        }
        arrivals
    }

    fn due(ns: u64) -> Due {
        Due { ns, unix_us: None }
    }

    #[test]
    fn latencies_count_from_when_the_tick_was_due_not_from_its_first_arrival() {
        let mut latencies = Latencies::default();
        let arrivals = arrivals(due(4_000_000));
        let seen = arrivals.finish(TICKS, Some(100_000_000), 0, &mut latencies);
        let seen = seen.expect("the frame has arrived");
        assert_eq!((seen.first_ns, seen.last_ns), (5_000_000, 9_000_000));
        assert_eq!((seen.count, seen.early), (3, 0));
        let near = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 500;
        assert!(near(latencies.edge.max(), 5_000_000));
        assert!(near(latencies.edge.min(), 1_000_000));
        assert!(near(latencies.after_sent.max(), 4_500_000));
        assert_eq!(latencies.bare.len(), 0);
    }

    #[test]
    fn an_arrival_is_early_if_it_precedes_the_due_time_by_more_than_the_clock_error() {
        let early = |due: Due, error_ns| {
            let arrivals = arrivals(due);
            let seen = arrivals.finish(TICKS, Some(0), error_ns, &mut Latencies::default());
            seen.expect("the frame has arrived").early
        };
        assert_eq!(early(due(5_500_000), 0), 1);
        assert_eq!(early(due(9_500_000), 0), 3);
        assert_eq!(early(due(5_500_000), 600_000), 0);
        let sent_no_earlier_than = |unix_us| Due {
            unix_us: Some(unix_us),
            ..due(1)
        };
        assert_eq!(early(sent_no_earlier_than(104_501), 0), 3);
        assert_eq!(early(sent_no_earlier_than(104_500), 0), 0);
    }
}
