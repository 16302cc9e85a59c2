//! A shard's thread. Every shard makes its epoll, timer and waker and says so; only when all have
//! does control let each have a table of open files of its own, if it is to, and only then make
//! listeners.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{Builder, JoinHandle};

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Clock, SystemClock};
use tokio::sync::watch;

use super::connections::Walk;
use super::drain::Drain;
use super::env::Commons;
use super::listing::Listing;
use super::tasks::ShardTask;
use super::turn::Shard;
use super::{ShardCommand, ShardHandle, Vitals};
use crate::admission::OVERFLOW_MAX;
use crate::fd_budget::RESERVED;
#[cfg(feature = "bench")]
use crate::feed::FeedId;
use crate::sys::fd_table::{self, FdTable};
use crate::sys::kernel::Kernel;
use crate::sys::socket;

/// Open files that a shard has beside those at hand when it begins and its connections: its
/// listener, and what closes a little later than it is counted out.
const SPARE: usize = 16;
/// Commands that are obeyed in a row.
const COMMANDS: usize = 16;

/// Control's end of a shard.
pub(crate) struct ShardThread {
    pub(crate) handle: ShardHandle,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts the thread of shard `index`. Its epoll, timer and waker are made here, so that they are
/// in all tables of open files.
///
/// # Errors
/// The system has no descriptor or thread to give.
pub(crate) fn spawn(index: usize, commons: Commons) -> io::Result<ShardThread> {
    let kernel = Kernel::new()?;
    let waker = kernel.waker();
    let (commands, received) = mpsc::channel();
    let handle = ShardHandle {
        commands,
        waker: waker.clone(),
    };
    let vitals = Arc::new(Vitals {
        turned: AtomicU64::new(SystemClock.now().as_nanos()),
        released: AtomicU64::new(0),
        accepting: AtomicBool::new(true),
    });
    let shown = Arc::clone(&vitals);
    let thread = Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || {
            let authority = commons.authority.clone();
            let shard = Shard::new(index, commons, shown, (kernel, waker), SystemClock);
            run(shard, authority, &received);
        })?;
    Ok(ShardThread {
        handle,
        vitals,
        thread,
    })
}

/// What a command means for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obeyed {
    GoesOn,
    Stops,
}

/// Runs a shard until it is told to stop or nobody can tell it anything any more.
fn run(
    mut shard: Shard<Kernel, SystemClock>,
    mut authority: watch::Receiver<Option<Authority>>,
    commands: &Receiver<ShardCommand>,
) {
    authority.mark_changed();
    loop {
        // The time comes before all commands, however many wait, and only as it is now.
        if authority.has_changed().unwrap_or(false) {
            let new = *authority.borrow_and_update();
            shard.take_authority(new);
        }
        if obey_all(&mut shard, commands) == Obeyed::Stops {
            break;
        }
        if let Err(error) = shard.turn() {
            // Without its epoll or timer it sends no tick: the process ends, rather than be a ghost
            // (panics abort in release).
            tracing::error!(%error, "a shard's epoll failed");
            panic!("a shard's epoll failed: {error}");
        }
    }
    shard.close_all(CloseReason::Shutdown);
}

fn obey_all(shard: &mut Shard<Kernel, SystemClock>, commands: &Receiver<ShardCommand>) -> Obeyed {
    if !std::mem::take(&mut shard.waiting.commands) {
        return Obeyed::GoesOn;
    }
    for _ in 0..COMMANDS {
        if shard.is_tick_due() {
            break;
        }
        match commands.try_recv() {
            Ok(ShardCommand::Stop) | Err(TryRecvError::Disconnected) => return Obeyed::Stops,
            Ok(command) => obey(shard, command),
            Err(TryRecvError::Empty) => return Obeyed::GoesOn,
        }
    }
    shard.waiting.commands = true;
    Obeyed::GoesOn
}

/// Obeys a command. Whoever asked may have left before the answer.
fn obey(shard: &mut Shard<Kernel, SystemClock>, command: ShardCommand) {
    match command {
        ShardCommand::Separate(limit, reply) => {
            let _ = reply.send(separate(shard, limit));
        }
        ShardCommand::Listen(addr, reply) => {
            let _ = reply.send(listen(shard, addr));
        }
        ShardCommand::Peers(peers) => shard.peers = peers,
        ShardCommand::Evict(evicted) => {
            let at = shard.time.look();
            shard.evict(evicted, at);
        }
        #[cfg(feature = "bench")]
        ShardCommand::Burst(mode, ticks) => shard.burst(FeedId::at_time(mode), &ticks),
        #[cfg(feature = "bench")]
        ShardCommand::Run(work, reply) => {
            work(&shard.driver.feeds.caught_up());
            let _ = reply.send(());
        }
        ShardCommand::Drain(over, reply) => shard.drain(Drain::new(over, reply)),
        ShardCommand::List(order, limit, reply) => {
            let listing = Listing::new(order, limit, reply);
            shard.waiting.tasks.add(ShardTask::List(listing));
        }
        ShardCommand::Close(id, reply) => shard.waiting.tasks.add(ShardTask::CloseOne {
            id,
            walk: Walk::default(),
            reply: Some(reply),
        }),
        ShardCommand::Stop => {}
    }
}

/// Gives this shard's thread a table of open files of its own, of at most `limit`, and bounds its
/// connections by that.
fn separate(shard: &mut Shard<Kernel, SystemClock>, limit: u64) -> io::Result<FdTable> {
    fd_table::separate()?;
    let table = FdTable::of_this_thread()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserved = usize::try_from(RESERVED).unwrap_or(usize::MAX);
    // Many shards' wakers alone may need more than what is reserved.
    let others = reserved.max(table.len()? + OVERFLOW_MAX + SPARE);
    shard
        .acceptor
        .set_connections_max(limit.saturating_sub(others));
    Ok(table)
}

fn listen(shard: &mut Shard<Kernel, SystemClock>, addr: SocketAddr) -> io::Result<SocketAddr> {
    let listener = socket::listen(addr, shard.driver.env.settings().sockets)?;
    let bound = listener.local_addr()?;
    shard.driver.network.listen(listener)?;
    Ok(bound)
}
