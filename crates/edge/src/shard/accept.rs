//! Accepting: who may come in is admission's to say; here newcomers are let in, and told why if
//! they are not.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;

use super::connection::{Connection, LINGER, Stage};
use super::connections::Connections;
use super::driver::Driver;
use super::key::Key;
use super::time::Moment;
use crate::admission::{Evicted, Permit, Room};
use crate::sys::network::Network;
use crate::sys::waker::Waker;

/// How long accepting rests if the system has no descriptor or memory to give.
const STARVED_FOR: Duration = Duration::from_millis(100);

/// A shard's accepting side.
pub(super) struct Acceptor {
    index: usize,
    waker: Waker,
    /// Newcomers may be waiting: the listener reports only those that come after it was found
    /// empty.
    is_pending: bool,
    /// Newcomers are refused from now on: the shard drains.
    has_ended: bool,
    /// Until when nobody is accepted: the system has nothing to give, or MAX_HANDSHAKES leaves no
    /// room.
    not_before: Mono,
    /// The system had nothing to give last time, and that has been logged.
    is_starved: bool,
    /// How many connections the shard's own table of open files has room for.
    connections_max: usize,
}

/// What became of one attempt to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// A newcomer was dealt with. It may have taken the room of this handshake.
    One(Option<Evicted>),
    /// Nobody waits, or nobody may come in for now.
    Nobody,
}

impl Acceptor {
    pub(super) fn new(index: usize, waker: Waker) -> Self {
        Self {
            index,
            waker,
            is_pending: false,
            has_ended: false,
            not_before: Mono::ZERO,
            is_starved: false,
            connections_max: usize::MAX,
        }
    }

    /// Bounds the connections of this shard, by its table of open files.
    pub(super) fn set_connections_max(&mut self, connections_max: usize) {
        self.connections_max = connections_max;
    }

    /// Newcomers wait.
    pub(super) fn expect_newcomers(&mut self) {
        self.is_pending = true;
    }

    /// A handshake may have left: accepting is worth a try, unless it is the system that has
    /// nothing to give.
    pub(super) fn try_again(&mut self) {
        if !self.is_starved {
            self.not_before = Mono::ZERO;
        }
    }

    /// Accepts nobody any more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Whether the system had nothing to give last time.
    pub(super) fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// When to accept next; [`Mono::NEVER`] if nobody waits.
    pub(super) fn due(&self) -> Mono {
        if self.is_pending && !self.has_ended {
            self.not_before
        } else {
            Mono::NEVER
        }
    }

    /// Accepts one newcomer, if one waits and may come in.
    pub(super) fn accept_one<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> Accepted {
        if !self.has_room(driver, at) {
            return Accepted::Nobody;
        }
        let mut evicted = None;
        let admitted = driver
            .network
            .accept()
            .and_then(|newcomer| self.admit(newcomer, &mut evicted, connections, driver, at));
        match admitted {
            Ok(()) => {
                self.is_starved = false;
                Accepted::One(evicted)
            }
            Err(error) if is_of_one_connection(&error) => Accepted::One(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_pending = false;
                // With no newcomers, nothing else would end this.
                self.is_starved = false;
                Accepted::Nobody
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_starved, true) {
                    tracing::warn!(%error, "accepting rests: the system has nothing to give");
                }
                self.not_before = at.mono + STARVED_FOR;
                // Its room is given away, whatever became of the newcomer.
                evicted.map_or(Accepted::Nobody, |evicted| Accepted::One(Some(evicted)))
            }
        }
    }

    /// Whether MAX_HANDSHAKES leaves room for one more; if not, accepting goes on when one leaves
    /// or may be evicted.
    fn has_room<N: Network>(&mut self, driver: &Driver<N>, at: Moment) -> bool {
        let admission = &driver.env.commons.admission;
        match admission.room(at.mono) {
            Room::Free => true,
            Room::NotBefore(due) => {
                self.not_before = due;
                self.is_starved = false;
                admission.wake_when_one_leaves(self.index, &self.waker);
                // One that left before this was asked wakes nobody.
                admission.room(at.mono) == Room::Free
            }
        }
    }

    /// Lets a newcomer in, or tells it that the edge is full. Names the handshake whose room it has
    /// taken.
    fn admit<N: Network>(
        &self,
        newcomer: (N::Socket, SocketAddr),
        evicted: &mut Option<Evicted>,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> io::Result<()> {
        let permit = match self.permit(connections, driver) {
            Some(permit) if !permit.is_overflow() => permit,
            overflow => {
                let reason = CloseReason::ServerFull;
                return turn_away(newcomer, overflow, reason, connections, driver, at);
            }
        };
        let admission = driver.env.commons.admission.clone();
        let key = connections.insert(admission.next_id(), |key| {
            let (handshake, oldest) =
                admission.begin_handshake(key.id, at.mono, self.index, key.slot);
            *evicted = oldest;
            let stage = Stage::Handshake { _permit: handshake };
            Connection::new(key, newcomer, at, stage, permit)
        });
        enter(key, connections, driver)
    }

    /// Refuses the next newcomer that waits, so that closing the listener resets nobody. False if
    /// nobody waits.
    pub(super) fn refuse_one<N: Network>(
        &self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> bool {
        match driver.network.accept() {
            Ok(newcomer) => {
                let permit = self.permit(connections, driver);
                let reason = CloseReason::ServerDraining;
                // Without an epoll registration nobody is left to tell: it is closed.
                let _ = turn_away(newcomer, permit, reason, connections, driver, at);
                true
            }
            Err(error) => is_of_one_connection(&error),
        }
    }

    /// A permit among all connections, if there is room in this shard's table too; one for those
    /// told SERVER_FULL if either is full; none if too many are being told.
    fn permit<N: Network>(
        &self,
        connections: &Connections<N::Socket>,
        driver: &Driver<N>,
    ) -> Option<Permit> {
        let admission = &driver.env.commons.admission;
        if connections.admitted() < self.connections_max {
            admission.enter()
        } else {
            admission.enter_overflow()
        }
    }
}

/// Tells a newcomer why it does not come in, and lets it linger. Without a permit, because too many
/// linger already, it is closed at once.
fn turn_away<N: Network>(
    newcomer: (N::Socket, SocketAddr),
    permit: Option<Permit>,
    reason: CloseReason,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) -> io::Result<()> {
    let (socket, peer) = newcomer;
    let id = driver.env.commons.admission.next_id();
    driver.record(id, peer, reason);
    let is_told = driver.send_error(socket.as_raw_fd(), reason);
    let (Some(permit), true) = (permit, is_told) else {
        return Ok(());
    };
    driver.network.shut_down_sending(&socket);
    let stage = Stage::Lingering {
        until: at.now + LINGER,
    };
    let key = connections.insert(id, |key| {
        Connection::new(key, (socket, peer), at, stage, permit)
    });
    enter(key, connections, driver)
}

/// Registers a new connection for its events and its first deadline; if that fails it is gone.
fn enter<N: Network>(
    key: Key,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
) -> io::Result<()> {
    let Some(connection) = connections.get(key) else {
        return Ok(());
    };
    let registered = driver.network.register(&connection.socket, key.token());
    if registered.is_ok() {
        driver.arm(connection);
    } else {
        connections.remove(key.slot);
    }
    registered
}

/// Whether only the connection that was being accepted is gone: the next one is not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
