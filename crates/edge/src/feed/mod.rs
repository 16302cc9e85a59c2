//! A feed: one stream of frames on a shard, a mode at its time or ahead of it. Ticks come in by [`Feed::release`] (or as a
//! burst by [`Feed::offer`], the same entry), go through the batch into the ring, and out by sweeps over the subscribers.
//! A feed knows no connections: whoever owns them applies what it says.

mod batch;
mod fanout;
mod ring;
mod subscribers;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::time::Duration;

use bytes::Bytes;
use tickstorm_protocol::message::{encode_batch, ticks_per_frame};
use tickstorm_timebase::{Authority, Epoch, Mode, Mono, Quality, Schedule, Tick};

use batch::Batch;
use fanout::Sweep;
pub(crate) use fanout::{CHUNK, Fallen, Leftovers};
pub(crate) use ring::{Frame, Ring};
use subscribers::Entry;
pub(crate) use subscribers::Subscribers;

/// What all feeds of an edge have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedLimits {
    pub(crate) batch_window: Duration,
    pub(crate) resume_window: Duration,
    /// Frames that a subscriber may be behind.
    pub(crate) behind_max: usize,
    pub(crate) max_msg_size: usize,
}

/// What a flush means for those who waited for it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) owner: u32,
    /// The frame with which it joins.
    pub(crate) next: u64,
    /// A frame of its own that comes before: the shared one begins too early for it.
    pub(crate) own: Option<Frame>,
}

/// One feed of a shard.
pub(crate) struct Feed {
    mode: Mode,
    ahead: bool,
    limits: FeedLimits,
    schedule: Schedule,
    batch: Batch,
    ring: Ring,
    subscribers: Subscribers,
    /// Whose resume point lies ahead of the feed: they join with the first tick after it.
    waiting: BTreeMap<u32, Epoch>,
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
    /// A feed of `mode`, `lead` ahead of the ticks' time (zero: at their time).
    pub(crate) fn new(mode: Mode, lead: Duration, limits: FeedLimits) -> Self {
        Self {
            mode,
            ahead: !lead.is_zero(),
            limits,
            schedule: Schedule::new(mode, lead, limits.resume_window),
            batch: Batch::new(limits.batch_window),
            ring: Ring::new(limits.behind_max),
            subscribers: Subscribers::default(),
            waiting: BTreeMap::new(),
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
    pub(crate) fn caught_up(&mut self) -> Vec<RawFd> {
        let head = self.ring.head();
        let entries = self.subscribers.entries().iter();
        let caught_up = entries.filter(|entry| entry.ready_for() == head);
        caught_up.map(Entry::fd).collect()
    }

    /// The last tick that is in a frame (or the one before the first): where a new subscription stands.
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
        self.offer(&due);
        due.clear();
        self.due = due;
    }

    /// Starts afresh: the time was not known before, or was stepped back.
    fn begin(&mut self, authority: &Authority) {
        self.generation = Some(authority.generation());
        self.batch.clear();
        self.waiting.clear();
        self.framed = self.schedule.last(authority);
        self.offered = self.framed;
    }

    /// Takes in ticks that are to be sent; those at or before the last one are passed over.
    pub(crate) fn offer(&mut self, ticks: &[Tick]) {
        for tick in ticks {
            if tick.epoch > self.offered {
                self.offered = tick.epoch;
                self.batch.push(*tick);
            }
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

    /// Turns a batch that is due into frames, unless a sweep is under way: its frames begin to go out when they say so. Gives
    /// the first tick of what was flushed.
    pub(crate) fn flush(
        &mut self,
        authority: &Authority,
        now: Mono,
        arrivals: &mut Vec<Arrival>,
    ) -> Option<Tick> {
        let is_due = self.batch.due().is_some_and(|due| due <= now);
        if self.sweep.is_some() || !is_due {
            return None;
        }
        // The ring must hold all that no sweep has carried yet: what does not fit stays in the batch.
        let unswept = usize::try_from(self.ring.head() - self.unswept).unwrap_or(usize::MAX);
        let frames = self.limits.behind_max.saturating_sub(unswept);
        let per_frame = ticks_per_frame(self.limits.max_msg_size);
        let ticks = self.batch.take(now, frames * per_frame);
        let sent_unix_us = authority.time_at(now).as_micros();
        for chunk in ticks.chunks(per_frame) {
            let Some(last) = chunk.last() else { continue };
            self.framed = last.epoch;
            let frame = self.encode(chunk, sent_unix_us);
            let number = self.ring.push(frame);
            self.let_in(chunk, number, sent_unix_us, arrivals);
        }
        ticks.first().copied()
    }

    /// Names those whose resume point the new frame `number` passes.
    fn let_in(
        &mut self,
        ticks: &[Tick],
        number: u64,
        sent_unix_us: i64,
        arrivals: &mut Vec<Arrival>,
    ) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|owner, after| {
            if *after >= self.framed {
                return true;
            }
            let first = ticks.partition_point(|tick| tick.epoch <= *after);
            let own = (first > 0).then(|| self.encode(&ticks[first..], sent_unix_us));
            arrivals.push(Arrival {
                owner: *owner,
                next: number + u64::from(own.is_some()),
                own,
            });
            false
        });
        self.waiting = waiting;
    }

    fn encode(&mut self, ticks: &[Tick], sent_unix_us: i64) -> Frame {
        let first = ticks.first().expect("at least one tick a frame");
        self.buffer.clear();
        encode_batch(self.mode, ticks, sent_unix_us, &mut self.buffer);
        Frame {
            bytes: Bytes::copy_from_slice(&self.buffer),
            first: first.epoch,
            ticks: u32::try_from(ticks.len()).unwrap_or(u32::MAX),
            timed: !self.ahead && first.quality != Quality::Replay,
        }
    }

    /// Lets a subscriber wait until the feed passes `after`.
    pub(crate) fn wait(&mut self, owner: u32, after: Epoch) {
        self.waiting.insert(owner, after);
    }

    /// Takes one who waits out again.
    pub(crate) fn stop_waiting(&mut self, owner: u32) {
        self.waiting.remove(&owner);
    }

    /// Sends to up to `chunk` subscribers; true when the sweep is over. Frames that came during a sweep go out with the next.
    pub(crate) fn fan_out(
        &mut self,
        chunk: usize,
        left: &mut Leftovers,
        moved: impl FnMut(u32, u32),
    ) -> bool {
        if self.sweep.is_none() {
            self.begin_sweep();
        }
        let Some(sweep) = self.sweep.as_mut() else {
            return true;
        };
        let behind_max = self.limits.behind_max as u64;
        let finished = sweep.run(self.subscribers.entries(), chunk, behind_max, left);
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

/// Where in an array of `len` the sweep of that number starts: the golden ratio of it further on than the one before, which
/// spreads over any length.
fn start_of(sweep: u64, len: usize) -> usize {
    /// The golden ratio's fraction, in parts of 2^64.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let turn = u128::from(sweep.wrapping_mul(GOLDEN));
    usize::try_from((turn * len as u128) >> 64).expect("less than the length")
}
