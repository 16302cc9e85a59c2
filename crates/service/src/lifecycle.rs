//! The order of a process's life: what is done first, what ends it, and with which exit code. What its parts do in between is
//! their own.

use std::{future::Future, io, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Exit codes, those of sysexits.h where one fits.
pub mod exit {
    /// All went as asked.
    pub const OK: u8 = 0;
    /// The answer is no: a probe's limit was passed, a health check failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// The other side can't be reached.
    pub const UNAVAILABLE: u8 = 69;
    /// A defect of the program.
    pub const SOFTWARE: u8 = 70;
    /// The other side broke the protocol.
    pub const PROTOCOL: u8 = 76;
    /// The other side refused.
    pub const NOPERM: u8 = 77;
    /// Settings are wrong.
    pub const CONFIG: u8 = 78;
}

/// The limit of open files, before and after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The soft limit that the process was started with.
    pub before: u64,
    /// The soft limit now, which is the hard one.
    pub after: u64,
}

/// Raises the soft limit of open files to the hard one. It comes first in an edge's life, since all else is sized by it.
///
/// # Errors
/// Where the system refuses, which it has no reason to.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if before < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(OpenFiles {
        before,
        after: hard,
    })
}

/// What asked the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: an orchestrator, an init system.
    Terminate,
}

/// The signals that ask the process to end, caught from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them; inside a runtime.
    ///
    /// # Errors
    /// Where the system lets no handler be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one. Waiting can be given up without losing any.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}

/// The tasks that make up a process or a part of it, and the one word that ends them all.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Tasks that did not end within their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tasks} tasks were still running {within:?} after they were told to stop")]
pub struct StillRunning {
    /// How many.
    pub tasks: usize,
    /// The time that they had.
    pub within: Duration,
}

impl Lifecycle {
    /// Begins with no task.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that is cancelled when it is time to stop.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts `task`, which must end soon after the token is cancelled.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Tells all tasks to stop and waits until they have, at most for `within`.
    ///
    /// # Errors
    /// Where some have not: it is for the caller to end the process over them.
    pub async fn stop(self, within: Duration) -> Result<(), StillRunning> {
        self.stop.cancel();
        self.tasks.close();
        timeout(within, self.tasks.wait())
            .await
            .map_err(|_| StillRunning {
                tasks: self.tasks.len(),
                within,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_ends_all_tasks_and_waits_for_them() {
        let lifecycle = Lifecycle::new();
        let (done, mut ended) = tokio::sync::mpsc::unbounded_channel();
        for i in 0..3 {
            let (stop, done) = (lifecycle.stopping(), done.clone());
            lifecycle.spawn(async move {
                stop.cancelled().await;
                tokio::time::sleep(Duration::from_secs(i)).await;
                done.send(i).expect("the test listens");
            });
        }
        assert_eq!(lifecycle.stop(Duration::from_secs(5)).await, Ok(()));
        for i in 0..3 {
            assert_eq!(ended.try_recv(), Ok(i));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_holds_up_the_stop_no_longer_than_allowed() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(std::future::pending());
        let within = Duration::from_secs(5);
        let begun = tokio::time::Instant::now();
        assert_eq!(
            lifecycle.stop(within).await,
            Err(StillRunning { tasks: 1, within })
        );
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}
