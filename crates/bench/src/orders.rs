//! What the load generator and its child, the edge under test, say to each other: a JSON object a line, orders on the child's
//! standard input, answers on its standard output. Both are one program, so that this needs no versions.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the child is told to do. Each order has one answer; those that take long have it when they are done.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) enum ChildOrder {
    /// Look at yourself; with `all`, count open files and closed connections too, which takes a while.
    Sample { all: bool },
    /// Feed the edge these ticks.
    Burst(BurstPlan),
    /// Send the same ticks by a bare loop over the edge's sockets: all at once at their moment, or as a burst's batches.
    Bare(BurstPlan),
    /// Listen with a bare accept loop, and answer with the address.
    Accept,
    /// End it.
    AcceptEnd,
    /// Listen with a bare loop of epoll, recv and send, that answers as many bytes as an edge's PONG has.
    Echo { pong_len: usize },
    /// Say what the echo has used so far.
    EchoUsage,
}

/// Ticks by a plan that both sides reckon with: tick `n` is due `n / rate` seconds after `at_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct BurstPlan {
    /// CLOCK_MONOTONIC_RAW, in nanoseconds.
    pub(crate) at_ns: u64,
    /// The first tick's epoch_ms; the others follow a second apart each.
    pub(crate) first_ms: i64,
    pub(crate) ticks: u64,
    /// Ticks a second.
    pub(crate) rate: u64,
    /// How many ticks a frame of the bare loop carries.
    pub(crate) per_frame: u64,
}

impl BurstPlan {
    /// One tick, at its moment.
    pub(crate) fn single(at_ns: u64, first_ms: i64) -> Self {
        Self {
            at_ns,
            first_ms,
            ticks: 1,
            rate: 1,
            per_frame: 1,
        }
    }

    /// When tick `n` is due.
    pub(crate) fn due_ns(&self, n: u64) -> u64 {
        let after = u128::from(n) * 1_000_000_000 / u128::from(self.rate.max(1));
        self.at_ns
            .saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// When the last tick is due.
    pub(crate) fn end_ns(&self) -> u64 {
        self.due_ns(self.ticks.saturating_sub(1))
    }

    /// The number of the tick with this epoch, where it is one of these.
    pub(crate) fn number(&self, epoch_ms: i64) -> Option<u64> {
        let after = u64::try_from(epoch_ms.checked_sub(self.first_ms)?).ok()?;
        let number = after / 1_000;
        (after.is_multiple_of(1_000) && number < self.ticks).then_some(number)
    }

    /// The epoch of tick `n`.
    pub(crate) fn epoch_ms(&self, n: u64) -> i64 {
        let after = i64::try_from(n.saturating_mul(1_000)).unwrap_or(i64::MAX);
        self.first_ms.saturating_add(after)
    }

    /// The epoch of the last tick.
    pub(crate) fn last_ms(&self) -> i64 {
        self.epoch_ms(self.ticks.saturating_sub(1))
    }
}

/// What the child answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum ChildAnswer {
    /// The edge listens and knows the time.
    Ready(EdgeFacts),
    Sample(ProcessSample),
    /// All ticks were fed, by a thread that used so much CPU time.
    Burst {
        cpu_us: u64,
    },
    Bare(BareSends),
    Listening(SocketAddr),
    AcceptEnd(LoopUsage),
    EchoUsage(LoopUsage),
    /// The order can't be carried out.
    Failed(String),
}

impl ChildAnswer {
    /// To a [`ChildOrder::Sample`].
    pub(crate) fn sample(&self) -> Option<ProcessSample> {
        if let Self::Sample(sample) = self {
            Some(*sample)
        } else {
            None
        }
    }

    /// To a [`ChildOrder::Burst`].
    pub(crate) fn burst(&self) -> Option<u64> {
        if let Self::Burst { cpu_us } = self {
            Some(*cpu_us)
        } else {
            None
        }
    }

    /// To a [`ChildOrder::Bare`].
    pub(crate) fn bare(&self) -> Option<BareSends> {
        if let Self::Bare(bare) = self {
            Some(*bare)
        } else {
            None
        }
    }

    /// To a [`ChildOrder::Accept`] or [`ChildOrder::Echo`].
    pub(crate) fn listening(&self) -> Option<SocketAddr> {
        if let Self::Listening(addr) = self {
            Some(*addr)
        } else {
            None
        }
    }

    /// To a [`ChildOrder::AcceptEnd`].
    pub(crate) fn accept_end(&self) -> Option<LoopUsage> {
        if let Self::AcceptEnd(used) = self {
            Some(*used)
        } else {
            None
        }
    }

    /// To a [`ChildOrder::EchoUsage`].
    pub(crate) fn echo_usage(&self) -> Option<LoopUsage> {
        if let Self::EchoUsage(used) = self {
            Some(*used)
        } else {
            None
        }
    }
}

/// What an edge that has started is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct EdgeFacts {
    pub(crate) addr: SocketAddr,
    pub(crate) shards: usize,
    pub(crate) connections_max: u64,
    pub(crate) ahead_ms: u64,
    pub(crate) write_deadline_ms: u64,
    pub(crate) batch_window_ms: u64,
}

/// What the child is at a moment.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ProcessSample {
    /// CLOCK_MONOTONIC_RAW, in nanoseconds.
    pub(crate) at_ns: u64,
    /// CPU time of the whole process, user and system, in microseconds.
    pub(crate) cpu_us: u64,
    /// The same when the sample was ready: looking at oneself costs, too.
    pub(crate) cpu_after_us: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) files: Option<u64>,
    /// Sockets that count against MAX_CONNECTIONS.
    pub(crate) connections: u64,
    /// Connections closed with SLOW_CONSUMER so far.
    pub(crate) closed_slow: Option<u64>,
    /// Authority time minus CLOCK_MONOTONIC_RAW, in nanoseconds.
    pub(crate) offset_ns: Option<i64>,
    /// How far the edge itself says that may be wrong, in microseconds.
    pub(crate) bound_us: u32,
}

impl ProcessSample {
    /// CPU time that was used since `before` was taken, in microseconds; what taking it cost is left out.
    pub(crate) fn used_us_since(&self, before: &Self) -> u64 {
        self.cpu_us.saturating_sub(before.cpu_after_us)
    }
}

/// What a bare loop did.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct BareSends {
    /// CPU time of the threads in it, in microseconds, waiting left out.
    pub(crate) cpu_us: u64,
    pub(crate) sockets: u64,
    pub(crate) sends: u64,
    /// Sends that a full socket made wait.
    pub(crate) stalls: u64,
    /// Sockets whose other end had gone.
    pub(crate) failed: u64,
}

/// What a bare accept or echo loop has used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct LoopUsage {
    /// CPU time of its thread, in microseconds.
    pub(crate) cpu_us: u64,
    pub(crate) accepted: u64,
    /// Messages answered.
    pub(crate) answered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_plan_of_when_each_tick_is_due() {
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
