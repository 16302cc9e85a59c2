//! [`Vitals`]: the state that a shard publishes for health checks and metrics. Only the shard
//! writes it, and reading it interrupts nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tickstorm_timebase::Mono;

/// The state of a shard, as others see it. Times are timebase's `Mono`, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// The time at which the shard last advanced its timer wheel.
    pub(crate) turned: AtomicU64,
    /// The time at which it last released a SECOND tick at its time; 0 if it never has.
    pub(crate) released: AtomicU64,
    /// The time since which it has been sending ticks without a pause; 0 if it sends none.
    pub(crate) sending_since: AtomicU64,
    /// Whether it accepts connections. False while the system has no file descriptor or memory left
    /// for them.
    pub(crate) accepting: AtomicBool,
    /// The time at which the turn in progress began; 0 while it waits.
    pub(crate) turn_began: AtomicU64,
    /// The nanoseconds of the longest of its latest turns.
    pub(crate) longest_turn: AtomicU64,
}

impl Vitals {
    /// Creates the vitals of a shard that starts at `now`.
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            turned: AtomicU64::new(now.as_nanos()),
            released: AtomicU64::new(0),
            sending_since: AtomicU64::new(0),
            accepting: AtomicBool::new(true),
            turn_began: AtomicU64::new(0),
            longest_turn: AtomicU64::new(0),
        }
    }

    /// Returns the length of the longest of the latest turns, including the one in progress at
    /// `now`.
    pub(crate) fn loop_lag(&self, now: Mono) -> Duration {
        let longest = Duration::from_nanos(self.longest_turn.load(Ordering::Relaxed));
        match self.turn_began.load(Ordering::Relaxed) {
            0 => longest,
            began => longest.max(now.since(Mono::from_nanos(began))),
        }
    }
}
