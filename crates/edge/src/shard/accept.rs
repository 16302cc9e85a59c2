//! Accepting: a listener a shard. Who may come in is admission's to say.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::ServerSession;
use tickstorm_timebase::Mono;

use super::connection::{Connection, Phase, Place, State};
use super::wheel::{Key, Turn};
use super::{Command, Shard};
use crate::admission::{Evicted, Permit, Room};
use crate::sys::readable::Readable;

/// How long accepting rests where the system has no descriptor or memory to give.
const REST: Duration = Duration::from_millis(100);
/// Newcomers in a row before others get their turn: half a millisecond.
const CHUNK: usize = 128;

impl Shard {
    /// Accepts connections until the shard ends or is drained.
    pub(super) async fn accept(self: Rc<Self>, listener: Readable<TcpListener>) {
        let until_drained = self.accept_on(&listener);
        self.draining.run_until_cancelled(until_drained).await;
        self.end_accepting(listener.into_inner()).await;
    }

    async fn accept_on(self: &Rc<Self>, listener: &Readable<TcpListener>) {
        let mut complained = false;
        for number in 1_usize.. {
            if number.is_multiple_of(CHUNK) {
                tokio::task::yield_now().await;
            }
            self.room().await;
            let newcomer = listener.when_readable(TcpListener::accept).await;
            match newcomer.and_then(|(stream, peer)| self.admit(stream, peer)) {
                Ok(()) => complained = false,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "accepting rests: the system has nothing to give");
                    }
                    self.vitals.accepting.store(false, Ordering::Relaxed);
                    tokio::time::sleep(REST).await;
                    // Where nobody else comes nothing would fail, either.
                    self.vitals.accepting.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Waits until MAX_HANDSHAKES leaves room for one more.
    async fn room(&self) {
        loop {
            // Registered before the question, so that no departure in between is missed.
            let made = self.shared.admission.room_made();
            let now = self.time.mono();
            match self.shared.admission.room(now) {
                Room::Free => return,
                Room::NotBefore(due) => {
                    let _ = tokio::time::timeout(due.since(now), made).await;
                }
            }
        }
    }

    fn make_room(self: &Rc<Self>, evicted: Evicted) {
        if evicted.shard == self.index {
            self.evict(Key {
                slot: evicted.slot,
                id: evicted.id,
            });
        } else if let Some(peer) = self.peers.borrow().get(evicted.shard) {
            // A shard that has ended has closed it too.
            let _ = peer.send(Command::Evict(evicted));
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let permit = match self.place() {
            Some(permit) if !permit.is_overflow() => permit,
            overflow => return self.turn_away(stream, peer, overflow, CloseReason::ServerFull),
        };
        let connection = self.enter(stream, peer, permit)?;
        let (id, slot) = (connection.key.id, connection.key.slot);
        let (handshake, evicted) =
            self.shared
                .admission
                .begin_handshake(id, connection.accepted, self.index, slot);
        connection.state.borrow_mut().handshake = Some(handshake);
        self.arm(&connection);
        if let Some(evicted) = evicted {
            self.make_room(evicted);
        }
        Ok(())
    }

    /// Tells a newcomer why it does not come in.
    pub(super) fn turn_away(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Option<Permit>,
        reason: CloseReason,
    ) -> io::Result<()> {
        if let Some(permit) = permit {
            let connection = self.enter(stream, peer, permit)?;
            self.close(&connection, reason);
        } else {
            // Over those who may linger, too: told, and closed at once.
            self.send_error(&stream, reason);
            self.count_closed(reason);
        }
        Ok(())
    }

    fn enter(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: Permit,
    ) -> io::Result<Rc<Connection>> {
        let id = self.shared.admission.next_id();
        let mut connections = self.connections.borrow_mut();
        let place = connections.vacant_entry();
        let slot = u32::try_from(place.key()).expect("fewer connections than descriptors");
        self.sockets.add(&stream, slot)?;
        if !permit.is_overflow() {
            self.inside.update(|inside| inside + 1);
        }
        let connection = Rc::new(Connection {
            stream,
            key: Key { slot, id },
            peer,
            accepted: self.time.mono(),
            state: State {
                session: ServerSession::new(self.time.now()),
                phase: Phase::Open,
                place: Place::None,
                outbox: None,
                asked: Vec::new(),
                armed: Turn::NONE,
                is_read: true,
                handshake: None,
                client: None,
                refusal_due: Mono::NEVER,
                has_spoken: false,
                permit: Some(permit),
            }
            .into(),
        });
        place.insert(Rc::clone(&connection));
        Ok(connection)
    }
}

/// Whether only the connection that was being accepted is gone: the next one is not concerned.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
