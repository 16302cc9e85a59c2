//! All shards of an edge, as control sees them: started behind one barrier, told by message, and
//! waited for at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tickstorm_timebase::Authority;
use tokio::sync::{oneshot, watch};

#[cfg(feature = "bench")]
use crate::shard::Work;
use crate::shard::{self, Commons, ShardCommand, ShardHandle, TIME_OF_LAST, Vitals};
use crate::start_error::StartError;
use crate::sys::fd_table::FdTable;

/// Control's ends of them.
#[derive(Default)]
pub(crate) struct Shards {
    handles: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    vitals: Vec<Arc<Vitals>>,
}

impl Shards {
    /// Starts `count` of them. When this returns each has made what threads wake it by: only then
    /// may listeners be made.
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

    /// Lets each have a table of open files of its own, of at most `limit`: after all have started,
    /// since threads wake each other by descriptors that all tables must have, and before they
    /// listen.
    pub(crate) async fn separate(&self, limit: u64) -> io::Result<Vec<FdTable>> {
        let mut tables = Vec::new();
        for shard in &self.handles {
            let (reply, separated) = oneshot::channel();
            // One that has ended shows by giving no answer.
            let _ = shard.tell(ShardCommand::Separate(limit, reply));
            let table = separated
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a shard ended")));
            tables.push(table?);
        }
        Ok(tables)
    }

    /// Lets each listen on `addr`; where the system chooses the port, the first one's is the
    /// others' too.
    pub(crate) async fn listen(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let mut addr = addr;
        for shard in &self.handles {
            let (reply, bound) = oneshot::channel();
            // One that has ended shows by giving no answer.
            let _ = shard.tell(ShardCommand::Listen(addr, reply));
            addr = bound
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a shard ended")))?;
        }
        Ok(addr)
    }

    /// What each shows of itself.
    pub(crate) fn vitals(&self) -> Vec<Arc<Vitals>> {
        self.vitals.clone()
    }

    /// Lets each accept nobody any more and close its connections within `over`. Ends when all are
    /// closed or the time is over; even where that is nothing, everybody has [`TIME_OF_LAST`] to
    /// read the ERROR.
    pub(crate) async fn drain(&self, over: Duration) {
        let mut drained = Vec::new();
        for shard in &self.handles {
            let (reply, answer) = oneshot::channel();
            // One that has ended has closed all of its own.
            let _ = shard.tell(ShardCommand::Drain(over, reply));
            drained.push(answer);
        }
        let all = async {
            for answer in drained {
                // Likewise.
                let _ = answer.await;
            }
        };
        let _ = tokio::time::timeout(over.max(TIME_OF_LAST), all).await;
    }

    /// To ask them.
    pub(crate) fn handles(&self) -> Vec<ShardHandle> {
        self.handles.clone()
    }

    /// Wakes all whenever the time changes, which each then looks at.
    pub(crate) async fn tell_time(
        handles: Vec<ShardHandle>,
        mut authority: watch::Receiver<Option<Authority>>,
    ) {
        authority.mark_changed();
        while authority.changed().await.is_ok() {
            authority.mark_unchanged();
            handles.iter().for_each(ShardHandle::wake);
        }
    }

    /// Ends all of them, and waits until they have.
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
                tracing::error!(panicked, "threads of shards had panicked");
                panic!("{panicked} shards had panicked");
            }
            Err(error) => tracing::error!(%error, "threads of shards were not waited for"),
        }
    }

    fn tell_all(&self, command: impl Fn() -> ShardCommand) {
        for shard in &self.handles {
            // One that has ended has nobody to serve and needs no word.
            let _ = shard.tell(command());
        }
    }
}

#[cfg(feature = "bench")]
impl Shards {
    /// Lets each send `ticks` to its at-time subscribers of `mode`.
    pub(crate) fn burst(&self, mode: tickstorm_timebase::Mode, ticks: &[tickstorm_timebase::Tick]) {
        self.tell_all(|| ShardCommand::Burst(mode, ticks.to_vec()));
    }

    /// Lets each run `work`, and waits until all have.
    pub(crate) async fn run(&self, work: &Work) {
        let mut ran = Vec::new();
        for shard in &self.handles {
            let (reply, answer) = oneshot::channel();
            // One that has ended has no descriptors.
            let _ = shard.tell(ShardCommand::Run(Arc::clone(work), reply));
            ran.push(answer);
        }
        for answer in ran {
            // Likewise.
            let _ = answer.await;
        }
    }
}

impl Drop for Shards {
    /// Shards know each other, so none of them would end by itself.
    fn drop(&mut self) {
        self.tell_all(|| ShardCommand::Stop);
    }
}
