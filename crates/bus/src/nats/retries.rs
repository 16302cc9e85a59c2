//! [`Retries`]: which server is tried next, and when. Each server has a back-off of its own, so
//! that a server that refuses or is away delays no attempt at another one, and a long list of
//! servers makes none of them wait longer. It does no I/O and reads no clock; the caller draws the
//! jitter.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// The first pause: short, since most outages are a server's restart.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause after a failure of the network: a process is back within about a second of its
/// server's return.
const UNREACHABLE_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest pause after a refusal: a person has to put the login right, and each attempt writes
/// a line into the server's log.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A connection that lasts this long has worked, and its end begins a new outage. One that ends
/// sooner counts as a failure, so that the back-off also holds for a server that accepts
/// connections and drops them.
pub(super) const STAYS_AFTER: Duration = Duration::from_secs(10);

/// Why an attempt at a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// Nothing answered, or the connection broke.
    Unreachable,
    /// The server or this process turned the other down: a login, a certificate, a limit.
    Refused,
}

/// The next attempt at each server.
#[derive(Debug)]
pub(super) struct Retries {
    turns: Vec<ServerTurn>,
}

/// The next attempt at one server. The two kinds of failures are counted separately and neither
/// resets the other, so that a server that alternates between them is not tried more often.
#[derive(Clone, Copy, Debug)]
struct ServerTurn {
    due: Mono,
    unreachable: u32,
    refused: u32,
}

impl Retries {
    /// Every server is due at `now`, in the order of the list.
    pub(super) fn new(servers: usize, now: Mono) -> Self {
        let turn = ServerTurn {
            due: now,
            unreachable: 0,
            refused: 0,
        };
        Self {
            turns: vec![turn; servers],
        }
    }

    /// The server to try next, and when; none if the list is empty.
    pub(super) fn next(&self) -> Option<(usize, Mono)> {
        let turns = self.turns.iter().map(|turn| turn.due).enumerate();
        turns.min_by_key(|&(_, due)| due)
    }

    /// An attempt at `server` failed. `jitter` is random, from 0 to 1.
    pub(super) fn handle_setback(
        &mut self,
        server: usize,
        setback: Setback,
        now: Mono,
        jitter: f64,
    ) {
        let turn = &mut self.turns[server];
        let (failures, longest) = match setback {
            Setback::Unreachable => (&mut turn.unreachable, UNREACHABLE_PAUSE_MAX),
            Setback::Refused => (&mut turn.refused, REFUSED_PAUSE_MAX),
        };
        *failures = failures.saturating_add(1);
        turn.due = now + pause(*failures, longest, jitter);
    }

    /// A connection to `server` ended that had lasted for `lasted`. No server is due at once, so
    /// that all the processes that lost the same server don't arrive at the next one in the same
    /// instant. Each call of `jitter` gives another random number from 0 to 1.
    pub(super) fn handle_loss(
        &mut self,
        server: usize,
        lasted: Duration,
        now: Mono,
        mut jitter: impl FnMut() -> f64,
    ) {
        if lasted >= STAYS_AFTER {
            *self = Self::new(self.turns.len(), now);
        } else {
            self.handle_setback(server, Setback::Unreachable, now, jitter());
        }
        for turn in &mut self.turns {
            let earliest = now + pause(1, PAUSE_MIN, jitter());
            turn.due = turn.due.max(earliest);
        }
    }
}

/// The pause after `failures` in a row: it doubles with each failure up to `longest`, and `jitter`
/// takes away up to half of it.
fn pause(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1);
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    let whole = PAUSE_MIN.saturating_mul(factor).min(longest);
    whole.mul_f64(1.0 - jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono::from_nanos(7_000_000_000);

    /// The moment and the server of each attempt within `within`, if each fails at once as `fails`
    /// says.
    fn attempts(
        servers: usize,
        within: Duration,
        jitter: f64,
        mut fails: impl FnMut(usize) -> Setback,
    ) -> Vec<(Duration, usize)> {
        let mut retries = Retries::new(servers, START);
        let mut attempts = Vec::new();
        loop {
            let (server, due) = retries.next().unwrap();
            if due.since(START) > within {
                return attempts;
            }
            attempts.push((due.since(START), server));
            retries.handle_setback(server, fails(server), due, jitter);
        }
    }

    fn pauses(attempts: &[(Duration, usize)], of: usize) -> Vec<u128> {
        let times: Vec<_> = attempts
            .iter()
            .filter(|&&(_, server)| server == of)
            .collect();
        let pairs = times.windows(2);
        pairs
            .map(|pair| (pair[1].0 - pair[0].0).as_millis())
            .collect()
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_network_failure_is_retried_soon_at_first_and_after_at_most_a_second_for_ever() {
        let tried = attempts(1, HOUR, 0.0, |_| Setback::Unreachable);
        let pauses = pauses(&tried, 0);
        assert_eq!(pauses[..6], [100, 200, 400, 800, 1_000, 1_000]);
        assert!(pauses[4..].iter().all(|&pause| pause == 1_000));
    }

    #[test]
    fn a_refused_login_is_retried_soon_at_first_and_then_every_five_seconds() {
        let tried = attempts(1, HOUR, 0.0, |_| Setback::Refused);
        let pauses = pauses(&tried, 0);
        assert_eq!(
            pauses[..8],
            [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]
        );
        assert!(pauses[6..].iter().all(|&pause| pause == 5_000));
    }

    #[test]
    fn jitter_takes_up_to_half_away_and_adds_nothing() {
        for jitter in [0.0, 0.3, 0.5, 0.999, 1.0] {
            for failures in [0, 1, 2, 5, 31, 32, 33, u32::MAX] {
                for longest in [UNREACHABLE_PAUSE_MAX, REFUSED_PAUSE_MAX] {
                    let (whole, pause) = (
                        pause(failures, longest, 0.0),
                        pause(failures, longest, jitter),
                    );
                    assert!(
                        whole / 2 <= pause && pause <= whole && whole <= longest,
                        "{pause:?} of {whole:?}, at most {longest:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_server_is_tried_at_once_and_none_waits_longer_or_is_asked_more_often_for_the_others() {
        let alone = attempts(1, HOUR, 0.0, |_| Setback::Unreachable);
        let tried = attempts(5, HOUR, 0.0, |_| Setback::Unreachable);
        let first: Vec<_> = tried[..5]
            .iter()
            .map(|&(at, server)| (at.as_millis(), server))
            .collect();
        assert_eq!(first, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]);
        for server in 0..5 {
            assert_eq!(pauses(&tried, server), pauses(&alone, 0));
        }
    }

    #[test]
    fn a_server_that_refuses_neither_slows_down_the_others_nor_is_hurried_by_them() {
        let fails = |server| [Setback::Refused, Setback::Unreachable][server];
        let tried = attempts(2, HOUR, 0.0, fails);
        assert_eq!(pauses(&tried, 0)[6..9], [5_000, 5_000, 5_000]);
        assert_eq!(pauses(&tried, 1)[4..7], [1_000, 1_000, 1_000]);
    }

    #[test]
    fn a_server_that_fails_in_turns_this_way_and_that_way_is_tried_no_more_often() {
        let mut turns = 0;
        let tried = attempts(1, HOUR, 0.0, |_| {
            turns += 1;
            [Setback::Refused, Setback::Unreachable][turns % 2]
        });
        let late = &pauses(&tried, 0)[20..];
        assert!(late.iter().all(|&pause| pause >= 1_000), "{late:?}");
    }

    #[test]
    fn a_connection_that_stayed_begins_anew_and_one_that_was_dropped_at_once_does_not() {
        let mut retries = Retries::new(1, START);
        for _ in 0..10 {
            retries.handle_setback(0, Setback::Refused, START, 0.0);
            retries.handle_setback(0, Setback::Unreachable, START, 0.0);
        }
        let mut now = START;
        for _ in 0..100 {
            retries.handle_loss(0, STAYS_AFTER / 2, now, || 0.0);
            let (_, due) = retries.next().unwrap();
            assert_eq!(due.since(now), UNREACHABLE_PAUSE_MAX, "flapping");
            now = due;
        }
        retries.handle_loss(0, STAYS_AFTER, now, || 0.0);
        let (_, due) = retries.next().unwrap();
        assert_eq!(due.since(now), PAUSE_MIN);
        retries.handle_setback(0, Setback::Unreachable, due, 0.0);
        let (_, next) = retries.next().unwrap();
        assert_eq!(
            next.since(due),
            PAUSE_MIN,
            "the first failure of a new outage"
        );
    }

    #[test]
    fn after_a_loss_nobody_is_tried_in_that_instant_and_the_others_come_before_what_flaps() {
        let mut retries = Retries::new(3, START);
        let mut jitters = [0.0, 0.2, 0.4, 0.6].into_iter();
        retries.handle_loss(0, Duration::ZERO, START, || jitters.next().unwrap());
        retries.handle_loss(0, Duration::ZERO, START, || 0.5);
        let mut order = Vec::new();
        for _ in 0..3 {
            let (server, due) = retries.next().unwrap();
            assert!(due >= START + PAUSE_MIN / 2, "{:?}", due.since(START));
            order.push(server);
            retries.handle_setback(server, Setback::Refused, due + HOUR, 0.0);
        }
        assert_eq!(order, [2, 1, 0]);
    }
}
