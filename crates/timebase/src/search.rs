//! [`Search`]: how far an edge has come in finding out which clocks there are: at its start, after
//! it has forgotten the time, and, if CLOCKS is not set, after it has forgotten all clocks.

use std::time::Duration;

use crate::mono::Mono;
use crate::round::BURST_ROUNDS;

/// The time after the first answer for which an edge waits for a majority before it settles for the
/// clock with the lowest (rank, id).
const MAJORITY_WAIT: Duration = Duration::from_secs(5);

/// A search for clocks. A majority counts after [`BURST_ROUNDS`] rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    since: Mono,
    /// Whether rounds count only from the first that was answered. If CLOCKS is not set, the number
    /// of clocks shows only in answers, and the first clock to answer is a majority of one.
    counts_from_answer: bool,
    first_answer: Option<FirstAnswer>,
    /// The number of rounds that count and have ended.
    rounds: u32,
}

/// The first answer to a request of the search.
#[derive(Clone, Copy, Debug)]
struct FirstAnswer {
    asked: Mono,
    heard: Mono,
}

impl Search {
    pub(crate) const fn new(counts_from_answer: bool, now: Mono) -> Self {
        Self {
            since: now,
            counts_from_answer,
            first_answer: None,
            rounds: 0,
        }
    }

    /// Notes an answer in time to a request made at `asked`. Returns whether it is the first.
    pub(crate) fn note_answer(&mut self, asked: Mono, now: Mono) -> bool {
        if asked < self.since || self.first_answer.is_some() {
            return false;
        }
        self.first_answer = Some(FirstAnswer { asked, heard: now });
        true
    }

    /// Notes that the round of a request made at `asked` has ended.
    pub(crate) fn note_end(&mut self, asked: Mono) {
        let from = if self.counts_from_answer {
            self.first_answer.map(|first| first.asked)
        } else {
            Some(self.since)
        };
        if from.is_some_and(|from| asked >= from) {
            self.rounds = self.rounds.saturating_add(1);
        }
    }

    /// Returns whether any request of the search was answered.
    pub(crate) const fn is_answered(&self) -> bool {
        self.first_answer.is_some()
    }

    /// Returns whether the edge has waited for a majority for as long as it does.
    pub(crate) fn has_waited(&self, now: Mono) -> bool {
        self.first_answer
            .is_some_and(|first| now.since(first.heard) >= MAJORITY_WAIT)
    }

    /// Returns whether the search is over, so that a majority counts.
    pub(crate) const fn is_over(&self) -> bool {
        self.rounds >= BURST_ROUNDS
    }
}
