//! Connecting to the first of several IP addresses that answers, as RFC 8305 describes it ("Happy
//! Eyeballs"): IPv6 and IPv4 alternate, and each attempt starts when the one before it has failed,
//! or 250 ms after it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// The head start of an attempt before the next one begins, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// Returns the addresses in the order in which to try them: those of the two families alternate,
/// beginning with the family of the first, otherwise in the resolver's order, and the order is
/// rotated so that it begins after `last`.
pub(super) fn in_turn(
    found: impl IntoIterator<Item = SocketAddr>,
    last: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let mut families = [VecDeque::new(), VecDeque::new()];
    let mut first_is_v6 = None;
    for address in found {
        let first_is_v6 = *first_is_v6.get_or_insert(address.is_ipv6());
        let family = &mut families[usize::from(address.is_ipv6() != first_is_v6)];
        if !family.contains(&address) {
            family.push_back(address);
        }
    }
    let mut ordered = Vec::new();
    while families.iter().any(|family| !family.is_empty()) {
        ordered.extend(families.iter_mut().filter_map(VecDeque::pop_front));
    }
    if let Some(at) = ordered.iter().position(|&address| Some(address) == last) {
        ordered.rotate_left(at + 1);
    }
    ordered
}

/// Connects to the first of `candidates` that answers. `last` becomes the one that did or, until
/// then, the one that was tried last.
///
/// # Errors
/// The error of the last attempt that failed, if all did.
pub(super) async fn race<S, F>(
    candidates: &[SocketAddr],
    last: &mut Option<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S>
where
    S: Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    let mut attempts = JoinSet::new();
    let mut waiting = candidates.iter();
    loop {
        if let Some(&candidate) = waiting.next() {
            *last = Some(candidate);
            let attempt = connect(candidate);
            attempts.spawn(async move { (candidate, attempt.await) });
        } else if attempts.is_empty() {
            return Err(error);
        }
        let is_last = waiting.as_slice().is_empty();
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok((candidate, Ok(socket))) => {
                    *last = Some(candidate);
                    return Ok(socket);
                }
                Ok((_, Err(failed))) => error = failed,
                Err(failed) => error = io::Error::other(failed),
            },
            () = sleep(HEAD_START), if !is_last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    fn v4(host: u8) -> SocketAddr {
        ([192, 0, 2, host], 8_080).into()
    }

    fn v6(host: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 8_080).into()
    }

    #[test]
    fn families_alternate_and_the_order_begins_after_the_last_address() {
        let found = [v6(1), v6(2), v6(1), v4(1), v4(2), v4(3)];
        let order = in_turn(found, None);
        assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v4(3)]);
        let order = in_turn(found, Some(v6(2)));
        assert_eq!(order, [v4(2), v4(3), v6(1), v4(1), v6(2)]);
        assert_eq!(in_turn([v4(1)], Some(v4(1))), [v4(1)]);
        assert_eq!(in_turn([v4(2), v4(1)], Some(v4(9))), [v4(2), v4(1)]);
        assert_eq!(in_turn([], Some(v4(1))), []);
    }

    /// How an address behaves: after how many milliseconds it answers, and whether it accepts.
    type Behaviour = fn(SocketAddr) -> (u64, bool);

    /// Races to these addresses. Returns the winner, when each attempt began, the duration in
    /// milliseconds, and the last address.
    async fn raced(
        candidates: &[SocketAddr],
        behaviour: Behaviour,
    ) -> (Option<SocketAddr>, Vec<u128>, u128, Option<SocketAddr>) {
        let began = Instant::now();
        let (starts, mut last) = (Arc::new(Mutex::new(Vec::new())), None);
        let won = race(candidates, &mut last, |candidate| {
            let starts = Arc::clone(&starts);
            async move {
                starts.lock().unwrap().push(began.elapsed().as_millis());
                let (after_ms, accepts) = behaviour(candidate);
                sleep(Duration::from_millis(after_ms)).await;
                if accepts {
                    Ok(candidate)
                } else {
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
            }
        });
        let won = won.await.ok();
        let starts = starts.lock().unwrap().clone();
        (won, starts, began.elapsed().as_millis(), last)
    }

    fn assert_about(actual: &[u128], expected: &[u128]) {
        let is_near = |(actual, expected): (&u128, &u128)| actual.abs_diff(*expected) <= 5;
        assert!(
            actual.len() == expected.len() && actual.iter().zip(expected).all(is_near),
            "{actual:?} instead of {expected:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn three_silent_addresses_cost_750_ms() {
        let all = [v4(1), v4(2), v4(3), v4(4), v4(5)];
        let (won, starts, took, last) =
            raced(&all, |at| (if at == v4(4) { 20 } else { 60_000 }, true)).await;
        assert_eq!((won, last), (Some(v4(4)), Some(v4(4))));
        assert_about(&starts, &[0, 250, 500, 750]);
        assert_about(&[took], &[770]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_dropped_leaves_the_address_that_was_tried_last() {
        let (all, mut last) = ([v4(1), v4(2), v4(3), v4(4), v4(5)], None);
        let silent = race(&all, &mut last, |_| {
            std::future::pending::<io::Result<()>>()
        });
        let limit = Duration::from_millis(600);
        assert!(tokio::time::timeout(limit, silent).await.is_err());
        assert_eq!(last, Some(v4(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_next_address_is_tried_at_once() {
        let all = [v4(1), v4(2), v4(3)];
        let (won, starts, took, _) = raced(&all, |at| (10, at == v4(3))).await;
        assert_eq!(won, Some(v4(3)));
        assert_about(&starts, &[0, 10, 20]);
        assert_about(&[took], &[30]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_still_wins_if_the_others_fail_or_are_slower() {
        let all = [v4(1), v4(2)];
        let (won, _, _, last) = raced(&all, |at| (600, at == v4(1))).await;
        assert_eq!((won, last), (Some(v4(1)), Some(v4(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn if_all_fail_the_last_error_is_returned_and_the_next_attempt_goes_on() {
        let (won, starts, took, last) = raced(&[v4(1), v4(2)], |_| (5, false)).await;
        assert_eq!((won, last), (None, Some(v4(2))));
        assert_about(&starts, &[0, 5]);
        assert_about(&[took], &[10]);
        assert_eq!(raced(&[], |_| (0, true)).await, (None, vec![], 0, None));
    }
}
