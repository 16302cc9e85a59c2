//! Measures the CPU time that the generator itself spends in user space while ticks arrive. If that
//! is a large share, the generator has measured itself.
//!
//! The kernel tells user time from system time by sampling what a thread does at each timer
//! interrupt, every 4 ms or so. Interrupts are off while a system call returns, so the last 0.1 µs
//! or so of each call counts as user time. With one call per message, that is more than the
//! generator's own work. Therefore the generator also clocks itself: in one turn of its loop out of
//! [`TURNS`], between system calls.

use crate::machine::{CpuTime, now_ns};

/// One turn in this many is clocked, since reading a clock also takes time.
const TURNS: u32 = 16;

/// The longest time that counts between two system calls, in nanoseconds. If it is longer, another
/// thread had the CPU meanwhile.
const STRETCH_NS_MAX: u64 = 100_000;

/// CPU time of this thread while frames arrive, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// In user space, by the generator's own clock, without opening TLS records.
    pub(crate) own_us: u64,
    /// Opening TLS records, by the generator's own clock.
    pub(crate) opening_us: u64,
    /// In user space, according to the kernel.
    pub(crate) user_us: u64,
    /// In user space and kernel.
    pub(crate) total_us: u64,
}

impl Spent {
    /// Adds the CPU time of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.own_us += other.own_us;
        self.opening_us += other.opening_us;
        self.user_us += other.user_us;
        self.total_us += other.total_us;
    }
}

/// Counts CPU time from the first frame after a quiet time until the next quiet time.
#[derive(Debug, Default)]
pub(super) struct Meter {
    started: Option<CpuTime>,
    spent: Spent,
    turns: u32,
    own: ClockedTurns,
}

/// The time spent in turns that were clocked.
#[derive(Debug, Default)]
struct ClockedTurns {
    /// When this thread last entered user space, in nanoseconds; `None` in turns that are not
    /// clocked, and during a system call.
    since_ns: Option<u64>,
    clocked: bool,
    spent_ns: u64,
    /// The time spent on opening TLS records.
    opening_ns: u64,
    /// The number of reads in clocked turns, and in all turns.
    clocked_reads: u64,
    reads: u64,
}

impl Meter {
    /// Starts to count at the arrival of a frame.
    pub(super) fn begin(&mut self) {
        if self.started.is_none() {
            self.started = Some(CpuTime::of_thread());
        }
    }

    /// Stops counting, since nothing has arrived for a while. How long that was does not matter:
    /// waiting takes no CPU time.
    pub(super) fn end(&mut self) {
        let own = std::mem::take(&mut self.own);
        if let Some(started) = self.started.take() {
            let now = CpuTime::of_thread();
            self.spent.add(Spent {
                own_us: own.of_all_turns(own.spent_ns) / 1_000,
                opening_us: own.of_all_turns(own.opening_ns) / 1_000,
                user_us: now.user_us.saturating_sub(started.user_us),
                total_us: now.total_us.saturating_sub(started.total_us),
            });
        }
    }

    /// Returns the CPU time spent since the last call.
    pub(super) fn take(&mut self) -> Spent {
        self.end();
        std::mem::take(&mut self.spent)
    }

    /// Starts a turn of the loop, after its wait.
    pub(super) fn begin_turn(&mut self) {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS) {
            self.own.clocked = true;
            self.own.since_ns = Some(now_ns());
        }
    }

    /// Ends a turn, before the next wait.
    pub(super) fn end_turn(&mut self) {
        self.pause();
        self.own.clocked = false;
    }

    /// Stops the clock before a read.
    pub(super) fn pause(&mut self) {
        if let Some(since_ns) = self.own.since_ns.take() {
            let stretch_ns = now_ns().saturating_sub(since_ns);
            self.own.spent_ns += stretch_ns.min(STRETCH_NS_MAX);
        }
    }

    /// Counts the time since the read as that of opening TLS records.
    pub(super) fn count_opening(&mut self) {
        if let Some(since_ns) = self.own.since_ns {
            let now_ns = now_ns();
            let stretch_ns = now_ns.saturating_sub(since_ns);
            self.own.opening_ns += stretch_ns.min(STRETCH_NS_MAX);
            self.own.since_ns = Some(now_ns);
        }
    }

    /// Restarts the clock after a read that ended at `now_ns`.
    pub(super) fn resume(&mut self, now_ns: u64) {
        self.own.reads += 1;
        if self.own.clocked {
            self.own.clocked_reads += 1;
            self.own.since_ns = Some(now_ns);
        }
    }
}

impl ClockedTurns {
    /// Extrapolates a time of all turns from that of the clocked ones.
    fn of_all_turns(&self, clocked_ns: u64) -> u64 {
        let all = u128::from(clocked_ns) * u128::from(self.reads);
        let all = all / u128::from(self.clocked_reads.max(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_system_calls_is_extrapolated_and_time_inside_them_is_not_counted() {
        let mut meter = Meter::default();
        let (mut own_ns, mut in_calls_ns) = (0, 0);
        for _ in 0..10 * TURNS {
            let begun_ns = now_ns();
            meter.begin_turn();
            meter.pause();
            let paused_ns = now_ns();
            std::thread::yield_now();
            let resumed_ns = now_ns();
            meter.resume(resumed_ns);
            meter.end_turn();
            own_ns += paused_ns - begun_ns + (now_ns() - resumed_ns);
            in_calls_ns += resumed_ns - paused_ns;
        }
        assert_eq!(meter.own.reads, 10 * u64::from(TURNS));
        assert_eq!(meter.own.clocked_reads, 10);
        assert!(in_calls_ns > 0);
        assert!(meter.own.spent_ns > 0 && meter.own.spent_ns <= own_ns);
        meter.own = ClockedTurns {
            spent_ns: 500,
            clocked_reads: 10,
            reads: 160,
            ..ClockedTurns::default()
        };
        assert_eq!(meter.own.of_all_turns(meter.own.spent_ns), 8_000);
    }

    #[test]
    fn opening_records_is_counted_apart() {
        let mut meter = Meter::default();
        for _ in 0..TURNS {
            meter.begin_turn();
            meter.pause();
            meter.resume(now_ns());
            let until_ns = now_ns() + 20_000;
            while now_ns() < until_ns {}
            meter.count_opening();
            meter.end_turn();
        }
        assert!(meter.own.opening_ns >= 20_000);
        meter.own.spent_ns = 0;
        assert_eq!(meter.own.of_all_turns(meter.own.spent_ns), 0);
        assert!(meter.own.of_all_turns(meter.own.opening_ns) >= u64::from(TURNS) * 20_000);
    }
}
