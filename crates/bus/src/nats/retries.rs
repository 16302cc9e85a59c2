//! [`Retries`]: which server to try next, and when. Each server has its own backoff, so that an
//! unreachable or refusing server does not delay attempts at the others, and a long list of servers
//! does not make any of them wait longer. A server over which nothing came back is tried again
//! after all others. It does no I/O and reads no clock; the caller supplies the jitter.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// The first pause. It is short, since most outages are a server's restart.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The maximum pause after a network failure: a process is connected again within about a second of
/// its server's return.
const UNREACHABLE_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The maximum pause after a refusal: a person has to fix the login, and each attempt writes a line
/// to the server's log.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The time after which a connection counts as having worked, so that its loss starts a new outage.
/// A shorter connection counts as a failure, so that the backoff also applies to a server that
/// accepts connections and drops them.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The kind of a failed attempt at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server did not answer, or the connection broke.
    Unreachable,
    /// The server rejected this process, or this process rejected the server, because of a login, a
    /// certificate or a limit.
    Refused,
}

/// The next attempt at each server.
#[derive(Debug)]
pub(super) struct Retries {
    by_server: Vec<ServerRetry>,
}

/// The next attempt at one server. The two kinds of failures are counted separately and neither
/// resets the other, so that a server that alternates between them is not tried more often.
#[derive(Clone, Copy, Debug)]
struct ServerRetry {
    due: Mono,
    unreachable: u32,
    refused: u32,
    /// The number of connections that brought nothing, since one to any server did.
    silent: u32,
}

impl Retries {
    /// Creates retries in which every server is due at `now`, in the order of the list.
    pub(super) fn new(servers: usize, now: Mono) -> Self {
        Self {
            by_server: vec![ServerRetry::due_at(now); servers],
        }
    }

    /// Returns the server to try next, and when, or `None` if the list is empty.
    pub(super) fn next(&self) -> Option<(usize, Mono)> {
        self.next_besides(&[])
    }

    /// Returns the server to try next, and when, leaving out those in `busy`.
    pub(super) fn next_besides(&self, busy: &[usize]) -> Option<(usize, Mono)> {
        let due_times = self.by_server.iter().map(|retry| retry.due).enumerate();
        due_times
            .filter(|(server, _)| !busy.contains(server))
            .min_by_key(|&(_, due)| due)
    }

    /// Handles a failed attempt at `server`. `jitter` is random, from 0 to 1.
    pub(super) fn handle_failure(
        &mut self,
        server: usize,
        kind: FailureKind,
        now: Mono,
        jitter: f64,
    ) {
        let retry = &mut self.by_server[server];
        let (failures, longest) = match kind {
            FailureKind::Unreachable => (&mut retry.unreachable, UNREACHABLE_PAUSE_MAX),
            FailureKind::Refused => (&mut retry.refused, REFUSED_PAUSE_MAX),
        };
        *failures = failures.saturating_add(1);
        retry.due = now + pause(*failures, longest, jitter);
    }

    /// Handles the loss of a connection to `server` that had lasted for `lasted`. No server is due
    /// immediately, so that processes that lost the same server do not arrive at the next one in
    /// the same instant. Each call of `jitter` must return another random number from 0 to 1.
    pub(super) fn handle_loss(
        &mut self,
        server: usize,
        lasted: Duration,
        now: Mono,
        mut jitter: impl FnMut() -> f64,
    ) {
        if lasted >= STABLE_AFTER {
            for retry in &mut self.by_server {
                *retry = ServerRetry {
                    silent: retry.silent,
                    ..ServerRetry::due_at(now)
                };
            }
        } else {
            self.handle_failure(server, FailureKind::Unreachable, now, jitter());
        }
        self.postpone(now, jitter);
    }

    /// Handles that a connection to `server` was given up because nothing came back over it. The
    /// next server is one that was least often given up. The others are tried a second later, in
    /// case that it can't be reached.
    pub(super) fn handle_silence(&mut self, server: usize, now: Mono, jitter: impl FnMut() -> f64) {
        let silent = &mut self.by_server[server].silent;
        *silent = silent.saturating_add(1);
        let others = self.by_server.iter().enumerate();
        let others = others.filter(|&(other, _)| other != server);
        let least = others.map(|(_, retry)| retry.silent).min();
        for (index, retry) in self.by_server.iter_mut().enumerate() {
            let is_next = index != server && Some(retry.silent) == least;
            if least.is_some() && !is_next {
                retry.due = retry.due.max(now + UNREACHABLE_PAUSE_MAX);
            }
        }
        self.postpone(now, jitter);
    }

    /// Handles that a connection has brought what it must.
    pub(super) fn handle_sign(&mut self) {
        for retry in &mut self.by_server {
            retry.silent = 0;
        }
    }

    /// Returns the number of connections that brought nothing, since one did.
    pub(super) fn silent_links(&self) -> u32 {
        let links = self.by_server.iter().map(|retry| retry.silent);
        links.fold(0, u32::saturating_add)
    }

    /// Makes no server due immediately.
    fn postpone(&mut self, now: Mono, mut jitter: impl FnMut() -> f64) {
        for retry in &mut self.by_server {
            let earliest = now + pause(1, PAUSE_MIN, jitter());
            retry.due = retry.due.max(earliest);
        }
    }
}

impl ServerRetry {
    const fn due_at(due: Mono) -> Self {
        Self {
            due,
            unreachable: 0,
            refused: 0,
            silent: 0,
        }
    }
}

/// Returns the pause after `failures` consecutive failures: it doubles with each failure up to
/// `longest`, and `jitter` reduces it by up to half.
fn pause(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1);
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    let full = PAUSE_MIN.saturating_mul(factor).min(longest);
    full.mul_f64(1.0 - jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Mono = Mono::from_nanos(7_000_000_000);

    /// Returns the moment and the server of each attempt within `within`, if each attempt fails
    /// immediately with the kind that `fails` returns.
    fn attempts(
        servers: usize,
        within: Duration,
        jitter: f64,
        mut fails: impl FnMut(usize) -> FailureKind,
    ) -> Vec<(Duration, usize)> {
        let mut retries = Retries::new(servers, START);
        let mut attempts = Vec::new();
        loop {
            let (server, due) = retries.next().unwrap();
            if due.since(START) > within {
                return attempts;
            }
            attempts.push((due.since(START), server));
            retries.handle_failure(server, fails(server), due, jitter);
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
    fn a_network_failure_is_retried_indefinitely_with_pauses_from_100_ms_to_1_s() {
        let tried = attempts(1, HOUR, 0.0, |_| FailureKind::Unreachable);
        let pauses = pauses(&tried, 0);
        assert_eq!(pauses[..6], [100, 200, 400, 800, 1_000, 1_000]);
        assert!(pauses[4..].iter().all(|&pause| pause == 1_000));
    }

    #[test]
    fn a_refused_login_is_retried_indefinitely_with_pauses_from_100_ms_to_5_s() {
        let tried = attempts(1, HOUR, 0.0, |_| FailureKind::Refused);
        let pauses = pauses(&tried, 0);
        assert_eq!(
            pauses[..8],
            [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]
        );
        assert!(pauses[6..].iter().all(|&pause| pause == 5_000));
    }

    #[test]
    fn jitter_reduces_a_pause_by_up_to_half_and_never_extends_it() {
        for jitter in [0.0, 0.3, 0.5, 0.999, 1.0] {
            for failures in [0, 1, 2, 5, 31, 32, 33, u32::MAX] {
                for longest in [UNREACHABLE_PAUSE_MAX, REFUSED_PAUSE_MAX] {
                    let (full, pause) = (
                        pause(failures, longest, 0.0),
                        pause(failures, longest, jitter),
                    );
                    assert!(
                        full / 2 <= pause && pause <= full && full <= longest,
                        "{pause:?} of {full:?}, at most {longest:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_server_is_tried_immediately_and_has_a_backoff_independent_of_the_others() {
        let alone = attempts(1, HOUR, 0.0, |_| FailureKind::Unreachable);
        let tried = attempts(5, HOUR, 0.0, |_| FailureKind::Unreachable);
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
    fn a_refusing_server_neither_delays_the_others_nor_is_tried_more_often() {
        let fails = |server| [FailureKind::Refused, FailureKind::Unreachable][server];
        let tried = attempts(2, HOUR, 0.0, fails);
        assert_eq!(pauses(&tried, 0)[6..9], [5_000, 5_000, 5_000]);
        assert_eq!(pauses(&tried, 1)[4..7], [1_000, 1_000, 1_000]);
    }

    #[test]
    fn a_server_that_alternates_between_failures_is_not_tried_more_often() {
        let mut tries = 0;
        let tried = attempts(1, HOUR, 0.0, |_| {
            tries += 1;
            [FailureKind::Refused, FailureKind::Unreachable][tries % 2]
        });
        let late = &pauses(&tried, 0)[20..];
        assert!(late.iter().all(|&pause| pause >= 1_000), "{late:?}");
    }

    #[test]
    fn only_a_connection_that_lasted_resets_the_backoff() {
        let mut retries = Retries::new(1, START);
        for _ in 0..10 {
            retries.handle_failure(0, FailureKind::Refused, START, 0.0);
            retries.handle_failure(0, FailureKind::Unreachable, START, 0.0);
        }
        let mut now = START;
        for _ in 0..100 {
            retries.handle_loss(0, STABLE_AFTER / 2, now, || 0.0);
            let (_, due) = retries.next().unwrap();
            assert_eq!(due.since(now), UNREACHABLE_PAUSE_MAX, "flapping");
            now = due;
        }
        retries.handle_loss(0, STABLE_AFTER, now, || 0.0);
        let (_, due) = retries.next().unwrap();
        assert_eq!(due.since(now), PAUSE_MIN);
        retries.handle_failure(0, FailureKind::Unreachable, due, 0.0);
        let (_, next) = retries.next().unwrap();
        assert_eq!(
            next.since(due),
            PAUSE_MIN,
            "the first failure of a new outage"
        );
    }

    #[test]
    fn after_a_loss_no_server_is_due_immediately_and_the_flapping_one_comes_last() {
        let mut retries = Retries::new(3, START);
        let mut jitters = [0.0, 0.2, 0.4, 0.6].into_iter();
        retries.handle_loss(0, Duration::ZERO, START, || jitters.next().unwrap());
        retries.handle_loss(0, Duration::ZERO, START, || 0.5);
        let mut order = Vec::new();
        for _ in 0..3 {
            let (server, due) = retries.next().unwrap();
            assert!(due >= START + PAUSE_MIN / 2, "{:?}", due.since(START));
            order.push(server);
            retries.handle_failure(server, FailureKind::Refused, due + HOUR, 0.0);
        }
        assert_eq!(order, [2, 1, 0]);
    }

    /// Returns the servers in the order in which they are tried, if each of these is given up, one
    /// second apart.
    fn order_of_silent(servers: usize, links: usize) -> Vec<usize> {
        let mut retries = Retries::new(servers, START);
        let mut now = START;
        let mut order = Vec::new();
        for _ in 0..links {
            let (server, due) = retries.next().unwrap();
            now = now.max(due) + Duration::from_secs(5);
            order.push(server);
            retries.handle_silence(server, now, || 0.5);
            assert!(retries.next().unwrap().1 <= now + PAUSE_MIN);
        }
        order
    }

    #[test]
    fn silent_servers_are_tried_in_turn() {
        assert_eq!(order_of_silent(1, 3), [0, 0, 0]);
        assert_eq!(order_of_silent(2, 5), [0, 1, 0, 1, 0]);
        let of_three = order_of_silent(3, 9);
        for round in of_three.chunks(3) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2], "{of_three:?}");
        }
        assert!(
            of_three.windows(2).all(|pair| pair[0] != pair[1]),
            "{of_three:?}"
        );
    }

    #[test]
    fn a_silent_server_is_tried_again_after_a_second_if_the_others_cannot_be_reached() {
        let mut retries = Retries::new(2, START);
        retries.handle_silence(0, START, || 0.5);
        let (server, due) = retries.next().unwrap();
        assert_eq!(server, 1);
        retries.handle_failure(1, FailureKind::Refused, due, 0.0);
        let mut tried = vec![server];
        while tried.last() == Some(&1) {
            let (server, due) = retries.next().unwrap();
            assert!(due <= START + UNREACHABLE_PAUSE_MAX);
            tried.push(server);
            retries.handle_failure(server, FailureKind::Refused, due, 0.0);
        }
        assert_eq!(tried.last(), Some(&0));
    }

    #[test]
    fn silence_does_not_make_a_refusing_server_be_tried_more_often_until_something_came_back() {
        let mut retries = Retries::new(2, START);
        for _ in 0..10 {
            retries.handle_failure(1, FailureKind::Refused, START, 0.0);
        }
        retries.handle_silence(0, START, || 0.5);
        assert_eq!(retries.silent_links(), 1);
        let (server, due) = retries.next().unwrap();
        assert_eq!((server, due), (0, START + UNREACHABLE_PAUSE_MAX));
        retries.handle_sign();
        assert_eq!(retries.silent_links(), 0);
    }
}
