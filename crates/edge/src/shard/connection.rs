//! A connection and its reading side: readiness, one read into the shard's scratch, the session's steps, and what they ask
//! for. It has neither a task nor a buffer of its own, since an edge has 100,000 of them.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::{ServerSession, Step, pong};
use tickstorm_timebase::{Mono, Request};

use super::authentication::Client;
use super::outbox::Outbox;
use super::wheel::{Key, Turn};
use super::{FeedIndex, Shard};
use crate::admission::{HandshakePermit, Permit};
use crate::sys::readable::Readable;
use crate::sys::socket::receive;
use crate::sys::sockets::{Ready, Sockets, Told};

/// How long connections that are ready are served before others get their turn: a tick waits that long at most, and what clients send does
/// not wait behind whole fan-outs, which give way each 3 to 5 ms.
const IN_A_ROW: Duration = Duration::from_millis(1);
/// Reads in a row: a peer that never stops sending waits for its next turn.
const READS: usize = 4;
/// SUBSCRIBEs that may wait for the time to be known; with one more the connection is not read. Their ACKs fit the control
/// buffer.
pub(super) const ASKED_MAX: usize = 32;

/// A client's connection.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) key: Key,
    pub(super) peer: SocketAddr,
    /// When it was accepted, in the machine's time.
    pub(super) accepted: Mono,
    pub(super) state: RefCell<State>,
}

/// What changes about it.
pub(super) struct State {
    pub(super) session: ServerSession,
    pub(super) phase: Phase,
    pub(super) place: Place,
    /// What could not be written yet; none while all is well.
    pub(super) outbox: Option<Box<Outbox>>,
    /// SUBSCRIBEs that wait for the time to be known.
    pub(super) asked: Vec<Request>,
    /// The turn of the wheel at which it is looked at.
    pub(super) armed: Turn,
    /// Whether what it sends is read.
    pub(super) is_read: bool,
    pub(super) handshake: Option<HandshakePermit>,
    /// Who authenticated.
    pub(super) client: Option<Box<Client>>,
    /// When a wrong AUTH gets its answer; until then nothing is read. [`Mono::NEVER`] where there was none.
    pub(super) refusal_due: Mono,
    /// Whether a byte has come: a connection without one is a health check.
    pub(super) has_spoken: bool,
    /// Its place among the connections, while it is one.
    pub(super) permit: Option<Permit>,
}

/// How far a connection's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is served.
    Open,
    /// Its ERROR is on the way; what it sends is thrown away until it closes or this moment comes.
    Lingering(Mono),
    /// It is out of the slab.
    Gone,
}

/// Where its ticks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: not subscribed.
    None,
    /// The feed has to pass its resume point first.
    Waiting(FeedIndex),
    /// The feed's array, at this position.
    Joined(FeedIndex, u32),
}

impl State {
    /// Whether nothing may be read: answers already wait for the socket, or for the time to be known.
    fn is_blocked(&self) -> bool {
        let holds_control = self
            .outbox
            .as_ref()
            .is_some_and(|outbox| outbox.holds_control());
        holds_control || self.asked.len() > ASKED_MAX || self.is_refused()
    }

    /// Whether a wrong AUTH waits for its answer: nothing that the client sends counts any more.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal_due != Mono::NEVER
    }
}

impl Shard {
    /// Serves connections that are ready until the shard ends.
    pub(super) async fn serve_ready(
        self: Rc<Self>,
        sockets: Readable<Rc<Sockets>>,
    ) -> io::Result<()> {
        let mut ready = Ready::new();
        loop {
            let mut readiness = sockets.readable().await?;
            let until = self.time.mono() + IN_A_ROW;
            loop {
                self.sockets.look(&mut ready)?;
                for told in ready.iter() {
                    // Who is gone may have been told of, and even another one in that place does no harm: it finds nothing.
                    if let Some(connection) = self.at(told.number) {
                        self.attend(&connection, told);
                    }
                }
                if !ready.is_full() || self.time.mono() >= until {
                    break;
                }
            }
            if ready.is_full() {
                drop(readiness);
                tokio::task::yield_now().await;
            } else {
                readiness.clear_ready();
            }
        }
    }

    fn attend(self: &Rc<Self>, connection: &Rc<Connection>, told: Told) {
        if told.takes_output() {
            self.write_ready(connection);
        }
        if told.has_input() {
            self.read_ready(connection, told.has_ended());
        }
    }

    /// Reads from now on, what has come already too.
    pub(super) fn start_reading(&self, connection: &Connection) {
        connection.state.borrow_mut().is_read = true;
        self.tell_again(connection);
    }

    /// Gives a connection its next turn if it has input, or takes output.
    pub(super) fn tell_again(&self, connection: &Connection) {
        let told = self
            .sockets
            .tell_again(&connection.stream, connection.key.slot);
        if let Err(error) = told {
            // The kernel has no reason to. Nobody is left waiting for ever: the wheel looks at it when its deadline passes.
            tracing::warn!(%error, "a connection's readiness can't be asked about");
        }
    }

    /// Reads what is there and acts on it. Where the input `has_ended` that is read, too: no event tells of it again.
    fn read_ready(self: &Rc<Self>, connection: &Rc<Connection>, has_ended: bool) {
        for _ in 0..READS {
            if !self.may_read(connection) {
                return;
            }
            let mut scratch = self.scratch.borrow_mut();
            match receive(&connection.stream, &mut scratch) {
                Ok(0) => {
                    drop(scratch);
                    self.close(connection, CloseReason::ClientClosed);
                    return;
                }
                Ok(taken) => {
                    self.take_input(connection, &scratch[..taken]);
                    if taken < scratch.len() && !has_ended {
                        // That has emptied the socket, which saves the next read.
                        self.may_read(connection);
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    drop(scratch);
                    self.fail(connection, &error);
                    return;
                }
            }
        }
        self.tell_again(connection);
    }

    /// Whether the connection is to be read. Where answers wait it is not, and its deadline stands still from now on.
    fn may_read(&self, connection: &Connection) -> bool {
        let mut state = connection.state.borrow_mut();
        if state.phase == Phase::Open && state.is_blocked() && state.is_read {
            state.is_read = false;
            let now = self.time.now();
            state.session.pause(now);
        }
        state.phase != Phase::Gone && state.is_read
    }

    /// Reads once more what a connection that seems silent may have sent.
    pub(super) fn read_late(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.read_ready(connection, false);
    }

    /// Takes bytes through the session, up to their end or to where it can't go on for now.
    pub(super) fn take_input(self: &Rc<Self>, connection: &Rc<Connection>, input: &[u8]) {
        self.cork(connection);
        self.step_through(connection, input);
        self.uncork(connection);
    }

    fn step_through(self: &Rc<Self>, connection: &Rc<Connection>, mut input: &[u8]) {
        let (received, now) = (self.time.mono(), self.time.now());
        connection.state.borrow_mut().has_spoken = true;
        loop {
            let mut state = connection.state.borrow_mut();
            if state.phase != Phase::Open || state.is_refused() {
                return;
            }
            if state.is_blocked() {
                state.session.keep(input);
                return;
            }
            let step = state.session.step(self.limits(), &mut input, now);
            drop(state);
            match step {
                Step::NeedsInput => return,
                Step::Auth(auth) => self.authenticate(connection, auth, now),
                Step::Subscribe(request) => self.subscribe(connection, request),
                Step::Heartbeat { client_time_us } => {
                    self.answer_heartbeat(connection, client_time_us, received);
                }
                Step::Close(reason) => self.close(connection, reason),
            }
        }
    }

    /// Goes on reading where nothing holds it up any longer.
    pub(super) fn resume_reading(self: &Rc<Self>, connection: &Rc<Connection>) {
        let mut state = connection.state.borrow_mut();
        if state.is_read || state.phase != Phase::Open || state.is_blocked() {
            return;
        }
        let now = self.time.now();
        state.session.resume(now);
        drop(state);
        self.take_input(connection, &[]);
        let mut state = connection.state.borrow_mut();
        if state.phase == Phase::Open && state.is_blocked() {
            state.session.pause(now);
        } else if state.phase == Phase::Open {
            drop(state);
            self.start_reading(connection);
            self.arm(connection);
        }
    }

    fn answer_heartbeat(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        client_time_us: i64,
        received: Mono,
    ) {
        let mut frames = self.frames.take();
        let mono = self.time.mono();
        match self.authority(mono) {
            None => pong(client_time_us, 0, 0, u32::MAX, 0, &mut frames),
            Some(authority) => pong(
                client_time_us,
                authority.time_at(received).as_micros(),
                authority.time_at(mono).as_micros(),
                authority.bound_us(mono),
                authority.clock_error_us(),
                &mut frames,
            ),
        }
        self.send_control(connection, frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100,000 lie in memory.
    #[test]
    fn a_connection_is_small() {
        let connection = size_of::<Connection>();
        assert!(connection <= 304, "a connection has {connection} bytes");
    }
}
