//! The orderly end of a shard: nobody new comes in, and everybody who is there is sent elsewhere, spread over a time, so that
//! other edges get no crowd. Until its turn a connection is served as ever.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;

use super::Shard;
use super::accept::is_of_one_connection;
use super::closing::LINGER;
use super::connection::Phase;
use super::wheel::{Key, TURN};
use crate::sys::socket::BACKLOG;

/// What the last one closed has of the time: it may take its ERROR as slowly as anybody, and the wheel has to notice.
pub(crate) const TIME_OF_LAST: Duration = LINGER.saturating_add(TURN.saturating_mul(3));
/// How often those whose turn has come are closed: a few each time, in between ticks.
const PACE: Duration = Duration::from_millis(10);
/// Connections closed in a row before others get their turn.
const CHUNK: usize = 64;

/// Who is to be closed by when: evenly over a time.
#[derive(Clone, Copy, Debug)]
struct Spread {
    connections: usize,
    over: Duration,
}

impl Spread {
    /// How many are to be closed once `elapsed` is over.
    fn due(self, elapsed: Duration) -> usize {
        if elapsed >= self.over {
            return self.connections;
        }
        let share = elapsed.as_nanos() * self.connections as u128 / self.over.as_nanos();
        usize::try_from(share).unwrap_or(self.connections)
    }
}

impl Shard {
    /// Refuses all that wait to be accepted, so that closing the listener resets nobody, and closes it.
    pub(super) async fn end_accepting(self: &Rc<Self>, listener: TcpListener) {
        // No more than that can have waited when it began; who connects on and on does not hold it up.
        for number in 1..=usize::from(BACKLOG) {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let permit = self.place();
                    // Without a place in the shard's epoll there is nobody left to tell: it is closed.
                    let _ = self.turn_away(stream, peer, permit, CloseReason::ServerDraining);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => return,
            }
            if number.is_multiple_of(CHUNK) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Closes all connections with SERVER_DRAINING, so that the last one has had its time to read that when `over` is over.
    /// Ends when all are closed.
    pub(super) async fn drain(self: Rc<Self>, over: Duration) {
        self.draining.cancel();
        self.accepting.close();
        self.accepting.wait().await;
        let keys: Vec<Key> = self.all().iter().map(|connection| connection.key).collect();
        let spread = Spread {
            connections: keys.len(),
            over: over.saturating_sub(TIME_OF_LAST),
        };
        let (began, mut closed) = (self.time.mono(), 0);
        while !self.connections.borrow().is_empty() {
            let due = spread.due(self.time.mono().since(began));
            for chunk in keys[closed..due].chunks(CHUNK) {
                for key in chunk {
                    self.close_draining(*key);
                }
                tokio::task::yield_now().await;
            }
            closed = due;
            tokio::time::sleep(PACE).await;
        }
    }

    fn close_draining(self: &Rc<Self>, key: Key) {
        let Some(connection) = self.at(key.slot).filter(|found| found.key == key) else {
            return;
        };
        let is_open = connection.state.borrow().phase == Phase::Open;
        if is_open {
            self.close(&connection, CloseReason::ServerDraining);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_closed_evenly_and_all_of_them_in_time() {
        let spread = Spread {
            connections: 1_000,
            over: Duration::from_secs(19),
        };
        let due = |ms| spread.due(Duration::from_millis(ms));
        assert_eq!(due(0), 0);
        let mut before = 0;
        for ms in (10..=19_000).step_by(10) {
            let now = due(ms);
            assert!((before..=before + 1).contains(&now), "{now} after {before}");
            before = now;
        }
        assert_eq!((due(9_500), due(18_999), due(19_000)), (500, 999, 1_000));
        assert_eq!(due(60_000), 1_000);
    }

    #[test]
    fn without_time_all_are_closed_at_once() {
        for connections in [0, 1, 100_000] {
            let spread = Spread {
                connections,
                over: Duration::ZERO,
            };
            assert_eq!(spread.due(Duration::ZERO), connections);
        }
    }
}
