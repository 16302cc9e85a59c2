//! A feed: one stream of frames on a shard, a mode at its time or ahead of it. Ticks come in by
//! [`Feed::release`] (or as a burst by [`Feed::offer`], the same entry), go through the batch into
//! the ring, and out by sweeps over the subscribers. A feed knows no connections: whoever owns them
//! applies what it says.

mod batch;
mod fanout;
mod feed_id;
mod ring;
mod subscribers;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::RawFd;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use tickstorm_protocol::message::{encode_batch, ticks_per_frame};
use tickstorm_timebase::{Authority, Epoch, Mode, Mono, Quality, Schedule, Tick};

use batch::{Batch, Pending};
use fanout::Sweep;
pub(crate) use fanout::{CHUNK, Leftovers};
pub(crate) use feed_id::{Delivery, FeedId};
pub(crate) use ring::{FeedFrame, Ring};
pub(crate) use subscribers::{Entry, Subscribers};

/// What all feeds of an edge have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedLimits {
    pub(crate) batch_window: Duration,
    pub(crate) resume_window: Duration,
    /// Frames that a subscriber may be behind.
    pub(crate) behind_max: usize,
    pub(crate) max_msg_size: usize,
}

/// A waiting subscriber whose resume point the feed has passed: it joins on the slow path, and
/// catches up from there.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) owner: u32,
    /// Number of the frame with which it joins.
    pub(crate) next: u64,
    /// A frame of its own that comes before: the shared one begins too early for it.
    pub(crate) own: Option<FeedFrame>,
}

/// A frame that has passed the resume points of waiting subscribers.
struct PassedFrame {
    number: u64,
    ticks: Vec<Tick>,
    sent_unix_us: i64,
    /// The last resume point that it was cut for, and what came of that: many wait for the same
    /// one.
    cut: Option<(Epoch, Option<FeedFrame>)>,
}

/// One feed of a shard.
pub(crate) struct Feed {
    mode: Mode,
    delivery: Delivery,
    limits: FeedLimits,
    schedule: Schedule,
    batch: Batch,
    ring: Ring,
    subscribers: Subscribers,
    /// Subscribers whose resume point lies ahead of the feed, by that point: they join with the
    /// first tick after it.
    waiting: BTreeSet<(Epoch, u32)>,
    /// Frames that some of them have yet to join with.
    passed: VecDeque<PassedFrame>,
    sweep: Option<Sweep>,
    /// Number of the first frame that no sweep has carried yet.
    unswept: u64,
    generation: Option<u32>,
    /// The last tick taken in, and the last one put into a frame.
    offered: Epoch,
    framed: Epoch,
    /// How many sweeps there were.
    sweeps: u64,
    due: Vec<Tick>,
    buffer: Vec<u8>,
}

impl Feed {
    /// The feed `id`; one that is ahead of the ticks' time is so by `lead`.
    pub(crate) fn new(id: FeedId, lead: Duration, limits: FeedLimits) -> Self {
        let FeedId { mode, delivery } = id;
        let lead = match delivery {
            Delivery::AtTime => Duration::ZERO,
            Delivery::Ahead => lead,
        };
        Self {
            mode,
            delivery,
            limits,
            schedule: Schedule::new(mode, lead, limits.resume_window),
            batch: Batch::new(limits.batch_window),
            ring: Ring::new(limits.behind_max),
            subscribers: Subscribers::default(),
            waiting: BTreeSet::new(),
            passed: VecDeque::new(),
            sweep: None,
            unswept: 0,
            generation: None,
            offered: Epoch::from_ms(i64::MIN),
            framed: Epoch::from_ms(i64::MIN),
            sweeps: 0,
            due: Vec::new(),
            buffer: Vec::new(),
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn subscribers(&mut self) -> &mut Subscribers {
        &mut self.subscribers
    }

    /// The descriptors of the subscribers that have every frame there is.
    #[cfg(feature = "bench")]
    pub(crate) fn caught_up(&mut self) -> Vec<RawFd> {
        let head = self.ring.head();
        let entries = self.subscribers.entries().iter();
        let caught_up = entries.filter(|entry| entry.ready_for() == head);
        caught_up.map(Entry::fd).collect()
    }

    /// The last tick that is in a frame (or the one before the first): where a new subscription
    /// stands.
    pub(crate) fn last(&self) -> Epoch {
        self.framed
    }

    /// Takes in all ticks that authority time has reached.
    pub(crate) fn release(&mut self, authority: &Authority, now: Mono) {
        if self.generation != Some(authority.generation()) {
            self.begin(authority);
        }
        let mut due = std::mem::take(&mut self.due);
        self.schedule.poll(authority, now, &mut due);
        for tick in due.drain(..) {
            // Its quality is decided when its frame is made, which a fan-out under way may delay.
            self.take_in(tick.epoch, None);
        }
        self.due = due;
    }

    /// Starts afresh: the time was not known before, or was stepped back.
    fn begin(&mut self, authority: &Authority) {
        self.generation = Some(authority.generation());
        self.batch.clear();
        self.waiting.clear();
        self.passed.clear();
        self.framed = self.schedule.last(authority);
        self.offered = self.framed;
    }

    /// Takes in ticks that did not come from the grid, with the quality they have; those at or
    /// before the last one are passed over.
    #[cfg(any(feature = "bench", test))]
    pub(crate) fn offer(&mut self, ticks: &[Tick]) {
        for tick in ticks {
            self.take_in(tick.epoch, Some(tick.quality));
        }
    }

    fn take_in(&mut self, epoch: Epoch, quality: Option<Quality>) {
        if epoch > self.offered {
            self.offered = epoch;
            self.batch.push(Pending { epoch, quality });
        }
    }

    /// When the next tick is to be released.
    pub(crate) fn next_tick(&self, authority: &Authority) -> Mono {
        self.schedule.next_due(authority)
    }

    /// When the next batch is to be sent.
    pub(crate) fn next_batch(&self) -> Mono {
        self.batch.due().unwrap_or(Mono::NEVER)
    }

    /// Whether frames are to be sent now; new ones can be made only where the time `is_known`.
    pub(crate) fn has_work(&self, now: Mono, is_known: bool) -> bool {
        self.sweep.is_some()
            || self.unswept < self.ring.head()
            || (is_known && self.batch.due().is_some_and(|due| due <= now))
    }

    /// Turns a batch that is due into frames, unless the last ones are still going out:
    /// `sent_unix_us` and the ticks' quality are of the moment at which a fan-out begins. Returns
    /// the first tick of what was flushed.
    pub(crate) fn flush(&mut self, authority: &Authority, now: Mono) -> Option<Tick> {
        let is_due = self.batch.due().is_some_and(|due| due <= now);
        if self.sweep.is_some() || !is_due {
            return None;
        }
        // The ring must hold all that no sweep has carried yet: what does not fit stays in the
        // batch.
        let unswept = usize::try_from(self.ring.head() - self.unswept).unwrap_or(usize::MAX);
        let frames = self.limits.behind_max.saturating_sub(unswept);
        let per_frame = ticks_per_frame(self.limits.max_msg_size);
        let pending = self.batch.take(now, frames * per_frame);
        let mut ticks = std::mem::take(&mut self.due);
        ticks.extend(pending.iter().map(|one| one.tick_at(authority, now)));
        let first = ticks.first().copied();
        let sent_unix_us = authority.time_at(now).as_micros();
        for chunk in ticks.chunks(per_frame) {
            let Some(last) = chunk.last() else { continue };
            self.framed = last.epoch;
            let frame = self.encode(chunk, sent_unix_us);
            let number = self.ring.push(frame);
            if self.has_arrivals() {
                self.passed.push_back(PassedFrame {
                    number,
                    ticks: chunk.to_vec(),
                    sent_unix_us,
                    cut: None,
                });
            }
        }
        ticks.clear();
        self.due = ticks;
        first
    }

    /// Whether the feed has passed somebody's resume point.
    pub(crate) fn has_arrivals(&self) -> bool {
        let first = self.waiting.first();
        first.is_some_and(|(after, _)| *after < self.framed)
    }

    /// The next waiting subscriber whose resume point the feed has passed.
    pub(crate) fn poll_arrival(&mut self) -> Option<Arrival> {
        let (after, owner) = *self.waiting.first()?;
        let is_before =
            |frame: &PassedFrame| frame.ticks.last().is_some_and(|last| last.epoch <= after);
        while self.passed.front().is_some_and(is_before) {
            self.passed.pop_front();
        }
        let mut frame = self.passed.pop_front()?;
        self.waiting.pop_first();
        let own = match frame.cut.take() {
            Some((point, own)) if point == after => own,
            Some(_) | None => {
                let first = frame.ticks.partition_point(|tick| tick.epoch <= after);
                let rest = &frame.ticks[first..];
                (first > 0).then(|| self.encode(rest, frame.sent_unix_us))
            }
        };
        frame.cut = Some((after, own.clone()));
        let next = frame.number + u64::from(own.is_some());
        self.passed.push_front(frame);
        Some(Arrival { owner, next, own })
    }

    fn encode(&mut self, ticks: &[Tick], sent_unix_us: i64) -> FeedFrame {
        let first = ticks.first().expect("at least one tick a frame");
        self.buffer.clear();
        encode_batch(self.mode, ticks, sent_unix_us, &mut self.buffer);
        FeedFrame {
            bytes: Bytes::copy_from_slice(&self.buffer),
            first: first.epoch,
            ticks: u32::try_from(ticks.len()).unwrap_or(u32::MAX),
            timed: self.delivery == Delivery::AtTime && first.quality != Quality::Replay,
        }
    }

    /// Lets a subscriber wait until the feed passes `after`.
    pub(crate) fn wait(&mut self, owner: u32, after: Epoch) {
        self.waiting.insert((after, owner));
    }

    /// Ends the wait of a subscriber for `after`.
    pub(crate) fn stop_waiting(&mut self, owner: u32, after: Epoch) {
        self.waiting.remove(&(after, owner));
    }

    /// Sends to up to `chunk` subscribers with `send`; true when the sweep is over. Frames that
    /// came during a sweep go out with the next. Calls `moved(owner, position)` for every entry
    /// that moved.
    pub(crate) fn fan_out(
        &mut self,
        chunk: usize,
        left: &mut Leftovers,
        send: impl FnMut(RawFd, &[u8]) -> Result<usize, Errno>,
        moved: impl FnMut(u32, u32),
    ) -> bool {
        if self.sweep.is_none() {
            self.begin_sweep();
        }
        let Some(sweep) = self.sweep.as_mut() else {
            return true;
        };
        let behind_max = self.limits.behind_max as u64;
        let finished = sweep.run(self.subscribers.entries(), chunk, behind_max, left, send);
        if finished {
            self.unswept = sweep.target();
            self.sweep = None;
            self.subscribers.unpin(moved);
        }
        finished
    }

    /// Each sweep starts at another place of the array: nobody is always last.
    fn begin_sweep(&mut self) {
        let len = self.subscribers.len();
        let start = start_of(self.sweeps, len);
        self.sweeps = self.sweeps.wrapping_add(1);
        self.sweep = Sweep::begin(&self.ring, self.unswept, start, len);
        if self.sweep.is_some() {
            self.subscribers.pin();
        }
    }
}

/// Where in an array of `len` the sweep of that number starts: the golden ratio of it further on
/// than the one before, which spreads over any length.
fn start_of(sweep: u64, len: usize) -> usize {
    /// The golden ratio's fraction, in parts of 2^64.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let turn = u128::from(sweep.wrapping_mul(GOLDEN));
    usize::try_from((turn * len as u128) >> 64).expect("less than the length")
}
