//! [`Shedding`]: closes the connections whose sockets hold most of the kernel's memory, when all
//! sockets together exceed its bound. It visits one connection at a time, so that it delays no
//! tick.

use std::collections::BinaryHeap;

use super::connections::{Connections, Walk, WalkProgress};
use super::driver::Driver;
use super::key::Key;
use super::slots::with_connection;
use super::time::Moment;
use crate::memory::Excess;
use crate::sys::network::Network;

/// The memory of a socket, in bytes, from which on its client is considered not to read. An honest
/// client that has been out of reach for some seconds has a few frames in flight, of a little more
/// than a kilobyte each, and the rest of its frames share the memory of one packet.
pub(super) const FULL_FROM: u64 = 16 * 1_024;

/// Sheds connections in progress.
pub(super) struct Shedding {
    excess: Excess,
    walk: Walk,
    /// The memory of all sockets.
    held: u64,
    /// The full sockets, by memory.
    full: BinaryHeap<(u64, u64, u32)>,
    freed: u64,
}

impl Shedding {
    pub(super) fn new(excess: Excess) -> Self {
        Self {
            excess,
            walk: Walk::default(),
            held: 0,
            full: BinaryHeap::new(),
            freed: 0,
        }
    }

    /// Looks at one socket or, once all were looked at, closes the fullest one.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> WalkProgress {
        if let Some(connection) = connections.step(&mut self.walk) {
            let bytes = driver.network.socket_memory(&connection.socket).bytes();
            self.held += bytes;
            if bytes >= FULL_FROM {
                let Key { slot, id } = connection.key;
                self.full.push((bytes, id, slot));
            }
            return WalkProgress::More;
        }
        if self.freed >= self.excess.share_of(self.held) {
            return WalkProgress::Done;
        }
        let Some((bytes, id, slot)) = self.full.pop() else {
            return WalkProgress::Done;
        };
        self.freed += bytes;
        let key = Key { slot, id };
        with_connection(key, connections, driver, |driver, connection| {
            driver.shed(connection, at)
        });
        WalkProgress::More
    }
}
