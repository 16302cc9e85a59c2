//! A connection and its reading side: readiness, one read into the shard's scratch, the session's steps, and what they ask
//! for. Its task is as small as can be, since an edge has 100,000 of them.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use nix::sys::socket::{MsgFlags, recv};
use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::{ServerSession, Step, pong};
use tickstorm_timebase::{Mono, Request};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::authentication::Client;
use super::outbox::Outbox;
use super::wheel::{Key, Turn};
use super::{FeedIndex, Shard};
use crate::admission::{HandshakePermit, Permit};

/// Reads of one wake: tokio's readiness uses up no task budget, so a peer that never stops sending is bounded here.
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
    pub(super) reader: Option<AbortHandle>,
    pub(super) writer: Option<AbortHandle>,
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

/// What is to come after reading.
enum Reading {
    /// Nothing more is there.
    Drained,
    /// There may be more.
    More,
    /// The connection is over, or is not read for now: the task ends.
    Ended,
}

impl Shard {
    /// Starts a connection's reading task.
    pub(super) fn start_reading(self: &Rc<Self>, connection: &Rc<Connection>) {
        let task = tokio::task::spawn_local(read(Rc::clone(self), Rc::clone(connection)));
        connection.state.borrow_mut().reader = Some(task.abort_handle());
    }

    /// Reads what is there and acts on it.
    fn read_ready(self: &Rc<Self>, connection: &Rc<Connection>) -> Reading {
        for _ in 0..READS {
            if !self.may_read(connection) {
                return Reading::Ended;
            }
            let mut scratch = self.scratch.borrow_mut();
            let (outcome, drained) = receive(&connection.stream, &mut scratch);
            match outcome {
                Ok(0) => {
                    drop(scratch);
                    self.close(connection, CloseReason::ClientClosed);
                    return Reading::Ended;
                }
                Ok(taken) => self.take_input(connection, &scratch[..taken]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Reading::Drained;
                }
                Err(error) => {
                    drop(scratch);
                    self.fail(connection, &error);
                    return Reading::Ended;
                }
            }
            if drained {
                let goes_on = self.may_read(connection);
                return if goes_on {
                    Reading::Drained
                } else {
                    Reading::Ended
                };
            }
        }
        Reading::More
    }

    /// Whether the connection is to be read. Where answers wait it is not, and its deadline stands still from now on.
    fn may_read(&self, connection: &Connection) -> bool {
        let mut state = connection.state.borrow_mut();
        if state.phase == Phase::Open
            && state.is_blocked()
            && let Some(reader) = state.reader.take()
        {
            // Where the wheel reads, the task would else wait on beside the one that is started later.
            reader.abort();
            let now = self.time.now();
            state.session.pause(now);
        }
        state.phase != Phase::Gone && state.reader.is_some()
    }

    /// Reads once more what a connection that seems silent may have sent. Its task, if it has one, goes on as before.
    pub(super) fn read_late(self: &Rc<Self>, connection: &Rc<Connection>) {
        if connection.state.borrow().reader.is_some() {
            self.read_ready(connection);
        }
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
        if state.reader.is_some() || state.phase != Phase::Open || state.is_blocked() {
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

/// A connection's reading task.
async fn read(shard: Rc<Shard>, connection: Rc<Connection>) {
    loop {
        if let Err(error) = connection.stream.readable().await {
            shard.fail(&connection, &error);
            return;
        }
        match shard.read_ready(&connection) {
            Reading::Drained => {}
            Reading::More => tokio::task::yield_now().await,
            Reading::Ended => return,
        }
    }
}

/// One read. A short one has emptied the socket: tokio is told so at once, which saves the next read its EAGAIN.
fn receive(stream: &TcpStream, buffer: &mut [u8]) -> (io::Result<usize>, bool) {
    let mut short = None;
    let outcome = stream.try_io(Interest::READABLE, || {
        let taken = recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        if taken == 0 || taken == buffer.len() {
            return Ok(taken);
        }
        short = Some(taken);
        Err(io::ErrorKind::WouldBlock.into())
    });
    match short {
        Some(taken) => (Ok(taken), true),
        None => (outcome, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<F>(_: fn(Rc<Shard>, Rc<Connection>) -> F) -> usize {
        size_of::<F>()
    }

    /// 100,000 of each lie in memory.
    #[test]
    fn an_idle_connection_is_small() {
        let (task, connection) = (size_of_output(read), size_of::<Connection>());
        assert!(task <= 256, "the reading task has {task} bytes");
        assert!(connection <= 320, "a connection has {connection} bytes");
    }
}
