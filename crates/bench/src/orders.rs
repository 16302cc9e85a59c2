//! The messages between the load generator and its child, the edge under test: one JSON object per
//! line, orders on the child's standard input and answers on its standard output. Both sides are
//! the same program, so the messages have no version.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// An order to the child. Each order has one answer; an order that takes long is answered when it
/// is done.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) enum ChildOrder {
    /// Sample the process; with `all`, also count open files and closed connections, which takes a
    /// while.
    Sample { all: bool },
    /// Feed the edge these ticks.
    Burst(BurstPlan),
    /// Send the same ticks with a bare loop over the edge's sockets, each batch of a burst when its
    /// last tick is due.
    Bare(BurstPlan),
    /// Start bare accept loops, and answer with their address.
    Accept,
    /// Stop the accept loops.
    AcceptEnd,
    /// Start a bare loop of epoll, recv and send that answers with as many bytes as an edge's PONG
    /// has.
    Echo { pong_len: usize },
    /// Report what the echo loop has used so far.
    EchoUsage,
    /// Drain the edge, and answer when that is done.
    Drain,
}

/// The outcome of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Drained {
    pub(crate) took_ms: u64,
    /// The connections that were left at its end.
    pub(crate) left: u64,
}

/// The plan of a burst, shared by both sides: tick `n` is due `n / rate` seconds after `at_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct BurstPlan {
    /// When the first tick is due by CLOCK_MONOTONIC_RAW, in nanoseconds.
    pub(crate) at_ns: u64,
    /// The epoch_ms of the first tick; the others follow one second apart.
    pub(crate) first_ms: i64,
    pub(crate) ticks: u64,
    /// Ticks per second.
    pub(crate) rate: u64,
    /// The number of ticks per frame of the bare loop.
    pub(crate) per_frame: u64,
}

impl BurstPlan {
    /// Creates a plan of one tick, due at `at_ns`.
    pub(crate) fn single(at_ns: u64, first_ms: i64) -> Self {
        Self {
            at_ns,
            first_ms,
            ticks: 1,
            rate: 1,
            per_frame: 1,
        }
    }

    /// Returns the time at which tick `n` is due, in nanoseconds.
    pub(crate) fn due_ns(&self, n: u64) -> u64 {
        let after = u128::from(n) * 1_000_000_000 / u128::from(self.rate.max(1));
        self.at_ns
            .saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// Returns the time at which the last tick is due, in nanoseconds.
    pub(crate) fn end_ns(&self) -> u64 {
        self.due_ns(self.ticks.saturating_sub(1))
    }

    /// Returns the number of the tick with this epoch, if it belongs to the burst.
    pub(crate) fn number(&self, epoch_ms: i64) -> Option<u64> {
        let after = u64::try_from(epoch_ms.checked_sub(self.first_ms)?).ok()?;
        let number = after / 1_000;
        (after.is_multiple_of(1_000) && number < self.ticks).then_some(number)
    }

    /// Returns the epoch_ms of tick `n`.
    pub(crate) fn epoch_ms(&self, n: u64) -> i64 {
        let after = i64::try_from(n.saturating_mul(1_000)).unwrap_or(i64::MAX);
        self.first_ms.saturating_add(after)
    }

    /// Returns the epoch_ms of the last tick.
    pub(crate) fn last_ms(&self) -> i64 {
        self.epoch_ms(self.ticks.saturating_sub(1))
    }
}

/// An answer from the child.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum ChildAnswer {
    /// The edge listens and knows the time.
    Ready(EdgeFacts),
    Sample(ProcessSample),
    /// All ticks were fed, by a thread that used `cpu_us` of CPU time.
    Burst {
        cpu_us: u64,
    },
    Bare(BareSends),
    Listening(SocketAddr),
    AcceptEnd(LoopUsage),
    EchoUsage(LoopUsage),
    Drained(Drained),
    /// The order failed.
    Failed(String),
}

impl ChildAnswer {
    /// Returns the answer to [`ChildOrder::Sample`].
    pub(crate) fn sample(&self) -> Option<ProcessSample> {
        if let Self::Sample(sample) = self {
            Some(*sample)
        } else {
            None
        }
    }

    /// Returns the answer to [`ChildOrder::Burst`].
    pub(crate) fn burst(&self) -> Option<u64> {
        if let Self::Burst { cpu_us } = self {
            Some(*cpu_us)
        } else {
            None
        }
    }

    /// Returns the answer to [`ChildOrder::Bare`].
    pub(crate) fn bare(&self) -> Option<BareSends> {
        if let Self::Bare(bare) = self {
            Some(*bare)
        } else {
            None
        }
    }

    /// Returns the answer to [`ChildOrder::Accept`] or [`ChildOrder::Echo`].
    pub(crate) fn listening(&self) -> Option<SocketAddr> {
        if let Self::Listening(addr) = self {
            Some(*addr)
        } else {
            None
        }
    }

    /// Returns the answer to [`ChildOrder::AcceptEnd`].
    pub(crate) fn accept_end(&self) -> Option<LoopUsage> {
        if let Self::AcceptEnd(used) = self {
            Some(*used)
        } else {
            None
        }
    }

    /// Returns the answer to [`ChildOrder::Drain`].
    pub(crate) fn drained(&self) -> Option<Drained> {
        if let Self::Drained(drained) = self {
            Some(*drained)
        } else {
            None
        }
    }

    /// Returns the answer to [`ChildOrder::EchoUsage`].
    pub(crate) fn echo_usage(&self) -> Option<LoopUsage> {
        if let Self::EchoUsage(used) = self {
            Some(*used)
        } else {
            None
        }
    }
}

/// The facts about an edge that has started.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EdgeFacts {
    /// The address that it listens on.
    pub addr: SocketAddr,
    /// The address of its admin port, if it was started with one.
    pub admin: Option<SocketAddr>,
    /// The number of its shards.
    pub shards: usize,
    /// The most connections that it can hold.
    pub connections_max: u64,
    /// AHEAD_MS.
    pub ahead_ms: u64,
    /// WRITE_DEADLINE_MS.
    pub write_deadline_ms: u64,
    /// BATCH_WINDOW_MS.
    pub batch_window_ms: u64,
}

/// A sample of the child.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct ProcessSample {
    /// When the sample was taken, by CLOCK_MONOTONIC_RAW, in nanoseconds.
    pub at_ns: u64,
    /// CPU time of the whole process, user and system, in microseconds.
    pub cpu_us: u64,
    /// The same, read once the sample was complete, since sampling itself takes CPU time.
    pub cpu_after_us: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// The number of open files.
    pub files: Option<u64>,
    /// The number of sockets that count against MAX_CONNECTIONS.
    pub connections: u64,
    /// The number of connections closed with SLOW_CONSUMER so far.
    pub closed_slow: Option<u64>,
    /// Authority time minus CLOCK_MONOTONIC_RAW, in nanoseconds.
    pub offset_ns: Option<i64>,
    /// The edge's own error bound for that, in microseconds.
    pub bound_us: u32,
}

impl ProcessSample {
    /// Returns the CPU time used since `before` was taken, in microseconds, without the cost of
    /// taking `before`.
    #[must_use]
    pub fn used_us_since(&self, before: &Self) -> u64 {
        self.cpu_us.saturating_sub(before.cpu_after_us)
    }
}

/// The work done by a bare loop of sends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct BareSends {
    /// CPU time of its threads, in microseconds, without waiting.
    pub(crate) cpu_us: u64,
    pub(crate) sockets: u64,
    pub(crate) sends: u64,
    /// Sends that had to wait for a full socket.
    pub(crate) stalls: u64,
    /// Sends given up, because the socket failed or stayed full.
    pub(crate) failed: u64,
}

/// The work done by a bare accept or echo loop.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct LoopUsage {
    /// CPU time of its threads, in microseconds.
    pub(crate) cpu_us: u64,
    pub(crate) accepted: u64,
    /// Messages answered.
    pub(crate) answered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_plan_maps_ticks_to_due_times_and_epochs() {
        let burst = BurstPlan {
            at_ns: 7,
            first_ms: 5_000,
            ticks: 100,
            rate: 50,
            per_frame: 10,
        };
        assert_eq!(burst.due_ns(0), 7);
        assert_eq!(burst.due_ns(50), 1_000_000_007);
        assert_eq!(burst.end_ns(), 1_980_000_007);
        assert_eq!(burst.last_ms(), 104_000);
        assert_eq!(burst.number(5_000), Some(0));
        assert_eq!(burst.number(104_000), Some(99));
        for other in [4_000, 5_500, 105_000, i64::MIN] {
            assert_eq!(burst.number(other), None, "{other}");
        }
    }
}
