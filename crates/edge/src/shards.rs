//! All shards of an edge, as control sees them. They are started together, controlled by messages,
//! and joined when the edge stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tickstorm_timebase::Authority;
use tokio::sync::{oneshot, watch};

#[cfg(feature = "bench")]
use crate::shard::Work;
use crate::shard::{self, Commons, ShardCommand, ShardHandle, Vitals, drain_time_max};
use crate::start_error::StartError;
use crate::sys::fd_table::FdTable;

/// Handles to all shards and their threads.
#[derive(Default)]
pub(crate) struct Shards {
    handles: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    vitals: Vec<Arc<Vitals>>,
}

impl Shards {
    /// Starts `count` shards. When this returns, each has created its waker; only then may
    /// listeners be created.
    pub(crate) async fn start(count: usize, commons: &Commons) -> Result<Self, StartError> {
        let mut shards = Self::default();
        for index in 0..count {
            match shard::spawn(index, commons.clone()) {
                Ok(started) => {
                    shards.handles.push(started.handle);
                    shards.threads.push(started.thread);
                    shards.vitals.push(started.vitals);
                }
                Err(source) => {
                    shards.stop().await;
                    return Err(StartError::Shard {
                        shard: index,
                        source,
                    });
                }
            }
        }
        shards.tell_all(|| ShardCommand::Peers(shards.handles.clone()));
        Ok(shards)
    }

    /// Gives each shard its own file descriptor table, of at most `limit` open files, and returns
    /// the tables. All shards must have started, since their wakers must be in every table, and
    /// none may be listening yet.
    pub(crate) async fn separate(&self, limit: u64) -> io::Result<Vec<FdTable>> {
        let mut tables = Vec::new();
        for shard in &self.handles {
            let (reply, separated) = oneshot::channel();
            // If the shard has ended, the missing answer shows it.
            let _ = shard.send(ShardCommand::UnshareFdTable(limit, reply));
            let table = separated
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a shard has ended")));
            tables.push(table?);
        }
        Ok(tables)
    }

    /// Lets each shard listen on `addr`, and returns the bound address. If the port is 0, the
    /// system chooses one for the first shard, and the other shards use the same.
    pub(crate) async fn listen(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let mut addr = addr;
        for shard in &self.handles {
            let (reply, bound) = oneshot::channel();
            // If the shard has ended, the missing answer shows it.
            let _ = shard.send(ShardCommand::Listen(addr, reply));
            addr = bound
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a shard has ended")))?;
        }
        Ok(addr)
    }

    /// Returns the shards' vital signs, for the health checks.
    pub(crate) fn vitals(&self) -> Vec<Arc<Vitals>> {
        self.vitals.clone()
    }

    /// Makes each shard stop accepting and send its clients away within `over`. Returns when all
    /// connections are closed or the time is up. Even if `over` is zero, clients have some time to
    /// read the ERROR frame.
    pub(crate) async fn drain(&self, over: Duration) {
        let mut drained = Vec::new();
        for shard in &self.handles {
            let (reply, answer) = oneshot::channel();
            // A shard that has ended has already closed its connections.
            let _ = shard.send(ShardCommand::Drain(over, reply));
            drained.push(answer);
        }
        let all = async {
            for answer in drained {
                // A missing answer means that the shard has ended.
                let _ = answer.await;
            }
        };
        let _ = tokio::time::timeout(drain_time_max(over), all).await;
    }

    /// Returns handles for sending commands to the shards.
    pub(crate) fn handles(&self) -> Vec<ShardHandle> {
        self.handles.clone()
    }

    /// Wakes all shards whenever the time changes, so that they read the new time.
    pub(crate) async fn wake_on_time_change(
        handles: Vec<ShardHandle>,
        mut authority: watch::Receiver<Option<Authority>>,
    ) {
        authority.mark_changed();
        while authority.changed().await.is_ok() {
            authority.mark_unchanged();
            handles.iter().for_each(ShardHandle::wake);
        }
    }

    /// Stops all shards and waits until their threads have ended.
    pub(crate) async fn stop(mut self) {
        self.tell_all(|| ShardCommand::Stop);
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => {
                tracing::error!(panicked, "shard threads panicked");
                panic!("{panicked} shard threads panicked");
            }
            Err(error) => tracing::error!(%error, "shard threads could not be joined"),
        }
    }

    fn tell_all(&self, command: impl Fn() -> ShardCommand) {
        for shard in &self.handles {
            // A shard that has ended needs no command.
            let _ = shard.send(command());
        }
    }
}

#[cfg(feature = "bench")]
impl Shards {
    /// Makes each shard send `ticks` to its at-time subscribers of `mode`.
    pub(crate) fn burst(&self, mode: tickstorm_timebase::Mode, ticks: &[tickstorm_timebase::Tick]) {
        self.tell_all(|| ShardCommand::Burst(mode, ticks.to_vec()));
    }

    /// Makes each shard shed connections.
    pub(crate) fn shed(&self, excess: crate::memory::Excess) {
        self.tell_all(|| ShardCommand::Shed(excess));
    }

    /// Runs `work` on each shard, and waits until all have run it.
    pub(crate) async fn run(&self, work: &Work) {
        let mut ran = Vec::new();
        for shard in &self.handles {
            let (reply, answer) = oneshot::channel();
            // A shard that has ended has no subscribers.
            let _ = shard.send(ShardCommand::Run(Arc::clone(work), reply));
            ran.push(answer);
        }
        for answer in ran {
            // A missing answer means that the shard has ended.
            let _ = answer.await;
        }
    }
}

impl Drop for Shards {
    /// Shards hold handles to each other, so their command channels never close by themselves.
    fn drop(&mut self) {
        self.tell_all(|| ShardCommand::Stop);
    }
}
