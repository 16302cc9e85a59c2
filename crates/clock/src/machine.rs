//! The machine that a clock runs on: its own time, its host's clock, and the kernel's report on
//! that clock. Tests substitute another machine.

use std::time::Duration;

use tickstorm_timebase::{Clock, HostClock, HostReading, Mono, SystemClock, SystemHost};

use crate::discipline::Discipline;

/// Everything that a clock reads from its machine.
pub trait Machine: Clock + HostClock + Send + Sync + 'static {
    /// Returns how far the host's clock can be trusted.
    fn discipline(&self) -> Discipline;
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThisMachine {
    host: SystemHost,
}

impl ThisMachine {
    pub(crate) const fn new(skew_ms: i64) -> Self {
        Self {
            host: SystemHost::new(skew_ms),
        }
    }
}

impl Clock for ThisMachine {
    fn now(&self) -> Mono {
        SystemClock.now()
    }

    fn suspended(&self) -> Duration {
        SystemClock.suspended()
    }
}

impl HostClock for ThisMachine {
    fn read(&self) -> HostReading {
        self.host.read()
    }
}

impl Machine for ThisMachine {
    fn discipline(&self) -> Discipline {
        Discipline::of_kernel()
    }
}
