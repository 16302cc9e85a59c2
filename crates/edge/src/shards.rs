//! All shards of an edge, as control sees them: started behind one barrier, told by message, and waited for at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tickstorm_timebase::{Mode, Tick};
use tokio::sync::{mpsc, oneshot};

use crate::control::StartError;
use crate::shard::{self, Command, Shared, TIME_OF_LAST, Vitals, Work};
use crate::sys::fd_table::Table;

/// Control's ends of them.
#[derive(Default)]
pub(crate) struct Shards {
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
    vitals: Vec<Arc<Vitals>>,
}

impl Shards {
    /// Starts `count` of them, and comes back when each has built its runtime: only then may listeners be made.
    pub(crate) async fn start(count: usize, shared: &Shared) -> Result<Self, StartError> {
        let mut shards = Self::default();
        let mut barrier = Vec::new();
        for index in 0..count {
            match shard::spawn(index, shared.clone()) {
                Ok(started) => {
                    shards.commands.push(started.commands);
                    shards.threads.push(started.thread);
                    shards.vitals.push(started.vitals);
                    barrier.push(started.built);
                }
                Err(error) => return shards.give_up(index, error).await,
            }
        }
        for (index, built) in barrier.into_iter().enumerate() {
            let outcome = built
                .await
                .unwrap_or_else(|_| Err(io::Error::other("its thread ended")));
            if let Err(error) = outcome {
                return shards.give_up(index, error).await;
            }
        }
        shards.tell_all(|| Command::Peers(shards.commands.clone()));
        Ok(shards)
    }

    async fn give_up(self, shard: usize, error: io::Error) -> Result<Self, StartError> {
        self.stop().await;
        Err(StartError::Shard { shard, error })
    }

    /// Lets each have a table of open files of its own, of at most `limit`: after all have built their runtimes, by whose
    /// descriptors threads wake each other, and before they listen.
    pub(crate) async fn separate(&self, limit: u64) -> io::Result<Vec<Table>> {
        let mut tables = Vec::new();
        for shard in &self.commands {
            let (reply, separated) = oneshot::channel();
            // One that has ended shows by giving no answer.
            let _ = shard.send(Command::Separate(limit, reply));
            let table = separated
                .await
                .unwrap_or_else(|_| Err(io::Error::other("a shard ended")));
            tables.push(table?);
        }
        Ok(tables)
    }

    /// Lets each listen on `addr`; where the system chooses the port, the first one's is the others' too.
    pub(crate) async fn listen(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let mut addr = addr;
        for shard in &self.commands {
            let (reply, bound) = oneshot::channel();
            // One that has ended shows by giving no answer.
            let _ = shard.send(Command::Listen(addr, reply));
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

    /// Lets each send `ticks` to its at-time subscribers of `mode`.
    pub(crate) fn burst(&self, mode: Mode, ticks: &[Tick]) {
        self.tell_all(|| Command::Burst(mode, ticks.to_vec()));
    }

    /// Lets each run `work`, and waits until all have.
    pub(crate) async fn run(&self, work: &Work) {
        let mut ran = Vec::new();
        for shard in &self.commands {
            let (reply, answer) = oneshot::channel();
            // One that has ended has no descriptors.
            let _ = shard.send(Command::Run(Arc::clone(work), reply));
            ran.push(answer);
        }
        for answer in ran {
            // Likewise.
            let _ = answer.await;
        }
    }

    /// Lets each accept nobody any more and close its connections within `over`. Ends when all are closed or the time is over;
    /// even where that is nothing, everybody has [`TIME_OF_LAST`] to read the ERROR.
    pub(crate) async fn drain(&self, over: Duration) {
        let mut drained = Vec::new();
        for shard in &self.commands {
            let (reply, answer) = oneshot::channel();
            // One that has ended has closed all of its own.
            let _ = shard.send(Command::Drain(over, reply));
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
    pub(crate) fn commands(&self) -> Vec<mpsc::UnboundedSender<Command>> {
        self.commands.clone()
    }

    /// Ends all of them, and waits until they have.
    pub(crate) async fn stop(self) {
        self.tell_all(|| Command::Stop);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        match joined.await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(panicked, "threads of shards had panicked"),
            Err(error) => tracing::error!(%error, "threads of shards were not waited for"),
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for shard in &self.commands {
            // One that has ended has nobody to serve and needs no word.
            let _ = shard.send(command());
        }
    }
}
