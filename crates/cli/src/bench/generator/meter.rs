//! How much CPU the generator itself spends in user space while ticks come: where that is much, it has measured itself.

use crate::bench::machine::Cpu;

/// CPU time of this thread while frames come, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) user_us: u64,
    pub(crate) total_us: u64,
}

impl Spent {
    /// Adds that of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.user_us += other.user_us;
        self.total_us += other.total_us;
    }
}

/// Counts from the first frame after a quiet time until it is quiet again.
#[derive(Debug, Default)]
pub(super) struct Meter {
    begun: Option<Cpu>,
    spent: Spent,
}

impl Meter {
    /// A frame comes.
    pub(super) fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(Cpu::of_thread());
        }
    }

    /// Nothing more has come for a while. Waiting costs nothing, so that it does not matter how long that is.
    pub(super) fn end(&mut self) {
        if let Some(begun) = self.begun.take() {
            let now = Cpu::of_thread();
            self.spent.add(Spent {
                user_us: now.user_us.saturating_sub(begun.user_us),
                total_us: now.total_us().saturating_sub(begun.total_us()),
            });
        }
    }

    /// What was spent since this was last asked.
    pub(super) fn take(&mut self) -> Spent {
        self.end();
        std::mem::take(&mut self.spent)
    }
}
