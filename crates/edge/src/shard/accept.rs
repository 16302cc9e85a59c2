//! Accepting new connections. A connection that admission has no objection to is admitted; any
//! other is refused, with an ERROR if there is one for the reason. Accepting waits for nothing but
//! file descriptors and memory: if there are too many handshakes, one of them is closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::Mono;

use super::connection::{Connection, Counted, LINGER, Stage};
use super::connections::Connections;
use super::debugged::log_connection;
use super::driver::Driver;
use super::key::Key;
use super::time::Moment;
use crate::admission::{Address, AddressPermit, Evicted, Handshake, Permit, Refusal};
use crate::sys::network::Network;

/// The pause in accepting after the system has run out of file descriptors or memory.
const STARVED_PAUSE: Duration = Duration::from_millis(100);

/// A shard's accepting side.
pub(super) struct Acceptor {
    index: usize,
    /// Whether connections may be waiting. The listener only reports connections that arrive after
    /// it was found empty.
    is_pending: bool,
    /// Whether accepting has ended because the shard is draining.
    is_stopped: bool,
    /// The time before which nothing is accepted, because the system is out of resources.
    not_before: Mono,
    /// Whether the last attempt failed because the system was out of resources. This has been
    /// logged.
    is_starved: bool,
    /// The time for which the edge had been stalled in all when no connection was waiting.
    stalled: Duration,
    /// The number of connections that fit into the shard's own file descriptor table.
    connections_max: usize,
}

/// The outcome of one attempt to accept a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AcceptOutcome {
    /// A connection was admitted, refused or lost. If it took the room of a handshake, that
    /// handshake must be closed.
    Handled(Vec<Evicted>),
    /// No connection is waiting, or none may be accepted at present.
    Nothing,
}

impl Acceptor {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            is_pending: false,
            is_stopped: false,
            not_before: Mono::ZERO,
            is_starved: false,
            stalled: Duration::ZERO,
            connections_max: usize::MAX,
        }
    }

    /// Limits the number of connections of this shard, not counting those that linger, to what its
    /// file descriptor table can hold.
    pub(super) fn set_connections_max(&mut self, connections_max: usize) {
        self.connections_max = connections_max;
    }

    /// Notes that connections are waiting to be accepted.
    pub(super) fn set_pending(&mut self) {
        self.is_pending = true;
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

    /// Accepts one connection, if one is waiting.
    pub(super) fn accept_one<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> AcceptOutcome {
        let mut evicted = Vec::new();
        let admitted = next_incoming(driver)
            .and_then(|incoming| self.admit(incoming, &mut evicted, connections, driver, at));
        match admitted {
            Ok(()) => {
                self.is_starved = false;
                AcceptOutcome::Handled(evicted)
            }
            Err(error) if is_connection_error(&error) => AcceptOutcome::Handled(evicted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_pending = false;
                self.stalled = at.stalled();
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
                // Evicted handshakes have lost their room, whatever happened to the new connection.
                if evicted.is_empty() {
                    AcceptOutcome::Nothing
                } else {
                    AcceptOutcome::Handled(evicted)
                }
            }
        }
    }

    /// Admits a connection or refuses it. Adds the handshakes whose room it has taken to `evicted`.
    fn admit<N: Network>(
        &self,
        incoming: (N::Socket, SocketAddr),
        evicted: &mut Vec<Evicted>,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> io::Result<()> {
        let (socket, peer) = &incoming;
        // A client of a load balancer is screened when its address is known.
        let is_known = !driver.network.awaits_client_address(socket);
        let client = is_known.then(|| peer.ip());
        let peer = *peer;
        let permits = self.permits(client, evicted, connections, driver, at);
        let (permit, counted_address) = match permits {
            Ok(permits) => permits,
            Err(refusal) => return reject(incoming, refusal, connections, driver, at),
        };
        let admission = driver.env.commons.admission.clone();
        let key = connections.insert(admission.next_id(), |key| {
            let handshake = Handshake {
                address: client.map(Address::from),
                accepted: at.mono,
                shard: self.index,
                slot: key.slot,
            };
            let (handshake, loser) = admission.begin_handshake(key.id, handshake);
            evicted.extend(loser);
            let stage = Stage::Handshake { permit: handshake };
            let counted = Counted::Admitted {
                _permit: permit,
                _address: counted_address,
            };
            let mut connection = Connection::new(key, incoming, at, stage, counted);
            connection.arrived_after(self.stalled);
            connection
        });
        register(key, connections, driver)?;
        log_connection!(&driver.env, key.id, peer; "connection accepted");
        Ok(())
    }

    /// Returns the permits of a connection that is admitted, or the reason to refuse it. `client`
    /// is the client's address, if that is known. If the edge or the shard is full, a handshake may
    /// be evicted.
    fn permits<N: Network>(
        &self,
        client: Option<IpAddr>,
        evicted: &mut Vec<Evicted>,
        connections: &Connections<N::Socket>,
        driver: &Driver<N>,
        at: Moment,
    ) -> Result<(Permit, AddressPermit), Refusal> {
        let admission = &driver.env.commons.admission;
        let counted_address = match client {
            Some(ip) => {
                let stalled = at.stalled().saturating_sub(self.stalled);
                admission.screen(ip, at.mono.saturating_sub(stalled), at.mono)?
            }
            None => AddressPermit::exempt(),
        };
        let is_shard_full = connections.len() - driver.lingering.len() >= self.connections_max;
        if !is_shard_full && let Some(permit) = admission.enter() {
            return Ok((permit, counted_address));
        }
        let shard = is_shard_full.then_some(self.index);
        let displaced = admission.displace(client.map(Address::from), shard, at.mono);
        let (permit, loser) = displaced.ok_or(Refusal::ServerFull)?;
        evicted.push(loser);
        Ok((permit, counted_address))
    }
}

/// Refuses the next connection that waits to be accepted by a draining shard, because closing the
/// listener would reset it. Returns false if none is waiting.
pub(super) fn refuse_one<N: Network>(
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) -> bool {
    match next_incoming(driver) {
        Ok(incoming) => {
            // Without an epoll registration the connection can't linger, so it is closed.
            let _ = reject(incoming, Refusal::ServerDraining, connections, driver, at);
            true
        }
        Err(error) => is_connection_error(&error),
    }
}

/// Accepts and counts the next connection.
fn next_incoming<N: Network>(driver: &mut Driver<N>) -> io::Result<(N::Socket, SocketAddr)> {
    let incoming = driver.network.accept()?;
    driver.env.metrics().connections.accepted.inc();
    Ok(incoming)
}

/// Refuses a new connection: sends it the ERROR for `refusal`, if there is one, and lets it linger.
/// It is closed immediately if no ERROR was sent, as with TLS, or if too many connections linger.
fn reject<N: Network>(
    incoming: (N::Socket, SocketAddr),
    refusal: Refusal,
    connections: &mut Connections<N::Socket>,
    driver: &mut Driver<N>,
    at: Moment,
) -> io::Result<()> {
    let (socket, peer) = incoming;
    let id = driver.env.commons.admission.next_id();
    let reason = refusal.close_reason();
    driver.env.metrics().connections.count_refused(refusal);
    driver.record_refusal(id, peer, reason);
    if !driver.send_error(socket.as_raw_fd(), id, peer, reason) {
        return Ok(());
    }
    driver.network.shut_down_sending(&socket);
    let Some(permit) = driver.lingering.enter() else {
        return Ok(());
    };
    let stage = Stage::Lingering {
        until: at.now + LINGER,
    };
    let counted = Counted::Lingering { _permit: permit };
    let key = connections.insert(id, |key| {
        Connection::new(key, (socket, peer), at, stage, counted)
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
        driver.count_state(connection);
        driver.arm(connection);
    } else {
        connections.remove(key.slot);
    }
    registered
}

/// Returns whether an error concerns only the connection that was being accepted, so that accepting
/// can continue with the next one. accept(2) may return any error of that connection's network. All
/// that concerns the system is that no connection is waiting, or that it is out of file descriptors
/// or memory; that epoll watches no more sockets is ENOSPC.
fn is_connection_error(error: &io::Error) -> bool {
    let is_starved = matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::ENOSPC)
    );
    !is_starved && error.kind() != io::ErrorKind::WouldBlock
}
