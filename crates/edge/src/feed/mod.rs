//! A feed: one stream of frames on a shard, carrying one mode at its time or ahead of it. Ticks
//! enter through [`Feed::release`], or as a burst through [`Feed::offer`]. They pass through the
//! batch into the ring, and are sent by sweeps over the subscribers. A feed knows nothing about
//! connections: the shard, which owns them, acts on the results.

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
use tickstorm_timebase::{Authority, Epoch, Mono, Quality, Schedule, Tick};

use batch::{Batch, Pending};
use fanout::Sweep;
pub(crate) use fanout::{CHUNK, ChunkOutcome};
pub(crate) use feed_id::{Delivery, FeedId};
pub(crate) use ring::{FeedFrame, Ring};
pub(crate) use subscribers::{Entry, Subscribers};

/// The limits that all feeds of an edge share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedLimits {
    pub(crate) batch_window: Duration,
    pub(crate) resume_window: Duration,
    /// The most frames that a subscriber may be behind.
    pub(crate) behind_max: usize,
    pub(crate) max_msg_size: usize,
}

/// A waiting subscriber whose resume point the feed has passed. It joins the feed on the slow path
/// and catches up from there.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) owner: u32,
    /// The number of the first shared frame that it gets.
    pub(crate) next: u64,
    /// A separate frame to send first, if the shared frame with its first ticks starts before its
    /// resume point.
    pub(crate) own: Option<FeedFrame>,
}

/// A frame that has passed the resume points of waiting subscribers.
struct PassedFrame {
    number: u64,
    ticks: Vec<Tick>,
    sent_unix_us: i64,
    /// The last resume point that this frame was cut for, and the resulting frame, if one was
    /// needed. It is kept since many subscribers often wait for the same point.
    cut: Option<(Epoch, Option<FeedFrame>)>,
}

/// One feed of a shard.
pub(crate) struct Feed {
    id: FeedId,
    limits: FeedLimits,
    schedule: Schedule,
    batch: Batch,
    ring: Ring,
    subscribers: Subscribers,
    /// Subscribers whose resume point is ahead of the feed, ordered by that point. They join with
    /// the first tick after it.
    waiting: BTreeSet<(Epoch, u32)>,
    /// Frames that have passed a resume point whose subscribers have not joined yet.
    passed: VecDeque<PassedFrame>,
    sweep: Option<Sweep>,
    /// The number of the first frame that no sweep has sent yet.
    unswept: u64,
    generation: Option<u32>,
    /// The last tick that was put into the batch.
    batched: Epoch,
    /// The last tick that was put into a frame.
    framed: Epoch,
    /// The number of sweeps so far.
    sweeps: u64,
    due: Vec<Tick>,
    buffer: Vec<u8>,
}

impl Feed {
    /// Creates the feed `id`. If it is an ahead feed, it sends `lead` before the ticks' time.
    pub(crate) fn new(id: FeedId, lead: Duration, limits: FeedLimits) -> Self {
        Self {
            id,
            limits,
            schedule: Schedule::new(id.mode, id.lead(lead), limits.resume_window),
            batch: Batch::new(limits.batch_window),
            ring: Ring::new(limits.behind_max),
            subscribers: Subscribers::default(),
            waiting: BTreeSet::new(),
            passed: VecDeque::new(),
            sweep: None,
            unswept: 0,
            generation: None,
            batched: Epoch::from_ms(i64::MIN),
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

    /// Returns the number of subscribers on the slow path.
    pub(crate) fn behind(&self) -> usize {
        self.subscribers.behind()
    }

    /// Returns the descriptors of the subscribers that have been sent every frame in the ring.
    #[cfg(feature = "bench")]
    pub(crate) fn caught_up(&mut self) -> Vec<RawFd> {
        let head = self.ring.head();
        let entries = self.subscribers.entries().iter();
        let caught_up = entries.filter(|entry| entry.ready_for() == head);
        caught_up.map(Entry::fd).collect()
    }

    /// Returns the last tick that is in a frame, or the one before the first tick if there is no
    /// frame yet. A new subscription starts after it.
    pub(crate) fn last(&self) -> Epoch {
        self.framed
    }

    /// Puts all ticks that authority time has reached into the batch.
    pub(crate) fn release(&mut self, authority: &Authority, now: Mono) {
        if self.generation != Some(authority.generation()) {
            self.restart(authority);
        }
        let mut due = std::mem::take(&mut self.due);
        self.schedule.poll(authority, now, &mut due);
        for tick in due.drain(..) {
            // The quality is decided when the frame is made, which a fan-out in progress may delay.
            self.add_to_batch(tick.epoch, None);
        }
        self.due = due;
    }

    /// Starts over, because the time has just become known or was stepped back.
    fn restart(&mut self, authority: &Authority) {
        self.generation = Some(authority.generation());
        self.batch.clear();
        self.waiting.clear();
        self.passed.clear();
        self.framed = self.schedule.last(authority);
        self.batched = self.framed;
    }

    /// Puts ticks that do not come from the grid into the batch, with the quality they have. Ticks
    /// at or before the last one are ignored.
    #[cfg(any(feature = "bench", test))]
    pub(crate) fn offer(&mut self, ticks: &[Tick]) {
        for tick in ticks {
            self.add_to_batch(tick.epoch, Some(tick.quality));
        }
    }

    fn add_to_batch(&mut self, epoch: Epoch, quality: Option<Quality>) {
        if epoch > self.batched {
            self.batched = epoch;
            self.batch.push(Pending { epoch, quality });
        }
    }

    /// Returns when the next tick is due to be released.
    pub(crate) fn next_tick(&self, authority: &Authority) -> Mono {
        self.schedule.next_due(authority)
    }

    /// Returns when the next batch is due to be sent, or [`Mono::NEVER`] if nothing is pending.
    pub(crate) fn next_batch(&self) -> Mono {
        self.batch.due().unwrap_or(Mono::NEVER)
    }

    /// Returns whether there are frames to send now. New frames can be made only if the time
    /// `is_known`.
    pub(crate) fn has_work(&self, now: Mono, is_known: bool) -> bool {
        self.sweep.is_some()
            || self.unswept < self.ring.head()
            || (is_known && self.batch.due().is_some_and(|due| due <= now))
    }

    /// Turns a batch that is due into frames and returns its first tick. While a sweep is running
    /// this does nothing, since `sent_unix_us` and the ticks' quality must be those of the moment
    /// at which the frames' own fan-out starts.
    pub(crate) fn flush(&mut self, authority: &Authority, now: Mono) -> Option<Tick> {
        let is_due = self.batch.due().is_some_and(|due| due <= now);
        if self.sweep.is_some() || !is_due {
            return None;
        }
        // The ring must hold every frame that no sweep has sent yet, so ticks that do not fit stay
        // in the batch.
        let unswept = usize::try_from(self.ring.head() - self.unswept).unwrap_or(usize::MAX);
        let frames = self.limits.behind_max.saturating_sub(unswept);
        let per_frame = ticks_per_frame(self.limits.max_msg_size);
        let pending = self.batch.take(now, frames * per_frame);
        let mut ticks = std::mem::take(&mut self.due);
        ticks.extend(pending.iter().map(|tick| tick.tick_at(authority, now)));
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

    /// Returns whether the feed has passed the resume point of a waiting subscriber.
    pub(crate) fn has_arrivals(&self) -> bool {
        let first = self.waiting.first();
        first.is_some_and(|(after, _)| *after < self.framed)
    }

    /// Returns the next waiting subscriber whose resume point the feed has passed, and stops its
    /// wait.
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
        let first = ticks.first().expect("a frame has at least one tick");
        self.buffer.clear();
        encode_batch(self.id.mode, ticks, sent_unix_us, &mut self.buffer);
        FeedFrame {
            bytes: Bytes::copy_from_slice(&self.buffer),
            first: first.epoch,
            ticks: u32::try_from(ticks.len()).unwrap_or(u32::MAX),
            feed: self.id,
            timed: first.quality != Quality::Replay,
        }
    }

    /// Makes a subscriber wait until the feed passes `after`.
    pub(crate) fn wait(&mut self, owner: u32, after: Epoch) {
        self.waiting.insert((after, owner));
    }

    /// Ends the wait of a subscriber for `after`.
    pub(crate) fn stop_waiting(&mut self, owner: u32, after: Epoch) {
        self.waiting.remove(&(after, owner));
    }

    /// Sends to up to `chunk` subscribers with `send`. Returns true when the sweep is over. Frames
    /// that were made during a sweep are sent by the next one. Calls `moved(owner, position)` for
    /// every entry that moved.
    pub(crate) fn fan_out(
        &mut self,
        chunk: usize,
        left: &mut ChunkOutcome,
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
        let fallen = left.fallen_len();
        let finished = sweep.run(self.subscribers.entries(), chunk, behind_max, left, send);
        self.subscribers.note_fallen(left.fallen_len() - fallen);
        if finished {
            self.unswept = sweep.target();
            self.sweep = None;
            self.subscribers.unpin(moved);
        }
        finished
    }

    /// Starts a sweep, each time at a different position of the array, so that no subscriber is
    /// always last.
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

/// Returns the position in an array of `len` entries at which sweep number `sweep` starts. From one
/// sweep to the next the start moves by the golden ratio of the array's length, which spreads the
/// starts evenly over any length.
fn start_of(sweep: u64, len: usize) -> usize {
    /// The fractional part of the golden ratio, in units of 2^-64.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let fraction = u128::from(sweep.wrapping_mul(GOLDEN));
    usize::try_from((fraction * len as u128) >> 64).expect("less than the length")
}
