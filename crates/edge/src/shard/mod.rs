//! A shard: the part of an edge's connections that one thread owns outright, so that nothing here
//! is locked or atomic.
//!
//! One loop ([`turn`]) owns everything and hands each step `&mut` to what that step needs. What a
//! connection does is decided by rules without I/O ([`connection`], [`input`], [`subscription`],
//! [`outbox`], [`wheel`]); the [`driver`] performs it over a
//! [`Network`](crate::sys::network::Network), the kernel's or, in tests, a scripted one.

mod accept;
mod authentication;
mod closing;
mod connection;
mod connections;
mod context;
mod control_buffer;
mod drain;
mod driver;
mod env;
mod feeds;
mod input;
mod key;
mod listing;
mod outbox;
mod output;
mod release;
mod replay;
mod sending;
mod slots;
mod subscription;
mod tasks;
#[cfg(test)]
mod tests;
mod thread;
mod time;
mod turn;
mod waiting;
#[cfg(feature = "bench")]
mod weight;
mod wheel;
mod work_kind;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{SendError, Sender};
use std::time::Duration;

#[cfg(feature = "bench")]
use tickstorm_timebase::{Mode, Tick};
use tokio::sync::oneshot;

use crate::admission::Evicted;
use crate::sys::fd_table::FdTable;
use crate::sys::waker::Waker;
pub(crate) use drain::TIME_OF_LAST;
pub(crate) use env::{Commons, ShardSettings};
pub(crate) use listing::{Listed, Order};
pub(crate) use thread::spawn;
#[cfg(feature = "bench")]
pub use weight::FanOut;

/// What a shard shows of itself, for health: moments of timebase's `Mono` in nanoseconds.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// When it last turned its wheel.
    pub(crate) turned: AtomicU64,
    /// When it last released a SECOND tick at its time; 0: never.
    pub(crate) released: AtomicU64,
    /// Whether it accepts connections: not while the system has no descriptor or memory for them.
    pub(crate) accepting: AtomicBool,
}

/// What [`crate::Edge::on_shards`] runs.
#[cfg(feature = "bench")]
pub type Work = std::sync::Arc<dyn Fn(&[std::os::fd::RawFd]) + Send + Sync>;

/// What control and other shards may tell a shard.
pub(crate) enum ShardCommand {
    /// Have a table of open files of its own from now on, of at most so many, and say where it is
    /// to be seen.
    Separate(u64, oneshot::Sender<io::Result<FdTable>>),
    /// Listen on this address and say on which it really is.
    Listen(SocketAddr, oneshot::Sender<io::Result<SocketAddr>>),
    /// These are the shards, in the order of their numbers.
    Peers(Vec<ShardHandle>),
    /// Close this handshake: its room is needed.
    Evict(Evicted),
    /// Send these ticks to the feed of the mode, at its time, as if they had been released now.
    #[cfg(feature = "bench")]
    Burst(Mode, Vec<Tick>),
    /// Run this with the descriptors of all subscribers that have everything, and answer when it is
    /// done.
    #[cfg(feature = "bench")]
    Run(Work, oneshot::Sender<()>),
    /// Accept nobody any more, and close all connections within this time; answer when they are
    /// closed.
    Drain(Duration, oneshot::Sender<()>),
    /// Say which connections come first, and no more than so many of them.
    List(Order, usize, oneshot::Sender<Vec<Listed>>),
    /// Close the connection of this id, and say whether there was one.
    Close(u64, oneshot::Sender<bool>),
    /// Close everything and end.
    Stop,
}

/// Tells a shard something, from any thread.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    commands: Sender<ShardCommand>,
    waker: Waker,
}

impl ShardHandle {
    /// Lets the shard look whether the time has changed.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Hands over a command; gives it back if the shard has ended.
    pub(crate) fn tell(&self, command: ShardCommand) -> Result<(), SendError<ShardCommand>> {
        self.commands.send(command)?;
        self.waker.wake();
        Ok(())
    }
}
