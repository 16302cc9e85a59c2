//! The tick's instant: waits on a timerfd until just before the next tick is due, spins the rest, and runs the fan-out in
//! chunks, between which everybody else gets a turn. Release and first send are one and the same look at the clock.

use std::hint;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Epoch, Mode, Mono, Quality, Tick, UnixTime};

use super::{FeedIndex, Shard};
use crate::feed::{CHUNK, Feed, Frame, Leftovers};
use crate::sys::timerfd::Timer;

/// How long before a tick the timer ends and spinning begins: what a timerfd is late by, as measured.
const SPIN: Duration = Duration::from_micros(150);
/// The timer runs on CLOCK_MONOTONIC, which chrony may slew by up to 8 % against CLOCK_MONOTONIC_RAW: it is set this share
/// of the way short, and RAW looked at on each waking. From one second ahead that makes five wakings.
const SHORT_OF: u32 = 8;

impl Shard {
    /// Releases and sends until the shard ends.
    pub(super) async fn release(self: Rc<Self>, timer: Timer) -> io::Result<()> {
        loop {
            let mono = self.time.mono();
            let authority = self.authority(mono);
            if let Some(authority) = &authority {
                self.feeds
                    .borrow_mut()
                    .iter_mut()
                    .for_each(|feed| feed.release(authority, mono));
            }
            if let Some(feed) = self.feed_to_send(mono, authority.is_some()) {
                self.send_chunk(feed, authority.as_ref(), mono);
                tokio::task::yield_now().await;
                continue;
            }
            let (tick, batch) = self.next_due(authority.as_ref());
            if tick <= batch {
                self.wait_exactly(&timer, tick).await?;
            } else {
                self.wait(&timer, batch).await?;
            }
        }
    }

    /// The time has become known, has changed or is unknown again.
    pub(super) fn take_authority(self: &Rc<Self>, new: Option<Authority>) {
        self.authority.set(new);
        let Some(authority) = new else { return };
        let known = self.generation.replace(Some(authority.generation()));
        if known.is_some_and(|known| known != authority.generation()) {
            self.end_subscriptions(CloseReason::TimeStepped);
        }
        let mono = self.time.mono();
        self.feeds
            .borrow_mut()
            .iter_mut()
            .for_each(|feed| feed.release(&authority, mono));
        if self.has_askers.take() {
            tokio::task::spawn_local(Rc::clone(self).serve_askers());
        }
        self.woken.notify_one();
    }

    /// Takes in ticks that did not come from the grid.
    pub(super) fn burst(&self, index: FeedIndex, ticks: &[Tick]) {
        let mut feeds = self.feeds.borrow_mut();
        let feed = &mut feeds[usize::from(index.0)];
        let due = feed.next_batch();
        feed.offer(ticks);
        // Most join a batch that is waited for already.
        if feed.next_batch() < due {
            self.woken.notify_one();
        }
    }

    /// The first feed that has something to send now.
    fn feed_to_send(&self, mono: Mono, is_known: bool) -> Option<FeedIndex> {
        let feeds = self.feeds.borrow();
        FeedIndex::ALL
            .into_iter()
            .find(|index| feeds[usize::from(index.0)].has_work(mono, is_known))
    }

    /// When the next tick is to be released, and when the next batch is to be sent.
    fn next_due(&self, authority: Option<&Authority>) -> (Mono, Mono) {
        let Some(authority) = authority else {
            return (Mono::NEVER, Mono::NEVER);
        };
        let feeds = self.feeds.borrow();
        let tick = feeds.iter().map(|feed| feed.next_tick(authority)).min();
        let batch = feeds.iter().map(Feed::next_batch).min();
        (tick.unwrap_or(Mono::NEVER), batch.unwrap_or(Mono::NEVER))
    }

    /// Sends one chunk of a feed's fan-out, and sees to what it left over.
    pub(super) fn send_chunk(
        self: &Rc<Self>,
        index: FeedIndex,
        authority: Option<&Authority>,
        mono: Mono,
    ) {
        if let Some(authority) = authority {
            let mut arrivals = Vec::new();
            let mut feeds = self.feeds.borrow_mut();
            let feed = &mut feeds[usize::from(index.0)];
            let first = feed.flush(authority, mono, &mut arrivals);
            drop(feeds);
            if let (Some(first), false) = (first, index.is_ahead()) {
                self.observe_release(index, authority, first, mono);
            }
            arrivals
                .into_iter()
                .for_each(|arrival| self.arrive(index, arrival));
        }
        let mut left = self.leftovers.take();
        let mut moves = Vec::new();
        self.feeds.borrow_mut()[usize::from(index.0)].fan_out(
            CHUNK,
            &mut left,
            |owner, position| {
                moves.push((owner, position));
            },
        );
        for (owner, position) in moves {
            self.take_position(owner, index, position);
        }
        self.count_sent(&left, authority);
        for fallen in left.fallen.drain(..) {
            self.take_fallen(fallen);
        }
        for (owner, errno) in left.failed.drain(..) {
            if let Some(connection) = self.at(owner) {
                self.fail(&connection, &errno.into());
            }
        }
        for owner in left.slow.drain(..) {
            if let Some(connection) = self.at(owner) {
                self.close(&connection, CloseReason::SlowConsumer);
            }
        }
        left.clear();
        self.leftovers.replace(left);
    }

    fn observe_release(&self, index: FeedIndex, authority: &Authority, first: Tick, mono: Mono) {
        if index == FeedIndex::of(Mode::Second, false) {
            self.vitals
                .released
                .store(mono.as_nanos(), Ordering::Relaxed);
        }
        if first.quality != Quality::Replay {
            let late = mono.since(authority.mono_at(first.epoch.time()));
            self.shared
                .metrics
                .release_lateness
                .observe(late.as_secs_f64());
        }
    }

    /// Counts a frame of an at-time or ahead feed that is sent to one subscriber now, beside the hot loop.
    pub(super) fn count_frame(&self, frame: &Frame) {
        let metrics = &self.shared.metrics;
        metrics.messages_sent.inc();
        metrics.ticks_sent.inc_by(u64::from(frame.ticks));
        let mono = self.time.mono();
        if let (Some(authority), true) = (self.authority(mono), frame.timed) {
            let late = late_ms(authority.time_at(mono), frame.first);
            metrics.publish_latency_ms.observe(late, 1);
        }
    }

    fn count_sent(&self, left: &Leftovers, authority: Option<&Authority>) {
        let metrics = &self.shared.metrics;
        metrics.bytes_sent.inc_by(left.bytes);
        let time = authority.map(|authority| authority.time_at(self.time.mono()));
        for part in left.parts.iter().filter(|part| part.sent > 0) {
            metrics.messages_sent.inc_by(part.sent);
            metrics.ticks_sent.inc_by(part.sent * u64::from(part.ticks));
            if let (Some(time), true) = (time, part.timed) {
                let late = late_ms(time, part.first);
                metrics.publish_latency_ms.observe(late, part.sent);
            }
        }
    }

    /// Whether anybody would notice a tick that comes some microseconds late.
    fn has_subscribers(&self) -> bool {
        let mut feeds = self.feeds.borrow_mut();
        feeds.iter_mut().any(|feed| feed.subscribers().len() > 0)
    }

    /// Waits until about `due`, or until something else is to be done: a batch's window may end some microseconds late.
    async fn wait(&self, timer: &Timer, due: Mono) -> io::Result<()> {
        let remaining = due.since(self.time.mono());
        tokio::select! {
            biased;
            () = self.woken.notified() => Ok(()),
            slept = timer.sleep(remaining) => slept,
        }
    }

    /// Waits until `due`, a tick's time, or until something else is to be done.
    async fn wait_exactly(&self, timer: &Timer, due: Mono) -> io::Result<()> {
        if due == Mono::NEVER {
            self.woken.notified().await;
            return Ok(());
        }
        loop {
            let remaining = due.since(self.time.mono());
            if remaining.is_zero() {
                return Ok(());
            }
            let spins = self.settings().spin && self.has_subscribers();
            if spins && remaining <= SPIN {
                while self.time.mono() < due {
                    hint::spin_loop();
                }
                return Ok(());
            }
            let least = if spins { SPIN } else { Duration::ZERO };
            let short = (remaining / SHORT_OF).max(least);
            let sleep = if short <= SPIN {
                remaining - least
            } else {
                remaining - short
            };
            tokio::select! {
                biased;
                () = self.woken.notified() => return Ok(()),
                slept = timer.sleep(sleep) => slept?,
            }
        }
    }
}

/// Milliseconds from `first` to `time`; a tick is never sent before its time, so never negative but for a step.
fn late_ms(time: UnixTime, first: Epoch) -> f64 {
    let late_us = time
        .as_micros()
        .saturating_sub(first.time().as_micros())
        .max(0);
    Duration::from_micros(late_us.unsigned_abs()).as_secs_f64() * 1e3
}
