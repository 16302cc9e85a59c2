//! The places of connections: the roster of those that are open, and the file descriptors that are
//! reserved for others.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    reserve::Reserve,
    roster::{Busy, ConnectionId, Roster},
};

/// The longest time to wait for a connection to end, before it is decided again which one gives
/// way.
const ENDING_TIME_MAX: Duration = Duration::from_millis(4);

/// The places of all connections.
#[derive(Debug)]
pub(super) struct Places {
    roster: Mutex<Roster>,
    reserve: Mutex<Reserve>,
    /// Notified when a connection has ended.
    ended: Notify,
    connections_max: usize,
}

impl Places {
    /// Creates places for `connections_max` connections, whose clients have at least
    /// `early_time_min` to send their requests, and reserves file descriptors.
    pub(super) fn new(connections_max: usize, early_time_min: Duration) -> Arc<Self> {
        let mut reserve = Reserve::default();
        reserve.keep(connections_max);
        Arc::new(Self {
            roster: Mutex::new(Roster::new(connections_max, early_time_min)),
            reserve: Mutex::new(reserve),
            ended: Notify::new(),
            connections_max,
        })
    }

    /// Takes a place for a new connection, as soon as there is one.
    pub(super) async fn take(self: &Arc<Self>, peer: IpAddr) -> Place {
        while self.roster().is_full() {
            self.wait_for_room().await;
        }
        let (id, close) = self.roster().add(peer, Instant::now());
        // Open connections and the reserve together have at most `connections_max` descriptors.
        self.keep_reserve();
        Place {
            places: Arc::clone(self),
            id,
            close,
        }
    }

    /// Makes a connection give way, and waits until one has ended.
    pub(super) async fn wait_for_room(&self) {
        self.roster().make_room(Instant::now());
        // Without a connection that can give way, one that ends by itself is awaited.
        let _ = timeout(ENDING_TIME_MAX, self.ended.notified()).await;
    }

    /// Gives up a reserved descriptor. Returns false if there is none.
    pub(super) fn release_reserved(&self) -> bool {
        lock(&self.reserve).release()
    }

    /// Reserves descriptors again, as far as there are any.
    pub(super) fn keep_reserve(&self) {
        let open = self.roster().len();
        lock(&self.reserve).keep(self.connections_max.saturating_sub(open));
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        lock(&self.roster)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of one connection, which is free again when this is dropped. The connection's
/// descriptor must be closed by then.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: ConnectionId,
    /// Cancelled when the connection has to give way.
    pub(super) close: CancellationToken,
}

impl Place {
    /// Returns a handle with which the connection's progress can be announced.
    pub(super) fn answer(&self) -> Answer {
        Answer {
            places: Arc::clone(&self.places),
            id: self.id,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.roster().remove(self.id);
        self.places.keep_reserve();
        self.places.ended.notify_one();
    }
}

/// The progress of a connection towards its answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    places: Arc<Places>,
    id: ConnectionId,
}

impl Answer {
    /// Announces whether the client is waited for now, or waits itself.
    pub(super) fn wait_for_client(&self, is_waited_for: bool) {
        let now = Instant::now();
        self.places
            .roster()
            .wait_for_client(self.id, is_waited_for, now);
    }

    /// Announces that the answer takes work or may be long.
    ///
    /// # Errors
    /// Returns an error if too many such answers are in progress.
    pub(super) fn start(&self) -> Result<(), Busy> {
        self.places.roster().start_answer(self.id, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn a_place_that_is_taken_needs_no_reserved_descriptor() {
        let places = Places::new(3, Duration::ZERO);
        let mut taken = Vec::new();
        for left in [2, 1, 0] {
            taken.push(places.take(Ipv4Addr::LOCALHOST.into()).await);
            let reserved = (0..10).take_while(|_| places.release_reserved()).count();
            assert_eq!(reserved, left);
            places.keep_reserve();
        }
        taken.pop();
        assert!(places.release_reserved());
    }
}
