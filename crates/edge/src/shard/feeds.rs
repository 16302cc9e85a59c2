//! [`Feeds`]: a shard's four feeds, and the membership of each connection. Memberships are stored
//! here rather than in the connections, so that joining, leaving and moving are all recorded in one
//! place.

use std::os::fd::RawFd;

use nix::errno::Errno;
use tickstorm_timebase::{Authority, Epoch, Mono, Tick};

use super::env::ShardSettings;
use crate::feed::{Arrival, CHUNK, ChunkOutcome, Entry, Feed, FeedFrame, FeedId};

/// The maximum number of the ring's frames that are offered to a socket by one call.
const OFFERED_FRAMES_MAX: usize = 64;
/// One chunk in this many goes to an ahead feed, if any has work. At-time feeds get the others.
const AHEAD_SHARE: u64 = 4;

/// A connection's membership in a feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Membership {
    #[default]
    None,
    /// It joins when the feed has passed its resume point, `after`.
    Waiting { feed: FeedId, after: Epoch },
    /// It has the entry at this position of the feed's array.
    Joined { feed: FeedId, position: u32 },
}

impl Membership {
    /// Returns the feed to which the connection has subscribed.
    fn feed(self) -> Option<FeedId> {
        match self {
            Self::None => None,
            Self::Waiting { feed, .. } | Self::Joined { feed, .. } => Some(feed),
        }
    }
}

/// The memberships of all connections, and how many of them each feed has.
#[derive(Default)]
struct Memberships {
    by_slot: Vec<Membership>,
    of_feeds: [usize; FeedId::ALL.len()],
}

impl Memberships {
    fn of(&self, slot: u32) -> Membership {
        let known = self.by_slot.get(slot as usize);
        known.copied().unwrap_or_default()
    }

    fn set(&mut self, slot: u32, membership: Membership) {
        let index = slot as usize;
        if index >= self.by_slot.len() {
            self.by_slot.resize(index + 1, Membership::None);
        }
        let before = std::mem::replace(&mut self.by_slot[index], membership);
        if let Some(feed) = before.feed() {
            self.of_feeds[feed.index()] -= 1;
        }
        if let Some(feed) = membership.feed() {
            self.of_feeds[feed.index()] += 1;
        }
    }
}

/// The next frames of its feed that a subscriber on the slow path has not been sent.
pub(super) struct UnsentFrames {
    /// The number of the first of `frames`, or of the feed's next frame if there are none.
    pub(super) next: u64,
    /// The frames, at most [`OFFERED_FRAMES_MAX`].
    pub(super) frames: Vec<FeedFrame>,
}

/// The ring has overwritten a frame that a subscriber has not been sent: it is a slow consumer.
#[derive(Debug)]
pub(super) struct Overwritten;

pub(super) struct Feeds {
    feeds: [Feed; FeedId::ALL.len()],
    memberships: Memberships,
    /// The number of chunks sent so far.
    chunks: u64,
    /// The number of the last chunk of each feed.
    last_chunk: [u64; FeedId::ALL.len()],
}

impl Feeds {
    pub(super) fn new(settings: &ShardSettings) -> Self {
        Self {
            feeds: FeedId::ALL.map(|id| Feed::new(id, settings.ahead, settings.feeds)),
            memberships: Memberships::default(),
            chunks: 0,
            last_chunk: [0; FeedId::ALL.len()],
        }
    }

    fn feed(&mut self, id: FeedId) -> &mut Feed {
        &mut self.feeds[id.index()]
    }

    /// Returns the last tick that a feed has put into a frame.
    pub(super) fn last(&self, id: FeedId) -> Epoch {
        self.feeds[id.index()].last()
    }

    /// Adds all ticks that are due by `mono` to the feeds.
    pub(super) fn release(&mut self, authority: &Authority, mono: Mono) {
        let feeds = self.feeds.iter_mut();
        feeds.for_each(|feed| feed.release(authority, mono));
    }

    /// Returns when the next tick is due.
    pub(super) fn next_tick(&self, authority: &Authority) -> Mono {
        let ticks = self.feeds.iter().map(|feed| feed.next_tick(authority));
        ticks.min().unwrap_or(Mono::NEVER)
    }

    /// Returns when the next batch is due.
    pub(super) fn next_batch(&self) -> Mono {
        let batches = self.feeds.iter().map(Feed::next_batch);
        batches.min().unwrap_or(Mono::NEVER)
    }

    /// Adds ticks that do not come from the grid.
    #[cfg(feature = "bench")]
    pub(super) fn offer(&mut self, id: FeedId, ticks: &[Tick]) {
        self.feed(id).offer(ticks);
    }

    /// Returns the feed to send next, among the feeds that have work. While the time is not known,
    /// only frames that are already made count as work. At-time feeds take precedence over ahead
    /// feeds, except for one chunk in [`AHEAD_SHARE`]. Among feeds of the same kind, the one that
    /// has waited longest is next. So each feed gets its share, however much the others have to
    /// send.
    pub(super) fn next_to_send(&self, mono: Mono, time_is_known: bool) -> Option<FeedId> {
        let favours_ahead = self.chunks % AHEAD_SHARE == AHEAD_SHARE - 1;
        let with_work = FeedId::ALL
            .into_iter()
            .filter(|id| self.feeds[id.index()].has_work(mono, time_is_known));
        with_work.min_by_key(|id| {
            let is_ahead = id.delivery == crate::feed::Delivery::Ahead;
            (is_ahead != favours_ahead, self.last_chunk[id.index()])
        })
    }

    /// Turns a feed's due batch into frames. Returns its first tick.
    pub(super) fn flush(&mut self, id: FeedId, authority: &Authority, mono: Mono) -> Option<Tick> {
        self.feed(id).flush(authority, mono)
    }

    /// Returns whether a feed has passed the resume point of a waiting subscriber.
    pub(super) fn have_arrivals(&self) -> bool {
        self.feeds.iter().any(Feed::has_arrivals)
    }

    /// Returns the next waiting subscriber whose feed has passed its resume point.
    pub(super) fn poll_arrival(&mut self) -> Option<(FeedId, Arrival)> {
        FeedId::ALL
            .into_iter()
            .find_map(|id| Some((id, self.feed(id).poll_arrival()?)))
    }

    /// Sends one chunk of a feed's fan-out. Returns true when the fan-out is over.
    pub(super) fn send_chunk(
        &mut self,
        id: FeedId,
        left: &mut ChunkOutcome,
        send: impl FnMut(RawFd, &[u8]) -> Result<usize, Errno>,
    ) -> bool {
        self.chunks += 1;
        self.last_chunk[id.index()] = self.chunks;
        let memberships = &mut self.memberships;
        self.feeds[id.index()].fan_out(CHUNK, left, send, |owner, position| {
            memberships.set(owner, Membership::Joined { feed: id, position });
        })
    }

    /// Returns the number of connections that have subscribed to a feed.
    pub(super) fn subscribers(&self, id: FeedId) -> usize {
        self.memberships.of_feeds[id.index()]
    }

    /// Returns the number of subscribers on the slow path.
    pub(super) fn behind(&self) -> usize {
        self.feeds.iter().map(Feed::behind).sum()
    }

    /// Returns whether a subscriber is on the slow path.
    #[cfg(test)]
    pub(super) fn is_behind(&mut self, slot: u32) -> bool {
        let joined = self.joined(slot);
        joined.is_some_and(|(feed, position)| {
            let entry = feed.subscribers().entry(position);
            entry.behind().is_some()
        })
    }

    /// Returns whether a feed has anyone to send to.
    pub(super) fn has_joined_subscribers(&mut self, id: FeedId) -> bool {
        self.feed(id).subscribers().len() > 0
    }

    /// Returns whether any feed has subscribers. If none has, a tick may be some microseconds late.
    pub(super) fn have_subscribers(&mut self) -> bool {
        let mut feeds = self.feeds.iter_mut();
        feeds.any(|feed| feed.subscribers().len() > 0)
    }

    /// Lets a connection join a feed after its last frame, or wait until the feed passes `start`,
    /// if that is ahead of it.
    pub(super) fn enter(
        &mut self,
        slot: u32,
        fd: RawFd,
        id: FeedId,
        start: Epoch,
        is_behind: bool,
    ) {
        if start > self.last(id) {
            self.feed(id).wait(slot, start);
            let waiting = Membership::Waiting {
                feed: id,
                after: start,
            };
            self.memberships.set(slot, waiting);
        } else {
            let next = self.feed(id).ring().head();
            self.insert(slot, fd, id, next, is_behind);
        }
    }

    /// Lets a connection join a feed on the slow path, starting with frame `next`.
    pub(super) fn join(&mut self, slot: u32, fd: RawFd, id: FeedId, next: u64) {
        self.insert(slot, fd, id, next, true);
    }

    fn insert(&mut self, slot: u32, fd: RawFd, id: FeedId, next: u64, is_behind: bool) {
        let subscribers = self.feed(id).subscribers();
        let position = subscribers.join(fd, slot, next, is_behind);
        let joined = Membership::Joined { feed: id, position };
        self.memberships.set(slot, joined);
    }

    /// Removes a connection from its feed, if it is in one.
    pub(super) fn leave(&mut self, slot: u32) {
        match self.memberships.of(slot) {
            Membership::None => return,
            Membership::Waiting { feed, after } => self.feed(feed).stop_waiting(slot, after),
            Membership::Joined { feed, position } => {
                if let Some(moved) = self.feed(feed).subscribers().leave(position) {
                    let joined = Membership::Joined { feed, position };
                    self.memberships.set(moved, joined);
                }
            }
        }
        self.memberships.set(slot, Membership::None);
    }

    /// Returns whether a connection has joined a feed.
    pub(super) fn has_joined(&self, slot: u32) -> bool {
        matches!(self.memberships.of(slot), Membership::Joined { .. })
    }

    /// Returns the feed to which a connection has subscribed.
    pub(super) fn feed_of(&self, slot: u32) -> Option<FeedId> {
        self.memberships.of(slot).feed()
    }

    /// Returns the number of frames of its feed that a connection has not been sent.
    pub(super) fn backlog(&mut self, slot: u32) -> u64 {
        let Some((feed, position)) = self.joined(slot) else {
            return 0;
        };
        let next = next_of(feed.subscribers().entry(position));
        feed.ring().head().saturating_sub(next)
    }

    /// Puts a subscriber on the slow path, if it is not there yet, so that the hot loop skips it.
    pub(super) fn fall_behind(&mut self, slot: u32) {
        if let Some((feed, position)) = self.joined(slot) {
            let entry = feed.subscribers().entry(position);
            let next = next_of(entry);
            feed.subscribers().fall_behind(position, next);
        }
    }

    /// Returns the next frames that a subscriber has not been sent; `None` if it has not joined a
    /// feed.
    pub(super) fn unsent_frames(&mut self, slot: u32) -> Result<Option<UnsentFrames>, Overwritten> {
        let Some((feed, position)) = self.joined(slot) else {
            return Ok(None);
        };
        let next = next_of(feed.subscribers().entry(position));
        let frames = feed.ring().from(next).ok_or(Overwritten)?;
        let frames = frames.take(OFFERED_FRAMES_MAX).cloned().collect();
        Ok(Some(UnsentFrames { next, frames }))
    }

    /// Records that `next` is the next frame that a subscriber on the slow path needs.
    pub(super) fn advance_behind(&mut self, slot: u32, next: u64) {
        if let Some((feed, position)) = self.joined(slot) {
            feed.subscribers().fall_behind(position, next);
        }
    }

    /// Moves a subscriber on the slow path past all frames of its feed, because its replay will
    /// include their ticks. Returns the last of these ticks; `None` if it has not joined a feed.
    pub(super) fn skip_to_head(&mut self, slot: u32) -> Option<Epoch> {
        let (feed, position) = self.joined(slot)?;
        let head = feed.ring().head();
        feed.subscribers().fall_behind(position, head);
        Some(feed.last())
    }

    /// Takes a subscriber off the slow path. It has been sent everything before `next`, and the hot
    /// loop sends it the rest.
    pub(super) fn catch_up(&mut self, slot: u32, next: u64) {
        if let Some((feed, position)) = self.joined(slot) {
            feed.subscribers().catch_up(position, next);
        }
    }

    /// Returns the descriptors of all subscribers that have caught up, in the order of the feeds'
    /// arrays.
    #[cfg(feature = "bench")]
    pub(super) fn caught_up(&mut self) -> Vec<RawFd> {
        self.feeds.iter_mut().flat_map(Feed::caught_up).collect()
    }

    fn joined(&mut self, slot: u32) -> Option<(&mut Feed, u32)> {
        match self.memberships.of(slot) {
            Membership::Joined { feed, position } => Some((self.feed(feed), position)),
            Membership::None | Membership::Waiting { .. } => None,
        }
    }
}

fn next_of(entry: &Entry) -> u64 {
    entry.behind().unwrap_or_else(|| entry.ready_for())
}
