//! [`OwnTime`]: the edge's own time, by which it judges clocks if they form no majority. It follows
//! authority time, but without a majority no faster than the rates of two good clocks may differ,
//! so that a clock that runs away cannot take it along.

use crate::authority::drift_ns;
use crate::mono::Mono;

/// The edge's own time. Its error bound is that of authority time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnTime {
    /// The offset from the machine's time, in nanoseconds.
    pub(crate) offset_ns: i64,
    as_of: Mono,
}

impl OwnTime {
    pub(crate) const fn new(offset_ns: i64, now: Mono) -> Self {
        Self {
            offset_ns,
            as_of: now,
        }
    }

    /// Moves towards `offset_ns` by as much as two good clocks may drift apart in the time since
    /// the last call.
    pub(crate) fn approach(&mut self, offset_ns: i64, now: Mono) {
        let most_ns = drift_ns(now.as_nanos().saturating_sub(self.as_of.as_nanos()));
        self.as_of = now;
        self.offset_ns = offset_ns.clamp(
            self.offset_ns.saturating_sub_unsigned(most_ns),
            self.offset_ns.saturating_add_unsigned(most_ns),
        );
    }
}
