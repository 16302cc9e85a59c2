//! Writing outside the hot loop: control frames, replays, and the slow path on which subscribers
//! whose socket was full catch up. One thread runs all paths of a connection, so they never race.
//! A replay is written only in its turn ([`super::replay_queue`]).

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use nix::errno::Errno;
use tickstorm_protocol::code::CloseReason;

use super::connection::{AfterStep, Connection};
use super::driver::Driver;
use super::env::Env;
use super::feeds::{Feeds, Overwritten, UnsentFrames};
use super::outbox::Outbox;
use super::replay::Replay;
use super::time::Moment;
use crate::sys::network::Network;

/// The maximum number of writes to one socket before other connections are served.
const WRITES_MAX: usize = 8;

/// The result of a flush.
enum Flushed {
    /// All output is written, and the subscriber returns to the hot loop.
    All,
    /// The socket is full.
    Full,
    /// The next output belongs to a replay, which must wait for its turn.
    AwaitsTurn,
    /// More output is left, and the socket may accept it.
    More,
    /// The ring has overwritten a frame that the subscriber has not been sent.
    Overwritten,
    Failed(io::Error),
}

/// Whether a flush may write to a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplayTurn {
    /// It may write one frame of the replay, or what is unsent of one.
    Now,
    /// It must stop before the replay.
    Later,
}

/// The output that is offered to a socket by one call.
enum Offer {
    /// No output is left.
    Nothing,
    /// `front`, followed by the feed's frames, if any.
    Bytes {
        front: Bytes,
        unsent: Option<UnsentFrames>,
    },
}

impl<N: Network> Driver<N> {
    /// Sends the control frames that answer one read, directly or, if the connection has an outbox,
    /// through that. Starts to write an outbox that the last step has created.
    pub(super) fn deliver(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        let frames = self.control.take();
        let after = self.deliver_frames(connection, &frames, at);
        self.control.give_back(frames);
        after
    }

    fn deliver_frames(
        &mut self,
        connection: &mut Connection<N::Socket>,
        frames: &[u8],
        at: Moment,
    ) -> AfterStep {
        let (fd, slot) = (connection.socket.as_raw_fd(), connection.key.slot);
        let Some(served) = connection.served_mut() else {
            debug_assert!(
                frames.is_empty(),
                "only a served connection is sent answers"
            );
            return AfterStep::Stays;
        };
        // During a fan-out, a subscriber whose turn has not come gets the tick with its answers, so
        // that the two cost one system call.
        if served.outbox.is_none() && !frames.is_empty() && self.feeds.backlog(slot) > 0 {
            served.outbox = Some(Outbox::new(at.now));
        }
        if let Some(outbox) = served.outbox.as_deref_mut() {
            outbox.push_control(frames);
            if outbox.waits_for_socket {
                return AfterStep::Stays;
            }
            let flushed = self.flush(connection, ReplayTurn::Later, at);
            return self.after_flush(connection, flushed, at);
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
            served.outbox = Some(outbox);
            self.wait_for_output(connection, at);
        }
        AfterStep::Stays
    }

    /// Acts on a flush of an outbox that did not wait for the socket: what is left waits for the
    /// socket, or for its turn.
    fn after_flush(
        &mut self,
        connection: &mut Connection<N::Socket>,
        flushed: Flushed,
        at: Moment,
    ) -> AfterStep {
        match flushed {
            Flushed::All => {}
            Flushed::AwaitsTurn => self.queue_replay(connection, at),
            Flushed::Full | Flushed::More => self.wait_for_output(connection, at),
            Flushed::Overwritten => return self.close(connection, CloseReason::SlowConsumer, at),
            Flushed::Failed(error) => return self.fail(connection, &error, at),
        }
        AfterStep::Stays
    }

    /// Puts a connection with an outbox on the slow path: the hot loop skips it, its socket reports
    /// when it is writable, and the write deadline applies.
    pub(super) fn wait_for_output(&mut self, connection: &mut Connection<N::Socket>, at: Moment) {
        if let Some(outbox) = connection.outbox_mut() {
            outbox.wait_for_socket(at.now);
        }
        self.feeds.fall_behind(connection.key.slot);
        self.rearm(connection);
        self.arm(connection);
    }

    /// Continues to write to a connection on the slow path whose socket is writable again.
    pub(super) fn write(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if connection.outbox_mut().is_none() {
            return AfterStep::Stays;
        }
        match self.flush(connection, ReplayTurn::Later, at) {
            Flushed::All | Flushed::Full => {}
            Flushed::AwaitsTurn => self.queue_replay(connection, at),
            Flushed::More => self.rearm(connection),
            Flushed::Overwritten => return self.close(connection, CloseReason::SlowConsumer, at),
            Flushed::Failed(error) => return self.fail(connection, &error, at),
        }
        self.resume_reading(connection, at)
    }

    /// Queues a connection whose next output belongs to a replay. Until its turn, the socket is not
    /// to blame for the wait.
    fn queue_replay(&mut self, connection: &mut Connection<N::Socket>, at: Moment) {
        let key = connection.key;
        let Some(served) = connection.served_mut() else {
            return;
        };
        let Some(outbox) = served.outbox.as_deref_mut() else {
            return;
        };
        outbox.wait_for_turn(at.now);
        if !std::mem::replace(&mut served.is_replay_queued, true) {
            let ticks = outbox.replay().map_or(0, Replay::ticks);
            self.replays.push(key, ticks);
        }
    }

    /// Writes the next frame of a replay, in its turn.
    pub(super) fn continue_replay(
        &mut self,
        connection: &mut Connection<N::Socket>,
        at: Moment,
    ) -> AfterStep {
        if let Some(served) = connection.served_mut() {
            served.is_replay_queued = false;
        }
        // A subscription without a replay may have replaced this one, or the socket may have become
        // full, which then reports when it is writable again.
        let outbox = connection.outbox_mut();
        if outbox.is_none_or(|outbox| outbox.waits_for_socket) {
            return AfterStep::Stays;
        }
        self.extend_waiting_replay(connection);
        let flushed = self.flush(connection, ReplayTurn::Now, at);
        self.after_flush(connection, flushed, at)
    }

    /// Lets a replay that has waited for its turn include the ticks that the feed has sent
    /// meanwhile, so that the wait puts no subscriber behind. Returns false if the connection has
    /// no such replay.
    pub(super) fn extend_waiting_replay(&mut self, connection: &mut Connection<N::Socket>) -> bool {
        let slot = connection.key.slot;
        let outbox = connection.outbox_mut();
        let waiting = outbox.filter(|outbox| !outbox.waits_for_socket);
        let Some(replay) = waiting.and_then(Outbox::replay_mut) else {
            return false;
        };
        let Some(last) = self.feeds.skip_to_head(slot) else {
            return false;
        };
        replay.extend(last);
        true
    }

    /// Writes unsent output in order until all of it is written, the socket is full, a replay must
    /// wait for its turn, or [`WRITES_MAX`] is reached.
    fn flush(
        &mut self,
        connection: &mut Connection<N::Socket>,
        mut turn: ReplayTurn,
        at: Moment,
    ) -> Flushed {
        let slot = connection.key.slot;
        for _ in 0..WRITES_MAX {
            let Some(served) = connection.served_mut() else {
                return Flushed::All;
            };
            let Some(outbox) = served.outbox.as_deref_mut() else {
                return Flushed::All;
            };
            if outbox.is_replaying() && turn == ReplayTurn::Later {
                return Flushed::AwaitsTurn;
            }
            let (front, unsent) = match offer(outbox, slot, &self.env, &mut self.feeds, at) {
                Ok(Offer::Bytes { front, unsent }) => (front, unsent),
                Ok(Offer::Nothing) => {
                    served.outbox = None;
                    return Flushed::All;
                }
                Err(Overwritten) => return Flushed::Overwritten,
            };
            let frames = unsent.iter().flat_map(|unsent| &unsent.frames);
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
                record_written(outbox, taken, unsent, slot, &self.env, &mut self.feeds, at);
                if outbox.is_between_frames() {
                    turn = ReplayTurn::Later;
                }
            }
        }
        Flushed::More
    }
}

/// Returns the next output of a connection: the front of its outbox, then its feed's frames. If
/// both are empty, the subscriber has caught up and returns to the hot loop.
fn offer(
    outbox: &mut Outbox,
    slot: u32,
    env: &Env,
    feeds: &mut Feeds,
    at: Moment,
) -> Result<Offer, Overwritten> {
    let time = env.authority(at.mono).map(|authority| (authority, at.mono));
    let front = outbox.front(env.limits().max_msg_size, time).clone();
    let unsent = if outbox.feed_may_follow() {
        feeds.unsent_frames(slot)?
    } else {
        None
    };
    if front.is_empty()
        && unsent
            .as_ref()
            .is_none_or(|unsent| unsent.frames.is_empty())
    {
        if let Some(UnsentFrames { next, .. }) = unsent {
            feeds.catch_up(slot, next);
        }
        return Ok(Offer::Nothing);
    }
    Ok(Offer::Bytes { front, unsent })
}

/// Records that the socket accepted `taken` bytes of an offer. A frame counts as sent with its
/// first byte, because its unsent tail always follows.
fn record_written(
    outbox: &mut Outbox,
    taken: usize,
    unsent: Option<UnsentFrames>,
    slot: u32,
    env: &Env,
    feeds: &mut Feeds,
    at: Moment,
) {
    env.metrics().bytes_sent.inc_by(taken as u64);
    let mut of_feed = outbox.consume(taken, at.now, |ticks| env.count_batches(1, ticks as u64));
    let Some(UnsentFrames { mut next, frames }) = unsent else {
        return;
    };
    for frame in &frames {
        if of_feed == 0 {
            break;
        }
        env.count_frame(frame, at.mono);
        next += 1;
        if of_feed < frame.bytes.len() {
            outbox.set_front(frame.bytes.slice(of_feed..));
        }
        of_feed = of_feed.saturating_sub(frame.bytes.len());
    }
    if !frames.is_empty() {
        feeds.advance_behind(slot, next);
    }
}
