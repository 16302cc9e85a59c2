//! [`Sending`]: sends one chunk of a fan-out. The due batch becomes a frame, which the hot loop
//! sends.

use std::sync::atomic::Ordering;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Clock, Mono};

use super::Vitals;
use super::connections::Connections;
use super::driver::Driver;
use super::key::Key;
use super::release::record_release;
use super::time::{Moment, ShardTime};
use crate::feed::{ChunkOutcome, FeedId};
use crate::sys::network::Network;
use crate::traces::{SentTick, ShardTraces};

/// The sending side of a shard.
#[derive(Default)]
pub(super) struct Sending {
    /// Reused for every chunk, to keep its allocations.
    leftovers: ChunkOutcome,
    /// Connections that must be closed because a fan-out found them to be slow or broken. They have
    /// already left their feed, so none is found twice.
    pub(super) doomed: Vec<(Key, CloseReason)>,
    /// The time since which every turn has had something to send.
    pub(super) busy_since: Option<Mono>,
    /// The times at which the fan-outs in progress began, by feed. None for a feed without
    /// subscribers.
    began: [Option<Mono>; FeedId::ALL.len()],
    /// The fan-outs in progress that are traced, by feed.
    traced: [Option<SentTick>; FeedId::ALL.len()],
}

impl Sending {
    /// Sends one chunk of the next feed. Returns false if no feed has anything to send.
    pub(super) fn send_chunk<N: Network, C: Clock>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        vitals: &Vitals,
        time: &mut ShardTime<C>,
        at: Moment,
    ) -> bool {
        let Driver {
            env,
            network,
            feeds,
            ..
        } = driver;
        let authority = env.ticking_authority(at.mono).copied();
        let Some(feed) = feeds.next_to_send(at.mono, authority.is_some()) else {
            if self.busy_since.take().is_some() {
                vitals.sending_since.store(0, Ordering::Relaxed);
            }
            return false;
        };
        if self.busy_since.is_none() {
            self.busy_since = Some(at.mono);
            vitals
                .sending_since
                .store(at.mono.as_nanos(), Ordering::Relaxed);
        }
        if let Some(authority) = authority
            && let Some(first) = feeds.flush(feed, &authority, at.mono)
        {
            record_release(vitals, env, feed, &authority, first, at.mono);
            if let Some(traces) = &env.traces
                && feeds.has_joined_subscribers(feed)
            {
                let lead = feed.lead(env.settings().ahead);
                self.traced[feed.index()] = Some(SentTick {
                    feed,
                    shard: traces.shard(),
                    first,
                    due: authority.mono_at(first.epoch.time().saturating_sub(lead)),
                    released: at.mono,
                    ended: at.mono,
                    frames: 0,
                });
            }
        }
        let began = &mut self.began[feed.index()];
        if began.is_none() && feeds.has_joined_subscribers(feed) {
            *began = Some(at.mono);
        }
        let left = &mut self.leftovers;
        let is_over = feeds.send_chunk(feed, left, |fd, bytes| network.send(fd, bytes));
        let at = time.read_clock();
        env.count_chunk(feed, left, at.mono);
        if is_over && let Some(began) = began.take() {
            let spread = at.mono.since(began).as_secs_f64();
            env.metrics().feeds.fanout(feed).observe(spread, 1);
        }
        if let Some(traces) = &env.traces {
            trace_chunk(
                traces,
                &mut self.traced[feed.index()],
                left,
                is_over,
                at.mono,
            );
        }
        self.handle_leftovers(connections, driver, at);
        true
    }

    fn handle_leftovers<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        let Self {
            leftovers, doomed, ..
        } = self;
        for fallen in leftovers.fallen.drain(..) {
            if let Some(connection) = connections.at(fallen.owner) {
                driver.put_on_slow_path(connection, fallen.rest, at);
            }
        }
        for (owner, errno) in leftovers.failed.drain(..) {
            if let Some(connection) = connections.at(owner) {
                let reason = driver.reason_of(connection, &errno.into());
                driver.feeds.leave(owner);
                doomed.push((connection.key, reason));
            }
        }
        for owner in leftovers.slow.drain(..) {
            if let Some(connection) = connections.at(owner)
                && !driver.extend_waiting_replay(connection)
            {
                driver.feeds.leave(owner);
                doomed.push((connection.key, CloseReason::SlowConsumer));
            }
        }
        leftovers.clear();
    }
}

/// Counts the frames of a chunk that ended at `mono`. If the fan-out is over, it is reported.
fn trace_chunk(
    traces: &ShardTraces,
    traced: &mut Option<SentTick>,
    chunk: &ChunkOutcome,
    is_over: bool,
    mono: Mono,
) {
    if let Some(tick) = traced {
        tick.frames += chunk.parts.iter().map(|part| part.sent).sum::<u64>();
        tick.ended = mono;
    }
    if is_over && let Some(tick) = traced.take() {
        traces.sent(tick);
    }
}
