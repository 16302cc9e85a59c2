//! The writing side beyond the hot loop: control frames, and the slow path that brings back
//! subscribers whose socket was full. One thread does both paths of a connection, so they never
//! race.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use nix::errno::Errno;
use tickstorm_protocol::code::CloseReason;

use super::connection::{AfterStep, Connection};
use super::driver::Driver;
use super::env::Env;
use super::feeds::{Feeds, FellOut, Lacking};
use super::outbox::Outbox;
use super::time::Moment;
use crate::sys::network::Network;

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
    /// The ring has let go of a frame that the subscriber lacks.
    FellOut,
    Failed(io::Error),
}

/// What is offered to a socket by one call.
enum Offer {
    /// Nothing is left.
    Nothing,
    /// `front` and then the feed's frames, if any.
    Bytes {
        front: Bytes,
        lacking: Option<Lacking>,
    },
}

impl<N: Network> Driver<N> {
    /// Sends the control frames that answer one read: at once, or behind what the socket has not
    /// taken yet. Begins to write an outbox that a step has made.
    pub(super) fn deliver(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        let frames = self.control.take();
        let fate = self.deliver_frames(connection, &frames, at);
        self.control.give_back(frames);
        fate
    }

    fn deliver_frames(
        &mut self,
        connection: &mut Connection<N::Socket>,
        frames: &[u8],
        at: Moment,
    ) -> AfterStep {
        let fd = connection.socket.as_raw_fd();
        let Some(served) = connection.served_mut() else {
            debug_assert!(frames.is_empty(), "only served connections get answers");
            return AfterStep::Stays;
        };
        if let Some(outbox) = served.outbox.as_deref_mut() {
            outbox.push_control(frames);
            if outbox.start() {
                return self.start_writing(connection, at);
            }
            return AfterStep::Stays;
        }
        if frames.is_empty() {
            return AfterStep::Stays;
        }
        let taken = match self.network.send(fd, frames) {
            Ok(taken) => taken,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return self.fail(connection, &errno.into(), at),
        };
        self.env.metrics().bytes_sent.inc_by(taken as u64);
        if taken < frames.len() {
            let mut outbox = Outbox::new(at.now);
            outbox.push_control(&frames[taken..]);
            outbox.start();
            served.outbox = Some(outbox);
            self.wait_for_output(connection);
        }
        AfterStep::Stays
    }

    /// Offers a new outbox to the socket; what does not go through at once the slow path writes.
    fn start_writing(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> AfterStep {
        match self.flush(connection, at) {
            Flushed::All => AfterStep::Stays,
            Flushed::Full | Flushed::More => {
                self.wait_for_output(connection);
                AfterStep::Stays
            }
            Flushed::FellOut => self.close(connection, CloseReason::SlowConsumer, at),
            Flushed::Failed(error) => self.fail(connection, &error, at),
        }
    }

    /// Puts a connection with an outbox on the slow path: the hot loop passes it over, its socket
    /// reports when it takes output, and the write deadline runs.
    pub(super) fn wait_for_output(&mut self, connection: &mut Connection<N::Socket>) {
        self.feeds.fall_behind(connection.key.slot);
        self.rearm(connection);
        self.arm(connection);
    }

    /// A connection on the slow path may take output again.
    pub(super) fn write(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if connection.outbox_mut().is_none() {
            return AfterStep::Stays;
        }
        match self.flush(connection, at) {
            Flushed::All | Flushed::Full => {}
            Flushed::More => self.rearm(connection),
            Flushed::FellOut => return self.close(connection, CloseReason::SlowConsumer, at),
            Flushed::Failed(error) => return self.fail(connection, &error, at),
        }
        self.resume_reading(connection, at)
    }

    /// Writes what is unsent, in its order, until all is written or the socket is full.
    fn flush(&mut self, connection: &mut Connection<N::Socket>, at: Moment) -> Flushed {
        let slot = connection.key.slot;
        for _ in 0..WRITES {
            let Some(served) = connection.served_mut() else {
                return Flushed::All;
            };
            let Some(outbox) = served.outbox.as_deref_mut() else {
                return Flushed::All;
            };
            let (front, lacking) = match offer(outbox, slot, &self.env, &mut self.feeds, at) {
                Ok(Offer::Bytes { front, lacking }) => (front, lacking),
                Ok(Offer::Nothing) => {
                    served.outbox = None;
                    return Flushed::All;
                }
                Err(FellOut) => return Flushed::FellOut,
            };
            let frames = lacking.iter().flat_map(|lacking| &lacking.frames);
            let parts: Vec<IoSlice<'_>> = std::iter::once(&front)
                .chain(frames.map(|frame| &frame.bytes))
                .map(|bytes| IoSlice::new(bytes))
                .collect();
            let taken = match self.network.send_parts(&connection.socket, &parts) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Flushed::More,
                Err(error) => return Flushed::Failed(error),
            };
            if let Some(outbox) = connection.outbox_mut() {
                account(outbox, taken, lacking, slot, &self.env, &mut self.feeds, at);
            }
        }
        Flushed::More
    }
}

/// What comes next for a connection: what its outbox holds, then its feed's frames. If that is
/// nothing, it has caught up.
fn offer(
    outbox: &mut Outbox,
    slot: u32,
    env: &Env,
    feeds: &mut Feeds,
    at: Moment,
) -> Result<Offer, FellOut> {
    let time = env.authority(at.mono).map(|authority| (authority, at.mono));
    let front = outbox.front(env.limits().max_msg_size, time).clone();
    let lacking = if outbox.feed_may_follow() {
        feeds.lacking(slot)?
    } else {
        None
    };
    if front.is_empty() && lacking.as_ref().is_none_or(|one| one.frames.is_empty()) {
        if let Some(Lacking { next, .. }) = lacking {
            feeds.catch_up(slot, next);
        }
        return Ok(Offer::Nothing);
    }
    Ok(Offer::Bytes { front, lacking })
}

/// Takes note that the socket took `taken` bytes of an offer. A frame counts as sent with its first
/// byte: the tail that is unsent follows in any case.
fn account(
    outbox: &mut Outbox,
    taken: usize,
    lacking: Option<Lacking>,
    slot: u32,
    env: &Env,
    feeds: &mut Feeds,
    at: Moment,
) {
    let metrics = env.metrics();
    metrics.bytes_sent.inc_by(taken as u64);
    let mut of_feed = outbox.consume(taken, at.now, |ticks| {
        metrics.messages_sent.inc();
        metrics.ticks_sent.inc_by(ticks as u64);
    });
    let Some(Lacking { mut next, frames }) = lacking else {
        return;
    };
    for frame in &frames {
        if of_feed == 0 {
            break;
        }
        env.count_frame(frame, at.mono);
        next += 1;
        if of_feed < frame.bytes.len() {
            outbox.set_rest(frame.bytes.slice(of_feed..));
        }
        of_feed = of_feed.saturating_sub(frame.bytes.len());
    }
    if !frames.is_empty() {
        feeds.advance_behind(slot, next);
    }
}
