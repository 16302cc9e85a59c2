//! Accepting new connections. A connection for which admission has room is admitted; any other is
//! sent an ERROR that gives the reason for the refusal.

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

/// The pause in accepting after the system has run out of file descriptors or memory.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

/// A shard's accepting side.
pub(super) struct Acceptor {
    index: usize,
    waker: Waker,
    /// Whether connections may be waiting. The listener only reports connections that arrive after
    /// it was found empty.
    is_pending: bool,
    /// Whether accepting has ended because the shard is draining.
    is_stopped: bool,
    /// The time before which nothing is accepted, because the system is out of resources or
    /// MAX_HANDSHAKES leaves no room.
    not_before: Mono,
    /// Whether the last attempt failed because the system was out of resources. This has been
    /// logged.
    is_starved: bool,
    /// The number of connections that fit into the shard's own file descriptor table.
    connections_max: usize,
}

/// The outcome of one attempt to accept a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptOutcome {
    /// A connection was admitted, refused or lost. If it took the room of a handshake, that
    /// handshake must be closed.
    Handled(Option<Evicted>),
    /// No connection is waiting, or none may be accepted at present.
    Nothing,
}

impl Acceptor {
    pub(super) fn new(index: usize, waker: Waker) -> Self {
        Self {
            index,
            waker,
            is_pending: false,
            is_stopped: false,
            not_before: Mono::ZERO,
            is_starved: false,
            connections_max: usize::MAX,
        }
    }

    /// Limits the number of connections of this shard to what its file descriptor table can hold.
    pub(super) fn set_connections_max(&mut self, connections_max: usize) {
        self.connections_max = connections_max;
    }

    /// Notes that connections are waiting to be accepted.
    pub(super) fn set_pending(&mut self) {
        self.is_pending = true;
    }

    /// Allows another attempt, because a handshake may have left. Has no effect while the system is
    /// out of resources.
    pub(super) fn retry(&mut self) {
        if !self.is_starved {
            self.not_before = Mono::ZERO;
        }
    }

    /// Stops accepting permanently.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Returns whether the last attempt failed because the system was out of resources.
    pub(super) fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// Returns when to accept next; [`Mono::NEVER`] if no connection is waiting.
    pub(super) fn due(&self) -> Mono {
        if self.is_pending && !self.is_stopped {
            self.not_before
        } else {
            Mono::NEVER
        }
    }

    /// Accepts one connection, if one is waiting and there is room for it.
    pub(super) fn accept_one<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> AcceptOutcome {
        if !self.has_room(driver, at) {
            return AcceptOutcome::Nothing;
        }
        let mut evicted = None;
        let admitted = driver
            .network
            .accept()
            .and_then(|incoming| self.admit(incoming, &mut evicted, connections, driver, at));
        match admitted {
            Ok(()) => {
                self.is_starved = false;
                AcceptOutcome::Handled(evicted)
            }
            Err(error) if is_connection_error(&error) => AcceptOutcome::Handled(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_pending = false;
                // With no connection waiting there will be no attempt that could clear this later.
                self.is_starved = false;
                AcceptOutcome::Nothing
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_starved, true) {
                    tracing::warn!(
                        %error,
                        "can't accept connections: out of file descriptors or memory"
                    );
                }
                self.not_before = at.mono + STARVED_PAUSE;
                // The evicted handshake has lost its room, whatever happened to the new connection.
                evicted.map_or(AcceptOutcome::Nothing, |evicted| {
                    AcceptOutcome::Handled(Some(evicted))
                })
            }
        }
    }

    /// Returns whether MAX_HANDSHAKES leaves room for one more handshake. If not, accepting
    /// continues when a handshake leaves or may be evicted.
    fn has_room<N: Network>(&mut self, driver: &Driver<N>, at: Moment) -> bool {
        let admission = &driver.env.commons.admission;
        match admission.room(at.mono) {
            Room::Free => true,
            Room::NotBefore(due) => {
                self.not_before = due;
                self.is_starved = false;
                admission.wake_when_one_leaves(self.index, &self.waker);
                // Check again: a handshake that left before the registration wakes no shard.
                admission.room(at.mono) == Room::Free
            }
        }
    }

    /// Admits a connection, or refuses it because the edge is full. Sets `evicted` to the handshake
    /// whose room it has taken, if any.
    fn admit<N: Network>(
        &self,
        incoming: (N::Socket, SocketAddr),
        evicted: &mut Option<Evicted>,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> io::Result<()> {
        let permit = match self.acquire_permit(connections, driver) {
            Some(permit) if !permit.is_overflow() => permit,
            overflow => {
                let reason = CloseReason::ServerFull;
                return reject(incoming, overflow, reason, connections, driver, at);
            }
        };
        let admission = driver.env.commons.admission.clone();
        let key = connections.insert(admission.next_id(), |key| {
            let (handshake, oldest) =
                admission.begin_handshake(key.id, at.mono, self.index, key.slot);
            *evicted = oldest;
            let stage = Stage::Handshake { _permit: handshake };
            Connection::new(key, incoming, at, stage, permit)
        });
        register(key, connections, driver)
    }

    /// Refuses the next connection that waits to be accepted, because closing the listener would
    /// reset it. Returns false if none is waiting.
    pub(super) fn refuse_one<N: Network>(
        &self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> bool {
        match driver.network.accept() {
            Ok(incoming) => {
                let permit = self.acquire_permit(connections, driver);
                let reason = CloseReason::ServerDraining;
                // Without an epoll registration the connection can't linger, so it is closed.
                let _ = reject(incoming, permit, reason, connections, driver, at);
                true
            }
            Err(error) => is_connection_error(&error),
        }
    }

    /// Returns a permit to be admitted, if both the edge and this shard's file descriptor table
    /// have room. Otherwise returns an overflow permit, with which a refused connection may linger;
    /// `None` if too many of those linger already.
    fn acquire_permit<N: Network>(
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

/// Sends a new connection the ERROR for `reason` and lets it linger. Without a permit, because too
/// many linger already, it is closed immediately.
fn reject<N: Network>(
    incoming: (N::Socket, SocketAddr),
    permit: Option<Permit>,
    reason: CloseReason,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) -> io::Result<()> {
    let (socket, peer) = incoming;
    let id = driver.env.commons.admission.next_id();
    driver.record(id, peer, None, reason);
    let is_sent = driver.send_error(socket.as_raw_fd(), reason);
    let (Some(permit), true) = (permit, is_sent) else {
        return Ok(());
    };
    driver.network.shut_down_sending(&socket);
    let stage = Stage::Lingering {
        until: at.now + LINGER,
    };
    let key = connections.insert(id, |key| {
        Connection::new(key, (socket, peer), at, stage, permit)
    });
    register(key, connections, driver)
}

/// Registers a new connection for its events and arms its first deadline. If registration fails,
/// the connection is dropped.
fn register<N: Network>(
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

/// Returns whether an error concerns only the connection that was being accepted, so that accepting
/// can continue with the next one.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
