//! The schedule of time requests, and the requests whose answers still count. It knows which rounds
//! were answered, but nothing of the answers' contents.

use std::collections::VecDeque;
use std::time::Duration;

use crate::mono::Mono;
use crate::status::RoundCounts;

/// The number of rounds in a burst, while the time is not known: enough for a good sample within
/// half a second.
pub(crate) const BURST_ROUNDS: u32 = 8;
/// The interval between the rounds of a burst.
const BURST_INTERVAL: Duration = Duration::from_millis(50);
/// The interval between rounds otherwise.
const INTERVAL: Duration = Duration::from_secs(1);
/// The number of requests remembered for late answers; more than can be in flight at any tolerance
/// up to 10 s.
const ROUNDS_MAX: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Round {
    nonce: u64,
    asked: Mono,
    is_answered: bool,
}

/// The last requests, and when the next one is due.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// The time from a request to the end of its round.
    duration: Duration,
    asked: VecDeque<Round>,
    /// The number of entries in `asked`, counted from the newest, whose rounds have not ended.
    open: usize,
    next_nonce: u64,
    next_request: Mono,
    burst_left: u32,
    /// The number of rounds that have ended without an answer since the last that had one.
    unanswered: u32,
    counts: RoundCounts,
}

impl Rounds {
    /// Creates rounds that each end `duration` after their request; the first is due at `now`.
    pub(crate) fn new(first_nonce: u64, duration: Duration, now: Mono) -> Self {
        Self {
            duration,
            asked: VecDeque::new(),
            open: 0,
            next_nonce: first_nonce,
            next_request: now,
            burst_left: BURST_ROUNDS,
            unanswered: 0,
            counts: RoundCounts::default(),
        }
    }

    /// Starts again with a burst.
    pub(crate) fn restart(&mut self, now: Mono) {
        self.next_request = now;
        self.burst_left = BURST_ROUNDS;
    }

    /// Starts a burst, unless one is under way.
    pub(crate) fn ensure_burst(&mut self, now: Mono) {
        if self.burst_left == 0 {
            self.restart(now);
        }
    }

    /// Returns when the next request is due.
    pub(crate) const fn next_request(&self) -> Mono {
        self.next_request
    }

    /// Starts a round if one is due, and returns its number.
    pub(crate) fn ask(&mut self, now: Mono) -> Option<u64> {
        if now < self.next_request {
            return None;
        }
        let nonce = self.next_nonce;
        self.next_nonce = nonce.wrapping_add(1);
        self.burst_left = self.burst_left.saturating_sub(1);
        self.next_request = now
            + if self.burst_left > 0 {
                BURST_INTERVAL
            } else {
                INTERVAL
            };
        if self.asked.len() == ROUNDS_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(Round {
            nonce,
            asked: now,
            is_answered: false,
        });
        self.open = (self.open + 1).min(self.asked.len());
        Some(nonce)
    }

    /// Returns when the next round ends, or [`Mono::NEVER`] if none is open.
    pub(crate) fn next_end(&self) -> Mono {
        self.oldest_open()
            .map_or(Mono::NEVER, |round| round.asked + self.duration)
    }

    /// Ends the oldest round if it is due, and returns the moment of its request.
    pub(crate) fn end(&mut self, now: Mono) -> Option<Mono> {
        let round = self
            .oldest_open()
            .filter(|round| round.asked + self.duration <= now)?;
        self.open -= 1;
        if round.is_answered {
            self.unanswered = 0;
            self.counts.answered += 1;
        } else {
            self.unanswered = self.unanswered.saturating_add(1);
            self.counts.unanswered += 1;
        }
        Some(round.asked)
    }

    /// Returns how many rounds have ended.
    pub(crate) const fn counts(&self) -> RoundCounts {
        self.counts
    }

    /// Notes that the request with this number was answered in time.
    pub(crate) fn note_answer(&mut self, nonce: u64) {
        let mut rounds = self.asked.iter_mut().rev();
        if let Some(round) = rounds.find(|round| round.nonce == nonce) {
            round.is_answered = true;
        }
    }

    /// Returns whether at least `number` rounds have ended without an answer since the last that
    /// had one. If so, counting starts again.
    pub(crate) fn take_unanswered(&mut self, number: u32) -> bool {
        let are_enough = self.unanswered >= number;
        if are_enough {
            self.unanswered = 0;
        }
        are_enough
    }

    /// Returns when the request with this number was made, and when its round ends, after which
    /// answers no longer count.
    pub(crate) fn find(&self, nonce: u64) -> Option<(Mono, Mono)> {
        let round = self.asked.iter().rev().find(|round| round.nonce == nonce)?;
        Some((round.asked, round.asked + self.duration))
    }

    fn oldest_open(&self) -> Option<Round> {
        self.asked.get(self.asked.len() - self.open).copied()
    }
}
