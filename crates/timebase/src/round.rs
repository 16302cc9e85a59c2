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
/// The number of rounds to which nothing came, in a row, that are a silence.
const SILENT_ROUNDS_MIN: u32 = 3;
/// The least duration of a silence. A lost connection is noticed earlier, and answers that take
/// longer are of no use.
const SILENCE_MIN: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Round {
    nonce: u64,
    asked: Mono,
    outcome: Outcome,
}

/// What has become of a request so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing came.
    Silence,
    /// Nothing came, but the request was not sent, or the connection was lost.
    Lost,
    /// An answer came that yielded no sample, such as a late one.
    Heard,
    /// A clock answered in time.
    Answered,
}

/// Rounds in a row to which nothing came.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// The moment of the first request.
    since: Mono,
    rounds: u32,
}

/// The last requests, and when the next one is due.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// The time from a request to the end of its round.
    duration: Duration,
    asked: VecDeque<Round>,
    /// The number of entries in `asked`, counted from the newest, whose rounds have not ended.
    open: usize,
    next_request: Mono,
    burst_left: u32,
    /// The rounds that have ended since the last answer of any kind, if nothing came to them.
    silence: Option<Silence>,
    counts: RoundCounts,
}

impl Rounds {
    /// Creates rounds that each end `duration` after their request; the first is due at `now`.
    pub(crate) fn new(duration: Duration, now: Mono) -> Self {
        Self {
            duration,
            asked: VecDeque::new(),
            open: 0,
            next_request: now,
            burst_left: BURST_ROUNDS,
            silence: None,
            counts: RoundCounts::default(),
        }
    }

    /// Starts again with a burst.
    pub(crate) fn restart(&mut self, now: Mono) {
        self.next_request = now;
        self.burst_left = BURST_ROUNDS;
    }

    /// Makes the next request due at `now`, if it would be later.
    pub(crate) fn hasten(&mut self, now: Mono) {
        self.next_request = self.next_request.min(now);
    }

    /// Forgets all requests, so that no answer to them counts.
    pub(crate) fn forget_requests(&mut self) {
        self.asked.clear();
        self.open = 0;
        self.silence = None;
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

    /// Starts a round if one is due, and returns its number, which `draw` has drawn.
    pub(crate) fn ask(&mut self, now: Mono, draw: impl FnOnce() -> u64) -> Option<u64> {
        if now < self.next_request {
            return None;
        }
        let nonce = draw();
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
            outcome: Outcome::Silence,
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
        match round.outcome {
            Outcome::Answered => self.counts.answered += 1,
            Outcome::Heard | Outcome::Lost => self.counts.unanswered += 1,
            Outcome::Silence => {
                self.counts.unanswered += 1;
                let silence = self.silence.get_or_insert(Silence {
                    since: round.asked,
                    rounds: 0,
                });
                silence.rounds = silence.rounds.saturating_add(1);
            }
        }
        Some(round.asked)
    }

    /// Returns how many rounds have ended.
    pub(crate) const fn counts(&self) -> RoundCounts {
        self.counts
    }

    /// Notes that a clock has answered the request with this number, whether or not it was in time.
    pub(crate) fn note_heard(&mut self, nonce: u64) {
        self.silence = None;
        let unanswered = |round: &&mut Round| round.outcome != Outcome::Answered;
        if let Some(round) = self.find_mut(nonce).filter(unanswered) {
            round.outcome = Outcome::Heard;
        }
    }

    /// Notes that the request with this number was answered in time.
    pub(crate) fn note_answer(&mut self, nonce: u64) {
        self.silence = None;
        if let Some(round) = self.find_mut(nonce) {
            round.outcome = Outcome::Answered;
        }
    }

    /// Notes that requests may not have reached the clocks, so that the silence up to now says
    /// nothing about them.
    pub(crate) fn note_outage(&mut self) {
        self.silence = None;
        for round in self.asked.iter_mut().rev().take(self.open) {
            if round.outcome == Outcome::Silence {
                round.outcome = Outcome::Lost;
            }
        }
    }

    /// Returns whether nothing has come to at least [`SILENT_ROUNDS_MIN`] rounds in a row, for
    /// [`SILENCE_MIN`]. If so, counting starts again.
    pub(crate) fn take_silence(&mut self, now: Mono) -> bool {
        let is_enough = self.silence.is_some_and(|silence| {
            silence.rounds >= SILENT_ROUNDS_MIN && now.since(silence.since) >= SILENCE_MIN
        });
        if is_enough {
            self.silence = None;
        }
        is_enough
    }

    /// Returns when the request with this number was made, and when its round ends, after which
    /// answers no longer count.
    pub(crate) fn find(&self, nonce: u64) -> Option<(Mono, Mono)> {
        let round = self.asked.iter().rev().find(|round| round.nonce == nonce)?;
        Some((round.asked, round.asked + self.duration))
    }

    fn find_mut(&mut self, nonce: u64) -> Option<&mut Round> {
        let mut rounds = self.asked.iter_mut().rev();
        rounds.find(|round| round.nonce == nonce)
    }

    fn oldest_open(&self) -> Option<Round> {
        self.asked.get(self.asked.len() - self.open).copied()
    }
}
