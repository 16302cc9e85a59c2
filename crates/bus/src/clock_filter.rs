//! [`ClockFilter`]: whose messages an edge reads, and how many of them, so that one clock's flood
//! crowds out no other clock. It decides by the clock's id in the subject, before the message is
//! decoded.

use std::collections::BTreeMap;
use std::time::Duration;

use tickstorm_timebase::{ClockId, Mono};

use crate::message::DropReason;
use crate::rate::{Rate, TokenBucket};

/// The rate at which one clock's announcements are read. A clock announces about once per second.
/// The burst is what may wait for an edge that was stopped for two minutes, after which NATS drops
/// its connection.
const ANNOUNCEMENTS: Rate = Rate::per_second(10, 128);

/// The rate at which one clock's answers are read. An edge asks once per second, and a clock never
/// answers more than 50 times. The burst is what may arrive at once after a stall of the network.
const ANSWERS: Rate = Rate::per_second(50, 50);

/// The number of clocks that have rates of their own if the clocks are not configured. All others
/// share one.
const CLOCKS_MAX: usize = 64;

/// The time after which a clock that is silent makes room for another one.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// What an edge gets from a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockMessage {
    Announcement,
    Answer,
}

/// The number of messages that may still be read.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    heard: Mono,
    announcements: TokenBucket,
    answers: TokenBucket,
}

/// The clocks that an edge listens to, and what each of them may still send.
#[derive(Debug)]
pub(crate) struct ClockFilter {
    by_id: BTreeMap<ClockId, Budget>,
    are_configured: bool,
    others: Budget,
}

impl ClockFilter {
    /// Creates a filter for these clocks, or for all clocks if there are none.
    pub(crate) fn new(clocks: &[ClockId]) -> Self {
        Self {
            by_id: clocks
                .iter()
                .map(|id| (id.clone(), Budget::default()))
                .collect(),
            are_configured: !clocks.is_empty(),
            others: Budget::default(),
        }
    }

    /// Returns the clock with this id, if it is one of those that the edge listens to. If the
    /// clocks are not configured, these are the first that sent a message.
    pub(crate) fn known(&self, id: &str) -> Option<&ClockId> {
        self.by_id.get_key_value(id).map(|(id, _)| id)
    }

    /// Decides whether to read a message from the clock with this id, and counts it.
    ///
    /// # Errors
    /// Returns the reason if the message must be dropped.
    pub(crate) fn admit(
        &mut self,
        id: &str,
        kind: ClockMessage,
        now: Mono,
    ) -> Result<(), DropReason> {
        if !self.by_id.contains_key(id) {
            if self.are_configured {
                return Err(DropReason::UnknownClock);
            }
            let id: ClockId = id.parse().map_err(|_| DropReason::Malformed)?;
            self.make_room(now);
            if self.by_id.len() < CLOCKS_MAX {
                self.by_id.insert(id, Budget::default());
            }
        }
        let budget = self.by_id.get_mut(id).unwrap_or(&mut self.others);
        budget.heard = now;
        let (bucket, rate) = match kind {
            ClockMessage::Announcement => (&mut budget.announcements, ANNOUNCEMENTS),
            ClockMessage::Answer => (&mut budget.answers, ANSWERS),
        };
        if bucket.try_take(rate, now) {
            Ok(())
        } else {
            Err(DropReason::RateLimited)
        }
    }

    /// If there is no room for another clock, forgets those that are silent.
    fn make_room(&mut self, now: Mono) {
        if self.by_id.len() >= CLOCKS_MAX {
            self.by_id
                .retain(|_, budget| now.since(budget.heard) < REMEMBERED_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ClockMessage::{Announcement, Answer};
    use super::*;

    const START: Mono = Mono::from_nanos(1_000_000_000_000);

    fn clocks(ids: &[&str]) -> Vec<ClockId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn a_flood_of_one_clock_costs_no_other_clock_and_no_other_kind_a_message() {
        let mut filter = ClockFilter::new(&clocks(&["a", "b"]));
        let mut flooded = 0;
        for ms in 0..10_000 {
            let now = START + Duration::from_millis(ms);
            for _ in 0..100 {
                flooded += u32::from(filter.admit("a", Answer, now).is_ok());
                assert_eq!(
                    filter.admit("c", Answer, now),
                    Err(DropReason::UnknownClock)
                );
            }
            if ms % 50 == 0 {
                assert_eq!(filter.admit("b", Answer, now), Ok(()), "{ms}");
            }
            if ms % 500 == 0 {
                assert_eq!(filter.admit("a", Announcement, now), Ok(()), "{ms}");
                assert_eq!(filter.admit("b", Announcement, now), Ok(()), "{ms}");
            }
        }
        assert!((500..=550).contains(&flooded), "{flooded}");
        assert_eq!(filter.known("a"), Some(&"a".parse().unwrap()));
        assert_eq!(filter.known("c"), None);
    }

    #[test]
    fn without_configured_clocks_those_heard_first_keep_their_rates_beside_made_up_ones() {
        let mut filter = ClockFilter::new(&[]);
        assert_eq!(filter.admit("real", Answer, START), Ok(()));
        for second in 0..100 {
            let now = START + Duration::from_secs(second);
            for number in 0..1_000 {
                let _ = filter.admit(&format!("made-up-{second}-{number}"), Answer, now);
            }
            assert_eq!(filter.admit("real", Answer, now), Ok(()), "{second}");
            assert!(filter.by_id.len() <= CLOCKS_MAX);
        }
        assert_eq!(
            filter.admit("a b", Answer, START),
            Err(DropReason::Malformed)
        );
    }
}
