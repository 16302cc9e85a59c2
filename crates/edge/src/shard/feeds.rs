//! [`Feeds`]: a shard's four feeds, and where each connection stands in them. Memberships lie here
//! and not in the connections, so that whoever joins, leaves or is moved is recorded in one place.

use std::os::fd::RawFd;

use nix::errno::Errno;
use tickstorm_timebase::{Authority, Epoch, Mono, Tick};

use super::env::ShardSettings;
use crate::feed::{Arrival, CHUNK, Entry, Feed, FeedFrame, FeedId, Leftovers};

/// Frames of the ring that are offered to a socket by one call.
const FRAMES: usize = 64;
/// Of so many chunks one goes to an ahead feed, if any has work: the feeds at their time have the
/// others.
const AHEAD_SHARE: u64 = 4;

/// A connection's place in the feeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Membership {
    #[default]
    None,
    /// The feed must pass its resume point first.
    Waiting { feed: FeedId, after: Epoch },
    /// It has this entry of the feed's array.
    Joined { feed: FeedId, position: u32 },
}

/// What a subscriber on the slow path has yet to get from its feed.
pub(super) struct Lacking {
    /// Number of the first of `frames`.
    pub(super) next: u64,
    /// The next frames, some at most.
    pub(super) frames: Vec<FeedFrame>,
}

/// The feed has let go of a frame that a subscriber lacks: it is a slow consumer.
#[derive(Debug)]
pub(super) struct FellOut;

pub(super) struct Feeds {
    feeds: [Feed; FeedId::ALL.len()],
    /// By the connections' slots.
    memberships: Vec<Membership>,
    /// Chunks that were sent so far, and by each feed the number of its last one.
    chunks: u64,
    last_chunk: [u64; FeedId::ALL.len()],
}

impl Feeds {
    pub(super) fn new(settings: &ShardSettings) -> Self {
        Self {
            feeds: FeedId::ALL.map(|id| Feed::new(id, settings.ahead, settings.feeds)),
            memberships: Vec::new(),
            chunks: 0,
            last_chunk: [0; FeedId::ALL.len()],
        }
    }

    fn feed(&mut self, id: FeedId) -> &mut Feed {
        &mut self.feeds[id.index()]
    }

    /// The last tick that is in a frame of a feed.
    pub(super) fn last(&self, id: FeedId) -> Epoch {
        self.feeds[id.index()].last()
    }

    /// Takes in all ticks that have become due by `mono`.
    pub(super) fn release(&mut self, authority: &Authority, mono: Mono) {
        let feeds = self.feeds.iter_mut();
        feeds.for_each(|feed| feed.release(authority, mono));
    }

    /// When the next tick is to be released.
    pub(super) fn next_tick(&self, authority: &Authority) -> Mono {
        let ticks = self.feeds.iter().map(|feed| feed.next_tick(authority));
        ticks.min().unwrap_or(Mono::NEVER)
    }

    /// When the next batch is to be sent.
    pub(super) fn next_batch(&self) -> Mono {
        let batches = self.feeds.iter().map(Feed::next_batch);
        batches.min().unwrap_or(Mono::NEVER)
    }

    /// Takes in ticks that did not come from the grid.
    #[cfg(feature = "bench")]
    pub(super) fn offer(&mut self, id: FeedId, ticks: &[Tick]) {
        self.feed(id).offer(ticks);
    }

    /// The feed whose turn it is among those that have something to send; new frames can be made
    /// only while the time `is_known`. At-time feeds go before ahead feeds but for one chunk in
    /// [`AHEAD_SHARE`]; of its kind, the one that has waited longest comes first. So each gets its
    /// share, however much another one has to send.
    pub(super) fn next_to_send(&self, mono: Mono, is_known: bool) -> Option<FeedId> {
        let favours_ahead = self.chunks % AHEAD_SHARE == AHEAD_SHARE - 1;
        let with_work = FeedId::ALL
            .into_iter()
            .filter(|id| self.feeds[id.index()].has_work(mono, is_known));
        with_work.min_by_key(|id| {
            let is_ahead = id.delivery == crate::feed::Delivery::Ahead;
            (is_ahead != favours_ahead, self.last_chunk[id.index()])
        })
    }

    /// Turns a feed's batch that is due into frames. Returns its first tick.
    pub(super) fn flush(&mut self, id: FeedId, authority: &Authority, mono: Mono) -> Option<Tick> {
        self.feed(id).flush(authority, mono)
    }

    /// Whether a feed has passed somebody's resume point.
    pub(super) fn have_arrivals(&self) -> bool {
        self.feeds.iter().any(Feed::has_arrivals)
    }

    /// The next waiting subscriber whose resume point its feed has passed.
    pub(super) fn poll_arrival(&mut self) -> Option<(FeedId, Arrival)> {
        FeedId::ALL
            .into_iter()
            .find_map(|id| Some((id, self.feed(id).poll_arrival()?)))
    }

    /// Sends one chunk of a feed's fan-out.
    pub(super) fn send_chunk(
        &mut self,
        id: FeedId,
        left: &mut Leftovers,
        send: impl FnMut(RawFd, &[u8]) -> Result<usize, Errno>,
    ) {
        self.chunks += 1;
        self.last_chunk[id.index()] = self.chunks;
        let memberships = &mut self.memberships;
        self.feeds[id.index()].fan_out(CHUNK, left, send, |owner, position| {
            set(
                memberships,
                owner,
                Membership::Joined { feed: id, position },
            );
        });
    }

    /// Whether anybody would notice a tick that comes some microseconds late.
    pub(super) fn have_subscribers(&mut self) -> bool {
        let mut feeds = self.feeds.iter_mut();
        feeds.any(|feed| feed.subscribers().len() > 0)
    }

    /// Lets a connection join a feed behind its last frame, or wait until the feed passes a `start`
    /// that lies ahead of it.
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
            set(&mut self.memberships, slot, waiting);
        } else {
            let next = self.feed(id).ring().head();
            self.insert(slot, fd, id, next, is_behind);
        }
    }

    /// Lets a connection join a feed with frame `next`, on the slow path.
    pub(super) fn join(&mut self, slot: u32, fd: RawFd, id: FeedId, next: u64) {
        self.insert(slot, fd, id, next, true);
    }

    fn insert(&mut self, slot: u32, fd: RawFd, id: FeedId, next: u64, is_behind: bool) {
        let subscribers = self.feed(id).subscribers();
        let position = subscribers.join(fd, slot, next, is_behind);
        set(
            &mut self.memberships,
            slot,
            Membership::Joined { feed: id, position },
        );
    }

    /// Takes a connection out of its feed, if it is in one.
    pub(super) fn leave(&mut self, slot: u32) {
        match self.membership(slot) {
            Membership::None => return,
            Membership::Waiting { feed, after } => self.feed(feed).stop_waiting(slot, after),
            Membership::Joined { feed, position } => {
                if let Some(moved) = self.feed(feed).subscribers().leave(position) {
                    set(
                        &mut self.memberships,
                        moved,
                        Membership::Joined { feed, position },
                    );
                }
            }
        }
        set(&mut self.memberships, slot, Membership::None);
    }

    /// Whether a connection has an entry in a feed.
    pub(super) fn has_joined(&self, slot: u32) -> bool {
        matches!(self.membership(slot), Membership::Joined { .. })
    }

    /// The feed that a connection has subscribed to.
    pub(super) fn of(&self, slot: u32) -> Option<FeedId> {
        match self.membership(slot) {
            Membership::None => None,
            Membership::Waiting { feed, .. } | Membership::Joined { feed, .. } => Some(feed),
        }
    }

    /// Frames of its feed that a connection has yet to get.
    pub(super) fn backlog(&mut self, slot: u32) -> u64 {
        let Some((feed, position)) = self.joined(slot) else {
            return 0;
        };
        let next = next_of(feed.subscribers().entry(position));
        feed.ring().head().saturating_sub(next)
    }

    /// Puts a subscriber on the slow path, if it is not there: the hot loop passes it over.
    pub(super) fn fall_behind(&mut self, slot: u32) {
        if let Some((feed, position)) = self.joined(slot) {
            let entry = feed.subscribers().entry(position);
            if entry.behind().is_none() {
                entry.fall_behind(entry.ready_for());
            }
        }
    }

    /// The next frames that a subscriber has yet to get; none if it has not joined a feed.
    pub(super) fn lacking(&mut self, slot: u32) -> Result<Option<Lacking>, FellOut> {
        let Some((feed, position)) = self.joined(slot) else {
            return Ok(None);
        };
        let next = next_of(feed.subscribers().entry(position));
        let frames = feed.ring().from(next).ok_or(FellOut)?;
        let frames = frames.take(FRAMES).cloned().collect();
        Ok(Some(Lacking { next, frames }))
    }

    /// Records on the slow path that `next` is the frame that a subscriber lacks.
    pub(super) fn advance_behind(&mut self, slot: u32, next: u64) {
        if let Some((feed, position)) = self.joined(slot) {
            feed.subscribers().entry(position).fall_behind(next);
        }
    }

    /// Takes a subscriber off the slow path: it has everything before `next`, and the hot loop goes
    /// on with it.
    pub(super) fn catch_up(&mut self, slot: u32, next: u64) {
        if let Some((feed, position)) = self.joined(slot) {
            feed.subscribers().entry(position).advance(next);
        }
    }

    /// The descriptors of all subscribers that have everything, in the feeds' own order.
    #[cfg(feature = "bench")]
    pub(super) fn caught_up(&mut self) -> Vec<RawFd> {
        self.feeds.iter_mut().flat_map(Feed::caught_up).collect()
    }

    fn membership(&self, slot: u32) -> Membership {
        let known = self.memberships.get(slot as usize);
        known.copied().unwrap_or_default()
    }

    fn joined(&mut self, slot: u32) -> Option<(&mut Feed, u32)> {
        match self.membership(slot) {
            Membership::Joined { feed, position } => Some((self.feed(feed), position)),
            Membership::None | Membership::Waiting { .. } => None,
        }
    }
}

fn next_of(entry: &Entry) -> u64 {
    entry.behind().unwrap_or_else(|| entry.ready_for())
}

fn set(memberships: &mut Vec<Membership>, slot: u32, membership: Membership) {
    let index = slot as usize;
    if index >= memberships.len() {
        memberships.resize(index + 1, Membership::None);
    }
    memberships[index] = membership;
}
