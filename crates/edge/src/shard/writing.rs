//! The writing side beyond the hot loop: control frames, and the slow path that brings back those whose socket was full. One
//! thread does both paths of a connection, so they never race.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, sendmsg};
use tickstorm_protocol::code::CloseReason;

use super::Shard;
use super::connection::{Connection, Phase, Place, State};
use super::outbox::Outbox;
use crate::feed::{Fallen, Frame};
use crate::sys::socket::{self, SEND_FLAGS};

/// Frames of the ring in one writev.
const FRAMES: usize = 64;
/// Control frames held back, in bytes: the answers to a handshake, and to some heartbeats.
const CORKED_MAX: usize = 512;
/// Writes of one wake before others get their turn.
const WRITES: usize = 8;

/// How far a flush came.
enum Flushed {
    /// Everything is written: back to the hot loop.
    All,
    /// The socket is full.
    Full,
    /// There is more, and the socket may take more.
    More,
    /// The connection was closed.
    Closed,
}

impl Shard {
    /// Holds control frames of this connection back, so that those which answer one read go out by one send.
    pub(super) fn cork(&self, connection: &Connection) {
        self.corked.set(Some(connection.key));
    }

    /// Sends what was held back.
    pub(super) fn uncork(self: &Rc<Self>, connection: &Rc<Connection>) {
        if self.corked.get() == Some(connection.key) {
            self.corked.set(None);
            let frames = self.frames.take();
            self.send_control(connection, frames);
        }
    }

    /// Sends control frames: at once, or behind what the socket has not taken yet. Gives the buffer back for the next.
    pub(super) fn send_control(self: &Rc<Self>, connection: &Rc<Connection>, mut frames: Vec<u8>) {
        if self.corked.get() == Some(connection.key) && frames.len() < CORKED_MAX {
            self.frames.replace(frames);
            return;
        }
        if !frames.is_empty() {
            self.transmit_control(connection, &frames);
        }
        frames.clear();
        self.frames.replace(frames);
    }

    fn transmit_control(self: &Rc<Self>, connection: &Rc<Connection>, frames: &[u8]) {
        let mut state = connection.state.borrow_mut();
        if let Some(outbox) = state.outbox.as_mut() {
            outbox.push_control(frames);
            return;
        }
        match socket::transmit(connection.stream.as_raw_fd(), frames) {
            Ok(taken) if taken == frames.len() => {
                self.shared.metrics.bytes_sent.inc_by(taken as u64);
            }
            Ok(taken) => self.hold_back(connection, &mut state, frames, taken),
            Err(Errno::EAGAIN | Errno::EINTR) => {
                self.hold_back(connection, &mut state, frames, 0);
            }
            Err(errno) => {
                drop(state);
                self.fail(connection, &errno.into());
            }
        }
    }

    /// Keeps the control bytes that the socket did not take.
    fn hold_back(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        state: &mut State,
        frames: &[u8],
        taken: usize,
    ) {
        self.shared.metrics.bytes_sent.inc_by(taken as u64);
        let mut outbox = Outbox::new(self.time.now());
        outbox.push_control(&frames[taken..]);
        self.fall_behind(connection, state, outbox);
    }

    /// Puts a connection on the slow path.
    fn fall_behind(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        state: &mut State,
        outbox: Box<Outbox>,
    ) {
        if let Place::Joined(feed, position) = state.place {
            let mut feeds = self.feeds.borrow_mut();
            let entry = feeds[usize::from(feed.0)].subscribers().entry(position);
            if entry.behind().is_none() {
                entry.fall_behind(entry.ready_for());
            }
        }
        let deadline = outbox.progress + self.settings().write_deadline;
        state.outbox = Some(outbox);
        self.tell_again(connection);
        self.arm_at(connection, state, deadline);
    }

    /// The hot loop's socket was full.
    pub(super) fn take_fallen(self: &Rc<Self>, fallen: Fallen) {
        let Some(connection) = self.at(fallen.owner) else {
            return;
        };
        let outbox = Outbox::with_rest(fallen.rest, self.time.now());
        let mut state = connection.state.borrow_mut();
        self.fall_behind(&connection, &mut state, outbox);
    }

    /// Begins to write an outbox that has just been filled; what does not go through at once the slow path does.
    pub(super) fn start_writing(self: &Rc<Self>, connection: &Rc<Connection>, outbox: Box<Outbox>) {
        connection.state.borrow_mut().outbox = Some(outbox);
        match self.flush(connection) {
            Flushed::All | Flushed::Closed => {}
            Flushed::Full | Flushed::More => {
                let mut state = connection.state.borrow_mut();
                if let Some(outbox) = state.outbox.take() {
                    self.fall_behind(connection, &mut state, outbox);
                }
            }
        }
    }

    /// A connection on the slow path may take output again.
    pub(super) fn write_ready(self: &Rc<Self>, connection: &Rc<Connection>) {
        if connection.state.borrow().outbox.is_none() {
            return;
        }
        match self.flush(connection) {
            Flushed::Closed => return,
            Flushed::More => self.tell_again(connection),
            Flushed::All | Flushed::Full => {}
        }
        self.resume_reading(connection);
    }

    /// Writes what lacks, in its order, until all is written or the socket is full.
    fn flush(self: &Rc<Self>, connection: &Rc<Connection>) -> Flushed {
        for _ in 0..WRITES {
            match self.write_once(connection) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => return Flushed::All,
                Ok(None) => {
                    self.close(connection, CloseReason::SlowConsumer);
                    return Flushed::Closed;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Flushed::More,
                Err(error) => {
                    self.fail(connection, &error);
                    return Flushed::Closed;
                }
            }
        }
        Flushed::More
    }

    /// One writev. True where something was written, false where nothing lacks any more, none where the ring has let go of
    /// what lacks.
    fn write_once(&self, connection: &Connection) -> io::Result<Option<bool>> {
        let mono = self.time.mono();
        let authority = self.authority(mono);
        let mut state = connection.state.borrow_mut();
        let State {
            outbox,
            place,
            phase,
            ..
        } = &mut *state;
        let (Some(outbox), Phase::Open) = (outbox.as_mut(), *phase) else {
            return Ok(Some(false));
        };
        let metrics = &self.shared.metrics;
        let time = authority.as_ref().map(|authority| (authority, mono));
        let front = outbox.front(self.limits().max_msg_size, time).clone();
        let mut feeds = self.feeds.borrow_mut();
        let mut frames: Vec<Frame> = Vec::new();
        let mut next = 0;
        if let (true, Place::Joined(feed, position)) = (outbox.feed_may_follow(), *place) {
            let feed = &mut feeds[usize::from(feed.0)];
            let entry = feed.subscribers().entry(position);
            next = entry.behind().unwrap_or_else(|| entry.ready_for());
            let Some(lacking) = feed.ring().from(next) else {
                return Ok(None);
            };
            frames.extend(lacking.take(FRAMES).cloned());
        }
        if front.is_empty() && frames.is_empty() {
            if let Place::Joined(feed, position) = *place {
                feeds[usize::from(feed.0)]
                    .subscribers()
                    .entry(position)
                    .advance(next);
            }
            state.outbox = None;
            return Ok(Some(false));
        }
        let taken = transmit(connection, &front, &frames)?;
        metrics.bytes_sent.inc_by(taken as u64);
        // A frame counts as sent with its first byte: what lacks of it follows in any case.
        let mut of_feed = outbox.consume(taken, self.time.now(), |ticks| {
            metrics.messages_sent.inc();
            metrics.ticks_sent.inc_by(ticks as u64);
        });
        for frame in &frames {
            if of_feed == 0 {
                break;
            }
            self.count_frame(frame);
            next += 1;
            if of_feed < frame.bytes.len() {
                outbox.set_rest(frame.bytes.slice(of_feed..));
            }
            of_feed = of_feed.saturating_sub(frame.bytes.len());
        }
        if let Place::Joined(feed, position) = *place
            && !frames.is_empty()
        {
            feeds[usize::from(feed.0)]
                .subscribers()
                .entry(position)
                .fall_behind(next);
        }
        Ok(Some(true))
    }
}

fn transmit(connection: &Connection, front: &Bytes, frames: &[Frame]) -> io::Result<usize> {
    let mut slices = Vec::with_capacity(1 + frames.len());
    slices.push(IoSlice::new(front));
    slices.extend(frames.iter().map(|frame| IoSlice::new(&frame.bytes)));
    let fd = connection.stream.as_raw_fd();
    Ok(sendmsg::<SockaddrStorage>(
        fd,
        &slices,
        &[],
        SEND_FLAGS,
        None,
    )?)
}
