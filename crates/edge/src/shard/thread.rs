//! A shard's thread: an OS thread with a current-thread runtime of its own. Every shard builds its runtime and says so; only when
//! all have does control let each have a table of open files of its own, if it is to, and only then make listeners.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::{Builder, JoinHandle};

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Clock, SystemClock};
use tokio::runtime::{self, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};

use super::wheel::Key;
use super::{Command, FeedIndex, Shard, Shared, Vitals};
use crate::sys::readable::Readable;
use crate::sys::socket;
use crate::sys::sockets::Sockets;
use crate::sys::timerfd::Timer;

/// Control's end of a shard.
pub(crate) struct ShardThread {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// Answers when the runtime is built, or why it could not be.
    pub(crate) built: oneshot::Receiver<io::Result<()>>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) thread: JoinHandle<()>,
}

/// Starts the thread of shard `index`.
pub(crate) fn spawn(index: usize, shared: Shared) -> io::Result<ShardThread> {
    let (commands, received) = mpsc::unbounded_channel();
    let (says_built, built) = oneshot::channel();
    let vitals = Arc::new(Vitals {
        turned: AtomicU64::new(SystemClock.now().as_nanos()),
        released: AtomicU64::new(0),
        accepting: AtomicBool::new(true),
    });
    let shown = Arc::clone(&vitals);
    let thread = Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || {
            let (runtime, timer, sockets) = match build() {
                Ok(built) => built,
                Err(error) => {
                    // Whoever waits for it gets the error; if nobody does, nobody needs the shard.
                    let _ = says_built.send(Err(error));
                    return;
                }
            };
            let _ = says_built.send(Ok(()));
            let shard = Shard::new(index, shared, shown, Rc::clone(sockets.get()));
            runtime.block_on(run(shard, timer, sockets, received));
        })?;
    Ok(ShardThread {
        commands,
        built,
        vitals,
        thread,
    })
}

fn build() -> io::Result<(LocalRuntime, Timer, Readable<Rc<Sockets>>)> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let (timer, sockets) = {
        let _inside = runtime.enter();
        (Timer::new()?, Readable::new(Rc::new(Sockets::new()?))?)
    };
    Ok((runtime, timer, sockets))
}

/// Runs a shard until it is told to stop or nobody can tell it anything any more.
async fn run(
    shard: Rc<Shard>,
    timer: Timer,
    sockets: Readable<Rc<Sockets>>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    tokio::task::spawn_local(Rc::clone(&shard).turn_wheel());
    tokio::task::spawn_local(vital("timer", Rc::clone(&shard).release(timer)));
    tokio::task::spawn_local(vital("epoll", Rc::clone(&shard).serve_ready(sockets)));
    let mut authority = shard.shared.authority.clone();
    authority.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = authority.changed() => {
                if changed.is_err() {
                    break;
                }
                let new = *authority.borrow_and_update();
                shard.take_authority(new);
            }
            command = commands.recv() => match command {
                Some(Command::Separate(limit, reply)) => {
                    // Control waits for the answer unless the start has failed already.
                    let _ = reply.send(shard.separate(limit));
                }
                Some(Command::Listen(addr, reply)) => {
                    // Likewise.
                    let _ = reply.send(listen(&shard, addr));
                }
                Some(Command::Peers(peers)) => {
                    shard.peers.replace(peers);
                }
                Some(Command::Evict(evicted)) => {
                    shard.evict(Key { slot: evicted.slot, id: evicted.id });
                }
                Some(Command::Burst(mode, ticks)) => {
                    shard.burst(FeedIndex::of(mode, false), &ticks);
                }
                Some(Command::Run(work, reply)) => {
                    work(&shard.caught_up());
                    // Who asked may have left meanwhile.
                    let _ = reply.send(());
                }
                Some(Command::Drain(over, reply)) => {
                    answer(reply, Rc::clone(&shard).drain(over));
                }
                Some(Command::List(order, limit, reply)) => {
                    answer(reply, Rc::clone(&shard).list(order, limit));
                }
                Some(Command::Close(id, reply)) => {
                    answer(reply, Rc::clone(&shard).close_one(id));
                }
                Some(Command::Stop) | None => break,
            },
        }
    }
    shard.close_all(CloseReason::Shutdown);
}

/// Lets a task find the answer. Who asked may have left meanwhile.
fn answer<T: 'static>(reply: oneshot::Sender<T>, task: impl Future<Output = T> + 'static) {
    tokio::task::spawn_local(async move {
        let _ = reply.send(task.await);
    });
}

/// Does what a shard can't be without: else it sends no tick, or not to all. The process ends, rather than be a ghost (panics
/// abort in release).
async fn vital(what: &str, work: impl Future<Output = io::Result<()>>) {
    if let Err(error) = work.await {
        tracing::error!(%error, "a shard's {what} failed");
        panic!("a shard's {what} failed: {error}");
    }
}

fn listen(shard: &Rc<Shard>, addr: SocketAddr) -> io::Result<SocketAddr> {
    let listener = socket::listen(addr, shard.settings().sockets)?;
    let bound = listener.local_addr()?;
    let accept = Rc::clone(shard).accept(Readable::new(listener)?);
    tokio::task::spawn_local(shard.accepting.track_future(accept));
    Ok(bound)
}
