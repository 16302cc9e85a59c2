//! [`ClockFilter`]: whose messages an edge reads, and how many of them, so that one clock's flood
//! crowds out no other clock. It decides by the clock's id in the subject, before the message is
//! decoded.

use std::collections::BTreeMap;
use std::time::Duration;

use tickstorm_timebase::{ClockId, Mono};

use crate::message::DropReason;
use crate::pause::Pause;
use crate::rate::{Rate, TokenBucket};

/// The rate at which one clock's announcements are read. A clock announces about once per second.
/// The burst is what may arrive at once after a stall of the network of two minutes. What piled up
/// while this process itself did not read is not measured by it.
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

/// The messages that a clock may still send.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    heard: Mono,
    announcements: Allowance,
    answers: Allowance,
}

/// The messages of one kind that may still be read.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    bucket: TokenBucket,
    /// The time of pauses for which no message has been read yet. In it, messages are earned as at
    /// any other time, so all that is read is within the bucket's rate and one burst.
    paused: Duration,
}

impl Allowance {
    fn try_take(&mut self, rate: Rate, now: Mono) -> bool {
        if let Some(rest) = self.paused.checked_sub(rate.interval) {
            self.paused = rest;
            return true;
        }
        self.bucket.try_take(rate, now)
    }

    fn handle_pause(&mut self, pause: Pause) {
        self.bucket.shift(pause.stalled);
        self.paused += pause.total();
    }
}

impl Budget {
    fn kinds(&mut self) -> [&mut Allowance; 2] {
        [&mut self.announcements, &mut self.answers]
    }
}

/// The clocks that an edge listens to, and what each of them may still send.
#[derive(Debug)]
pub(crate) struct ClockFilter {
    by_id: BTreeMap<ClockId, Budget>,
    are_configured: bool,
    others: Budget,
    /// The pauses that a clock may have had before what it sent in them is read.
    paused: Duration,
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
            paused: Duration::ZERO,
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
                self.by_id.insert(id, self.budget());
            }
        }
        let budget = self.by_id.get_mut(id).unwrap_or(&mut self.others);
        budget.heard = now;
        let (allowance, rate) = match kind {
            ClockMessage::Announcement => (&mut budget.announcements, ANNOUNCEMENTS),
            ClockMessage::Answer => (&mut budget.answers, ANSWERS),
        };
        if allowance.try_take(rate, now) {
            Ok(())
        } else {
            Err(DropReason::RateLimited)
        }
    }

    /// Handles that nothing was read for a while. What is read until [`Self::handle_caught_up`] is
    /// judged as if it had come as evenly as possible during the pause.
    pub(crate) fn handle_pause(&mut self, pause: Pause) {
        self.paused += pause.total();
        for budget in self.budgets() {
            budget.heard = budget.heard + pause.stalled;
            for kind in budget.kinds() {
                kind.handle_pause(pause);
            }
        }
    }

    /// Handles that everything that was sent during pauses has been read: what clocks have not used
    /// of it is forfeit.
    pub(crate) fn handle_caught_up(&mut self) {
        self.paused = Duration::ZERO;
        for budget in self.budgets() {
            for kind in budget.kinds() {
                kind.paused = Duration::ZERO;
            }
        }
    }

    fn budgets(&mut self) -> impl Iterator<Item = &mut Budget> {
        self.by_id.values_mut().chain([&mut self.others])
    }

    /// Returns the budget of a clock that is heard for the first time.
    fn budget(&self) -> Budget {
        let allowance = Allowance {
            paused: self.paused,
            ..Allowance::default()
        };
        Budget {
            announcements: allowance,
            answers: allowance,
            ..Budget::default()
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

    const fn stalled(seconds: u64) -> Pause {
        Pause {
            stalled: Duration::from_secs(seconds),
            suspended: Duration::ZERO,
        }
    }

    /// Returns how many of so many messages are read at `now`.
    fn read(filter: &mut ClockFilter, kind: ClockMessage, count: u32, now: Mono) -> u32 {
        let read = (0..count).filter(|_| filter.admit("a", kind, now).is_ok());
        u32::try_from(read.count()).unwrap()
    }

    #[test]
    fn what_piled_up_while_nothing_was_read_is_no_flood() {
        for configured in [&["a"][..], &[]] {
            for seconds in [8, 30, 150, 3_600] {
                let suspended = Pause {
                    stalled: Duration::ZERO,
                    suspended: Duration::from_secs(seconds),
                };
                for pause in [stalled(seconds), suspended] {
                    let mut filter = ClockFilter::new(&clocks(configured));
                    // In the second case, it is heard for the first time after the pause.
                    let now = START + pause.stalled;
                    filter.handle_pause(pause);
                    // SECOND ticks, MINUTE ticks, and those announced again after a reconnect.
                    let piled_up = u32::try_from(seconds + seconds / 60).unwrap() + 12;
                    for kind in [Announcement, Answer] {
                        let read = read(&mut filter, kind, piled_up, now);
                        assert_eq!(read, piled_up, "{pause:?}");
                    }
                    filter.handle_caught_up();
                    let later = now + Duration::from_secs(1);
                    assert_eq!(read(&mut filter, Announcement, 12, later), 12);
                }
            }
        }
    }

    #[test]
    fn what_piled_up_in_a_network_that_stood_still_for_30_s_is_no_flood() {
        let mut filter = ClockFilter::new(&clocks(&["a"]));
        let mut now = START;
        for seconds in [8, 30, 8, 30] {
            now = now + Duration::from_secs(seconds);
            let piled_up = u32::try_from(seconds).unwrap() + 12;
            assert_eq!(read(&mut filter, Announcement, piled_up, now), piled_up);
            assert_eq!(read(&mut filter, Answer, piled_up, now), piled_up);
        }
    }

    #[test]
    fn a_pause_excuses_no_more_than_the_rate_over_its_time() {
        let mut filter = ClockFilter::new(&clocks(&["a"]));
        assert_eq!(read(&mut filter, Announcement, 1_000, START), 128);
        let now = START + Duration::from_secs(150);
        filter.handle_pause(stalled(150));
        assert_eq!(read(&mut filter, Announcement, 10_000, now), 1_500);
        filter.handle_caught_up();
        let later = now + Duration::from_secs(1);
        assert_eq!(read(&mut filter, Announcement, 1_000, later), 10);
    }

    #[test]
    fn what_a_pause_would_have_excused_is_forfeit_once_all_that_piled_up_is_read() {
        let mut filter = ClockFilter::new(&clocks(&["a"]));
        filter.handle_pause(stalled(150));
        filter.handle_caught_up();
        let now = START + Duration::from_secs(150);
        assert_eq!(read(&mut filter, Announcement, 1_000, now), 128);
    }

    #[test]
    fn a_pause_makes_no_clock_one_that_is_silent() {
        let mut filter = ClockFilter::new(&[]);
        assert_eq!(filter.admit("a", Answer, START), Ok(()));
        filter.handle_pause(stalled(150));
        let now = START + Duration::from_secs(150);
        for number in 0..1_000 {
            let _ = filter.admit(&format!("made-up-{number}"), Answer, now);
        }
        assert!(filter.known("a").is_some());
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
