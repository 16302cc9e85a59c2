//! [`Evictions`]: counts connections that were closed to keep a bound on memory, remembers when the
//! last one was, and limits how often they are logged, since anyone can cause them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tickstorm_timebase::Mono;

/// The time between log lines, and for which /status shows an alarm.
const PERIOD: Duration = Duration::from_secs(60);

/// The evictions of all shards for one bound.
pub(crate) struct Evictions {
    counter: IntCounter,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    last: Option<Mono>,
    logged: Option<Mono>,
    /// The number of evictions since the last log line.
    not_logged: u64,
}

impl Evictions {
    pub(super) fn new(counter: IntCounter) -> Self {
        Self {
            counter,
            noted: Mutex::default(),
        }
    }

    /// Counts an eviction. If a line may be logged now, returns the number of evictions since the
    /// last line, including this one.
    pub(crate) fn note(&self, now: Mono) -> Option<u64> {
        self.counter.inc();
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.last = Some(now);
        noted.not_logged += 1;
        if noted.logged.is_some_and(|logged| now < logged + PERIOD) {
            return None;
        }
        noted.logged = Some(now);
        Some(std::mem::take(&mut noted.not_logged))
    }

    /// Returns whether there was an eviction within the last minute.
    pub(super) fn is_recent(&self, now: Mono) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.last.is_some_and(|last| now < last + PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_evictions_are_counted_and_a_line_is_logged_once_a_minute() {
        let counter = IntCounter::new("evictions", "Counted.").unwrap();
        let evictions = Evictions::new(counter.clone());
        let at = |seconds| Mono::ZERO + Duration::from_secs(seconds);
        assert!(!evictions.is_recent(at(0)));
        assert_eq!(evictions.note(at(5)), Some(1));
        assert_eq!(evictions.note(at(6)), None);
        assert_eq!(evictions.note(at(64)), None);
        assert_eq!(evictions.note(at(65)), Some(3));
        assert_eq!(counter.get(), 4);
        assert!(evictions.is_recent(at(124)));
        assert!(!evictions.is_recent(at(125)));
    }
}
