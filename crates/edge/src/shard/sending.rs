//! [`Sending`]: one chunk of a fan-out. What is due becomes a frame, and the hot loop sends it.

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Clock;

use super::Vitals;
use super::connections::Connections;
use super::driver::Driver;
use super::key::Key;
use super::release::observe;
use super::time::{Moment, ShardTime};
use crate::feed::Leftovers;
use crate::sys::network::Network;

/// The sending side of a shard.
#[derive(Default)]
pub(super) struct Sending {
    /// Kept for its memory.
    leftovers: Leftovers,
    /// Subscribers that a fan-out found to be slow or gone. They have left their feed, so that none
    /// is found twice.
    pub(super) doomed: Vec<(Key, CloseReason)>,
}

impl Sending {
    /// Sends a chunk of the feed whose turn it is. False if no feed has anything to send.
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
            return false;
        };
        if let Some(authority) = authority
            && let Some(first) = feeds.flush(feed, &authority, at.mono)
        {
            observe(vitals, env, feed, &authority, first, at.mono);
        }
        let left = &mut self.leftovers;
        feeds.send_chunk(feed, left, |fd, bytes| network.send(fd, bytes));
        let at = time.look();
        env.count_chunk(left, at.mono);
        self.take_leftovers(connections, driver, at);
        true
    }

    fn take_leftovers<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        let Self { leftovers, doomed } = self;
        for fallen in leftovers.fallen.drain(..) {
            if let Some(connection) = connections.at(fallen.owner) {
                driver.take_fallen(connection, fallen.rest, at);
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
            if let Some(connection) = connections.at(owner) {
                driver.feeds.leave(owner);
                doomed.push((connection.key, CloseReason::SlowConsumer));
            }
        }
        leftovers.clear();
    }
}
