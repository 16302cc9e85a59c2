//! How much CPU the generator itself spends in user space while ticks come: where that is much, it has measured itself.
//!
//! The kernel tells user from system time by what a thread does when its timer interrupts it, each 4 ms, say. On its way out of a
//! system call it takes no interrupts, so that some 0.1 µs of each call's end count as the caller's: of a call for every message that is
//! more than the generator's own work. So it clocks itself, too: each so many turns of its loop, between system calls.

use crate::machine::{CpuTime, now_ns};

/// Each so many turns one is clocked: clocks cost, too.
const TURNS: u32 = 16;

/// The most that counts between two system calls, in nanoseconds: beyond it another thread had the CPU, and this one its turn to wait.
const STRETCH_NS_MAX: u64 = 100_000;

/// CPU time of this thread while frames come, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// In user space, by its own clock.
    pub(crate) own_us: u64,
    /// In user space, as the kernel has it.
    pub(crate) user_us: u64,
    /// In user space and kernel.
    pub(crate) total_us: u64,
}

impl Spent {
    /// Adds that of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.own_us += other.own_us;
        self.user_us += other.user_us;
        self.total_us += other.total_us;
    }
}

/// Counts from the first frame after a quiet time until it is quiet again.
#[derive(Debug, Default)]
pub(super) struct Meter {
    begun: Option<CpuTime>,
    spent: Spent,
    turns: u32,
    own: ClockedTurns,
}

/// The turns that were clocked.
#[derive(Debug, Default)]
struct ClockedTurns {
    /// Since when this thread is in user space; none in other turns, and in a system call.
    since_ns: Option<u64>,
    clocked: bool,
    spent_ns: u64,
    /// Reads in turns that were clocked, and in all.
    clocked_reads: u64,
    reads: u64,
}

impl Meter {
    /// A frame comes.
    pub(super) fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(CpuTime::of_thread());
        }
    }

    /// Nothing more has come for a while. Waiting costs nothing, so that it does not matter how long that is.
    pub(super) fn end(&mut self) {
        let own = std::mem::take(&mut self.own);
        if let Some(begun) = self.begun.take() {
            let now = CpuTime::of_thread();
            self.spent.add(Spent {
                own_us: own.all_ns() / 1_000,
                user_us: now.user_us.saturating_sub(begun.user_us),
                total_us: now.total_us.saturating_sub(begun.total_us),
            });
        }
    }

    /// What was spent since this was last asked.
    pub(super) fn take(&mut self) -> Spent {
        self.end();
        std::mem::take(&mut self.spent)
    }

    /// The loop has waited, and turns.
    pub(super) fn begin_turn(&mut self) {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS) {
            self.own.clocked = true;
            self.own.since_ns = Some(now_ns());
        }
    }

    /// It waits again.
    pub(super) fn end_turn(&mut self) {
        self.pause();
        self.own.clocked = false;
    }

    /// A read begins.
    pub(super) fn pause(&mut self) {
        if let Some(since_ns) = self.own.since_ns.take() {
            let stretch_ns = now_ns().saturating_sub(since_ns);
            self.own.spent_ns += stretch_ns.min(STRETCH_NS_MAX);
        }
    }

    /// A read has ended, at `now_ns`.
    pub(super) fn resume(&mut self, now_ns: u64) {
        self.own.reads += 1;
        if self.own.clocked {
            self.own.clocked_reads += 1;
            self.own.since_ns = Some(now_ns);
        }
    }
}

impl ClockedTurns {
    /// All turns' time, by that of those that were clocked.
    fn all_ns(&self) -> u64 {
        let all = u128::from(self.spent_ns) * u128::from(self.reads);
        let all = all / u128::from(self.clocked_reads.max(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_system_calls_counts_for_all_turns_and_time_in_them_does_not() {
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
        assert_eq!(meter.own.all_ns(), 8_000);
    }
}
