//! A shard: the part of an edge's connections that one thread owns outright, so nothing here needs
//! a lock or an atomic.
//!
//! One loop ([`turn`]) owns all state and passes each step a `&mut` to what that step needs. Rules
//! that do no I/O ([`connection`], [`input`], [`subscription`], [`outbox`], [`wheel`]) decide what
//! happens to a connection. The [`driver`] carries out their decisions over a
//! [`Network`](crate::sys::network::Network): the kernel's, or a scripted one in tests.

mod accept;
mod authentication;
mod buffered;
mod closing;
mod connection;
mod connection_counts;
mod connections;
mod context;
mod control_buffer;
mod debugged;
mod departures;
mod drain;
mod driver;
mod env;
mod feeds;
mod frame_counts;
mod going_away;
mod handshakes;
mod idle;
mod input;
mod key;
mod leaving;
mod lingering;
mod listing;
mod memory_bounds;
mod moves;
mod outbox;
mod output;
mod proxied;
mod publication;
mod release;
mod replay;
mod replay_budget;
mod replay_queue;
mod round_trips;
mod sending;
mod shedding;
mod slots;
mod subscription;
mod tasks;
#[cfg(test)]
mod tests;
mod thread;
mod time;
mod time_loss;
mod traced_handshakes;
mod turn;
mod turns;
mod vitals;
mod waiting;
#[cfg(feature = "bench")]
mod weight;
mod wheel;
mod work_kind;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{SendError, Sender};
use std::time::Duration;

#[cfg(feature = "bench")]
use tickstorm_timebase::{Mode, Tick};
use tokio::sync::oneshot;

use crate::admission::Evicted;
use crate::memory::Excess;
use crate::sys::fd_table::FdTable;
use crate::sys::waker::Waker;
pub(crate) use connection::SUBSCRIBE_TIME_MAX;
pub(crate) use debugged::{DebugList, DebuggedClient, DebuggedConnections};
pub(crate) use drain::time_max as drain_time_max;
pub(crate) use env::{Commons, ShardSettings};
pub(crate) use going_away::MoveCause;
pub(crate) use listing::{Listed, Order};
pub(crate) use moves::{Chosen, MoveAnswer, RebalanceOrder};
pub(crate) use replay_budget::address_budgets;
pub(crate) use thread::spawn;
pub(crate) use vitals::Vitals;
#[cfg(feature = "bench")]
pub use weight::FanOut;

/// A closure that [`crate::Edge::on_shards`] runs on every shard: with its sockets and, with TLS,
/// their sealing keys in the same order.
#[cfg(feature = "bench")]
pub type Work = std::sync::Arc<
    dyn Fn(&[std::os::fd::RawFd], &mut [tickstorm_tls::BareSealing<'_>]) + Send + Sync,
>;

/// A command to a shard, from control or from another shard.
pub(crate) enum ShardCommand {
    /// Gives the shard's thread its own file descriptor table, with at most this many entries, and
    /// replies with the table.
    UnshareFdTable(u64, oneshot::Sender<io::Result<FdTable>>),
    /// Listens on this address, and replies with the address that was actually bound.
    Listen(SocketAddr, oneshot::Sender<io::Result<SocketAddr>>),
    /// Sets the handles of all shards, in the order of their indices.
    Peers(Vec<ShardHandle>),
    /// Closes this handshake to make room for another.
    Evict(Evicted),
    /// Sends these ticks to the mode's at-time feed, as if they had just been released.
    #[cfg(feature = "bench")]
    Burst(Mode, Vec<Tick>),
    /// Runs the closure with the descriptors of all subscribers that have caught up, and replies
    /// when it is done.
    #[cfg(feature = "bench")]
    Run(Work, oneshot::Sender<()>),
    /// Stops accepting, sends all clients away within this time, and replies when all connections
    /// are closed.
    Drain(Duration, oneshot::Sender<()>),
    /// Replies with at most this many connections, the first in this order.
    List(Order, usize, oneshot::Sender<Vec<Listed>>),
    /// Debugs these clients and no others, and replies.
    Debug(DebugList, oneshot::Sender<()>),
    /// Closes the connection with this number, and replies whether it was open.
    Close(u64, oneshot::Sender<bool>),
    /// Tells the client of the connection with this number that it will be closed `within` this
    /// time, and closes it then.
    Move {
        id: u64,
        within: Duration,
        reply: oneshot::Sender<MoveAnswer>,
    },
    /// Moves a share of the clients.
    Rebalance(RebalanceOrder),
    /// Closes the connections whose sockets hold most of the kernel's memory.
    Shed(Excess),
    /// Closes all connections and ends the shard.
    Stop,
}

/// A handle for sending commands to a shard from any thread.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    commands: Sender<ShardCommand>,
    waker: Waker,
}

impl ShardHandle {
    /// Wakes the shard, which then checks whether the time has changed.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Sends a command and wakes the shard. Returns the command in the error if the shard has
    /// ended.
    pub(crate) fn send(&self, command: ShardCommand) -> Result<(), SendError<ShardCommand>> {
        self.commands.send(command)?;
        self.waker.wake();
        Ok(())
    }
}
