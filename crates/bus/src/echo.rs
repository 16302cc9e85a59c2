//! [`EchoLag`]: how far a clock's connection is behind. A message does not say when it was
//! published, and a server that cannot deliver as fast as messages arrive keeps them for seconds.
//! So a clock hears its own announcements: whatever it reads before the echo of one reached the
//! server before that announcement did, and is at least as old.
//!
//! This shows a lower bound of a request's age, which is never too high. After a process was
//! stopped and continued, requests that waited in its socket are read as if they were new: their
//! answers are late, and edges drop them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tickstorm_timebase::Mono;

/// A request that is older than this is dropped: no edge waits that long for an answer.
const AGE_MAX: Duration = Duration::from_secs(2);

/// The number of announcements whose echo is awaited. A clock sends about one per second, and up to
/// twelve at once after a reconnect.
const SENT_MAX: usize = 64;

/// The announcements that a clock sent and has not heard yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EchoLag {
    sent: VecDeque<(Bytes, Mono)>,
    /// How long announcements took from here to here, since [`Self::take_times`].
    times: Vec<Duration>,
    /// Whether any announcement was heard. If not, the login may not permit it.
    is_heard: bool,
}

impl EchoLag {
    /// Notes that an announcement was sent. No echo may have been handled since.
    pub(crate) fn handle_sent(&mut self, payload: Bytes, now: Mono) {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((payload, now));
    }

    /// Notes that an announcement was heard on the clock's own subject. Returns whether it is one
    /// of those that were sent and not heard yet.
    pub(crate) fn handle_heard(&mut self, payload: &[u8], now: Mono) -> bool {
        let Some(index) = self.sent.iter().position(|(sent, _)| sent == payload) else {
            return false;
        };
        let heard = self.sent.drain(..=index).next_back();
        if self.times.len() < SENT_MAX {
            self.times.extend(heard.map(|(_, sent)| now.since(sent)));
        }
        self.is_heard = true;
        true
    }

    /// Returns how long each announcement took that was heard since the last call, at most 64.
    pub(crate) fn take_times(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.times)
    }

    /// Returns whether a request that is read now is known to be older than [`AGE_MAX`].
    pub(crate) fn is_stale(&self, now: Mono) -> bool {
        self.is_heard
            && self
                .sent
                .front()
                .is_some_and(|&(_, sent)| now.since(sent) > AGE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn requests_are_stale_while_an_announcement_older_than_2_s_is_not_heard() {
        let mut lag = EchoLag::default();
        lag.handle_sent(Bytes::from_static(b"a"), at(0));
        assert!(!lag.is_stale(at(9_000)), "the login may not permit an echo");
        assert!(lag.handle_heard(b"a", at(9_000)));
        lag.handle_sent(Bytes::from_static(b"b"), at(10_000));
        lag.handle_sent(Bytes::from_static(b"c"), at(11_000));
        assert!(!lag.is_stale(at(12_000)));
        assert!(lag.is_stale(at(12_001)));
        assert!(!lag.handle_heard(b"forged", at(12_001)));
        assert!(lag.is_stale(at(12_001)));
        lag.handle_heard(b"b", at(12_500));
        assert!(!lag.is_stale(at(13_000)));
        assert!(lag.is_stale(at(13_001)));
        lag.handle_heard(b"c", at(13_500));
        assert!(!lag.is_stale(at(99_000)));
    }

    #[test]
    fn the_time_of_each_announcement_that_came_back_is_reported_once() {
        let mut lag = EchoLag::default();
        for (payload, ms) in [("a", 0), ("lost", 1_000), ("b", 2_000)] {
            lag.handle_sent(Bytes::from(payload), at(ms));
        }
        lag.handle_heard(b"a", at(3));
        lag.handle_heard(b"forged", at(4));
        lag.handle_heard(b"b", at(2_500));
        lag.handle_heard(b"b", at(2_600));
        assert_eq!(lag.take_times(), [3, 500].map(Duration::from_millis));
        assert_eq!(lag.take_times(), [Duration::ZERO; 0]);
    }

    #[test]
    fn a_lost_announcement_does_not_count_once_a_later_one_is_heard() {
        let mut lag = EchoLag::default();
        for (payload, ms) in [("a", 0), ("b", 1_000), ("c", 2_000)] {
            lag.handle_sent(Bytes::from(payload), at(ms));
        }
        lag.handle_heard(b"c", at(2_001));
        assert!(!lag.is_stale(at(99_000)));
    }

    #[test]
    fn the_numbers_of_awaited_echoes_and_of_times_are_bounded() {
        let mut lag = EchoLag::default();
        for _ in 0..10_000 {
            lag.handle_sent(Bytes::from_static(b"a"), at(0));
        }
        assert_eq!(lag.sent.len(), SENT_MAX);
        for _ in 0..10_000 {
            lag.handle_sent(Bytes::from_static(b"a"), at(0));
            lag.handle_heard(b"a", at(1));
        }
        assert_eq!(lag.take_times().len(), SENT_MAX);
    }
}
