//! The tasks of a process, and how they end together. What they do is their own.

use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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
