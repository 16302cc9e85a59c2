//! [`OwnTime`]: the edge's own time, by which it judges clocks if they form no majority. It follows
//! authority time, but without a majority no faster than the rates of two good clocks may differ,
//! so that a clock that runs away cannot take it along.

use crate::mono::Mono;

/// The edge's own time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnTime {
    /// The offset from the machine's time, in nanoseconds.
    pub(crate) offset_ns: i64,
    /// The error bound of the sample that it follows, at the rates that are assumed: a clock that
    /// runs away must not widen the bound by which it is judged.
    bound_ns: u64,
    as_of: Mono,
}

impl OwnTime {
    pub(crate) const fn new(offset_ns: i64, bound_ns: u64, now: Mono) -> Self {
        Self {
            offset_ns,
            bound_ns,
            as_of: now,
        }
    }

    /// Moves towards `offset_ns` by as much as a good clock may drift in the time since the last
    /// call: one nanosecond in `drift_divisor`.
    pub(crate) fn approach(
        &mut self,
        offset_ns: i64,
        bound_ns: u64,
        drift_divisor: u64,
        now: Mono,
    ) {
        let passed_ns = now.as_nanos().saturating_sub(self.as_of.as_nanos());
        let most_ns = passed_ns / drift_divisor;
        self.as_of = now;
        self.bound_ns = bound_ns;
        self.offset_ns = offset_ns.clamp(
            self.offset_ns.saturating_sub_unsigned(most_ns),
            self.offset_ns.saturating_add_unsigned(most_ns),
        );
    }

    /// Returns its error bound at `now`, if it drifts by one nanosecond in `drift_divisor`.
    pub(crate) const fn bound_ns_at(&self, drift_divisor: u64, now: Mono) -> u64 {
        let age_ns = now.as_nanos().saturating_sub(self.as_of.as_nanos());
        self.bound_ns.saturating_add(age_ns / drift_divisor)
    }
}
