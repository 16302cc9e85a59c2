//! A shard's thread. Every shard first creates its epoll, timer and waker. When all shards have
//! done so, control gives each its own file descriptor table if FD_TABLES is per-shard. Only then
//! does each create its listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{Builder, JoinHandle};

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Clock, SystemClock};

use super::connections::Walk;
use super::drain::Drain;
use super::env::Commons;
use super::listing::Listing;
use super::shedding::Shedding;
use super::tasks::ShardTask;
use super::turn::{SHARE, Shard};
use super::{ShardCommand, ShardHandle, Vitals};
use crate::fd_budget::{self, LINGERING_MIN, RESERVED};
#[cfg(feature = "bench")]
use crate::feed::FeedId;
use crate::sys::fd_table::{self, FdTable};
use crate::sys::kernel::Kernel;
use crate::sys::network::Listen;
use crate::sys::proxied::Proxied;
use crate::sys::secured::Secured;
use crate::sys::socket;

/// The number of open files to reserve beyond the connections and the files open when the shard's
/// own table is created: its listener, and sockets that are closed slightly after they stop being
/// counted.
const SPARE_FILES: usize = 16;

/// A running shard, as seen by control.
pub(crate) struct ShardThread {
    pub(crate) handle: ShardHandle,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts the thread of shard `index`. The shard's epoll, timer and waker are created here, on the
/// caller's thread, so that they are in every file descriptor table that is split off later.
///
/// # Errors
/// Fails if the system has no file descriptor or thread left.
pub(crate) fn spawn(index: usize, commons: Commons) -> io::Result<ShardThread> {
    let kernel = Kernel::new()?;
    let (commands, received) = mpsc::channel();
    let handle = ShardHandle {
        commands,
        waker: kernel.waker(),
    };
    let vitals = Arc::new(Vitals::new(SystemClock.now()));
    let published = Arc::clone(&vitals);
    let thread = Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || {
            let proxied = Proxied::new(kernel, commons.balancers.clone());
            match commons.tls.clone() {
                None => {
                    let shard = Shard::new(index, commons, published, proxied, SystemClock);
                    run(shard, &received);
                }
                Some(configs) => {
                    let network = Secured::new(proxied, configs, commons.metrics.tls.clone());
                    let shard = Shard::new(index, commons, published, network, SystemClock);
                    run(shard, &received);
                }
            }
        })?;
    Ok(ShardThread {
        handle,
        vitals,
        thread,
    })
}

/// The effect of commands on the shard's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCommands {
    Continue,
    Stop,
}

/// Runs a shard until it receives [`ShardCommand::Stop`] or all its handles are dropped.
fn run<N: Listen>(mut shard: Shard<N, SystemClock>, commands: &Receiver<ShardCommand>) {
    let mut authority = shard.driver.env.commons.authority.clone();
    authority.mark_changed();
    loop {
        // Apply the time before any command, however many are waiting; only its latest value
        // matters.
        if authority.has_changed().unwrap_or(false) {
            let new = *authority.borrow_and_update();
            shard.set_authority(new);
        }
        if run_commands(&mut shard, commands) == AfterCommands::Stop {
            break;
        }
        if let Err(error) = shard.turn() {
            // Without its epoll or timer the shard can't send ticks. Panic, which aborts the
            // process in release builds, rather than let the shard live on and send nothing.
            tracing::error!(%error, "a shard's epoll failed");
            panic!("a shard's epoll failed: {error}");
        }
    }
    shard.close_all(CloseReason::Shutdown);
}

/// Runs the commands that wait, for as long as any other kind of work gets per turn: in a flood,
/// other shards send thousands of them per second.
pub(super) fn run_commands<N: Listen, C: Clock>(
    shard: &mut Shard<N, C>,
    commands: &Receiver<ShardCommand>,
) -> AfterCommands {
    if !std::mem::take(&mut shard.waiting.commands) {
        return AfterCommands::Continue;
    }
    let until = shard.time.read_clock().mono + SHARE;
    loop {
        let mono = shard.time.read_clock().mono;
        if mono >= until.min(shard.due.next_tick()) {
            break;
        }
        match commands.try_recv() {
            Ok(ShardCommand::Stop) | Err(TryRecvError::Disconnected) => return AfterCommands::Stop,
            Ok(command) => run_command(shard, command),
            Err(TryRecvError::Empty) => return AfterCommands::Continue,
        }
    }
    shard.waiting.commands = true;
    AfterCommands::Continue
}

/// Runs a command. A failure to reply is ignored, because the requester may have gone away.
fn run_command<N: Listen, C: Clock>(shard: &mut Shard<N, C>, command: ShardCommand) {
    match command {
        ShardCommand::UnshareFdTable(limit, reply) => {
            let _ = reply.send(separate(shard, limit));
        }
        ShardCommand::Listen(addr, reply) => {
            let _ = reply.send(listen(shard, addr));
        }
        ShardCommand::Peers(peers) => shard.peers = peers,
        ShardCommand::Evict(evicted) => {
            let at = shard.time.read_clock();
            shard.evict(evicted, at);
        }
        #[cfg(feature = "bench")]
        ShardCommand::Burst(mode, ticks) => shard.burst(FeedId::at_time(mode), &ticks),
        #[cfg(feature = "bench")]
        ShardCommand::Run(work, reply) => {
            let mut sockets = shard.driver.feeds.caught_up();
            let mut keys = Vec::new();
            if let Some(mut keys_by_socket) = shard.driver.network.bare_sealing() {
                let keyed = sockets
                    .into_iter()
                    .filter_map(|socket| Some((socket, keys_by_socket.remove(&socket)?)));
                (sockets, keys) = keyed.unzip();
            }
            work(&sockets, &mut keys);
            let _ = reply.send(());
        }
        ShardCommand::Drain(over, reply) => {
            let now = shard.time.read_clock().mono;
            shard.drain(Drain::new(over, now, reply));
        }
        ShardCommand::Rebalance(order) => {
            let at = shard.time.read_clock();
            shard.waiting.departures.rebalance(order, at);
        }
        ShardCommand::List(order, limit, reply) => {
            let listing = Listing::new(order, limit, reply);
            shard.waiting.tasks.add(ShardTask::List(listing));
        }
        ShardCommand::Debug(list, reply) => {
            shard.driver.env.debugged = list;
            let _ = reply.send(());
        }
        ShardCommand::Close(id, reply) => shard.waiting.tasks.add(ShardTask::CloseOne {
            id,
            walk: Walk::default(),
            reply: Some(reply),
        }),
        ShardCommand::Move { id, within, reply } => shard.waiting.tasks.add(ShardTask::MoveOne {
            id,
            within,
            walk: Walk::default(),
            reply: Some(reply),
        }),
        ShardCommand::Shed(excess) => shard.waiting.tasks.shed(Shedding::new(excess)),
        ShardCommand::Stop => {}
    }
}

/// Gives this shard's thread its own file descriptor table, with at most `limit` entries, and
/// limits the numbers of its connections and of those that linger accordingly.
fn separate<N: Listen, C: Clock>(shard: &mut Shard<N, C>, limit: u64) -> io::Result<FdTable> {
    fd_table::separate()?;
    let table = FdTable::of_this_thread()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let reserved = usize::try_from(RESERVED).unwrap_or(usize::MAX);
    // With many shards, their wakers alone may take more than RESERVED.
    let others = reserved.max(table.len()? + LINGERING_MIN + SPARE_FILES);
    let room = limit.saturating_sub(others);
    let connections_max = shard.driver.env.commons.admission.connections_max();
    let wanted = fd_budget::slots(connections_max).div_ceil(shard.peers.len().max(1));
    let lingering_max = fd_budget::lingering_max(room, wanted);
    shard
        .acceptor
        .set_connections_max(room - (lingering_max - LINGERING_MIN));
    shard.driver.lingering.set_max(lingering_max);
    Ok(table)
}

fn listen<N: Listen, C: Clock>(
    shard: &mut Shard<N, C>,
    addr: SocketAddr,
) -> io::Result<SocketAddr> {
    let listener = socket::listen(addr, shard.driver.env.settings().sockets)?;
    let bound = listener.local_addr()?;
    shard.driver.network.listen(listener)?;
    Ok(bound)
}
