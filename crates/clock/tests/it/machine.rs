//! A machine that runs on tokio's time, which tests can pause.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tickstorm_clock::{Discipline, Machine};
use tickstorm_timebase::{Clock, HostClock, HostReading, Mono, UnixTime};
use tokio::time::Instant;

pub(crate) struct TestMachine {
    start: Instant,
    /// Unix time at its start, including all steps of the host's clock.
    real_minus_mono_ns: AtomicI64,
    discipline: Mutex<Discipline>,
    /// The duration of each query of the kernel. `taken_ns` is the total of all queries, which
    /// tokio's time does not include.
    kernel_takes_ns: AtomicI64,
    taken_ns: AtomicI64,
}

impl TestMachine {
    pub(crate) fn new(start_ms: i64) -> Self {
        let discipline = Discipline {
            synchronized: false,
            clock_error_us: 16_000_000,
        };
        Self {
            start: Instant::now(),
            real_minus_mono_ns: AtomicI64::new(start_ms * 1_000_000),
            discipline: Mutex::new(discipline),
            kernel_takes_ns: AtomicI64::new(0),
            taken_ns: AtomicI64::new(0),
        }
    }

    pub(crate) fn unix_ms(&self) -> i64 {
        self.read().unix.as_millis()
    }

    pub(crate) fn step_us(&self, by_us: i64) {
        self.real_minus_mono_ns
            .fetch_add(by_us * 1_000, Ordering::SeqCst);
    }

    pub(crate) fn set_kernel_takes_us(&self, us: i64) {
        self.kernel_takes_ns.store(us * 1_000, Ordering::SeqCst);
    }

    fn elapsed(&self) -> Duration {
        let taken_ns = self.taken_ns.load(Ordering::SeqCst).unsigned_abs();
        self.start.elapsed() + Duration::from_nanos(taken_ns)
    }

    pub(crate) fn set_discipline(&self, discipline: Discipline) {
        *self
            .discipline
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = discipline;
    }
}

impl Clock for TestMachine {
    fn now(&self) -> Mono {
        Mono::ZERO + self.elapsed()
    }

    fn suspended(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostClock for TestMachine {
    fn read(&self) -> HostReading {
        let real_minus_mono_ns = self.real_minus_mono_ns.load(Ordering::SeqCst);
        let offset = UnixTime::from_nanos(real_minus_mono_ns);
        HostReading {
            unix: offset.saturating_add(self.elapsed()),
            real_minus_mono_ns,
        }
    }
}

impl Machine for TestMachine {
    fn discipline(&self) -> Discipline {
        self.taken_ns.fetch_add(
            self.kernel_takes_ns.load(Ordering::SeqCst),
            Ordering::SeqCst,
        );
        *self
            .discipline
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
