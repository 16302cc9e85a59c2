//! Starts the tasks of a process and stops them together, whatever they do.

use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks and the token that stops all of them.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The error when tasks did not finish in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tasks} tasks were still running {within:?} after they were asked to stop")]
pub struct StillRunning {
    /// The number of tasks that are still running.
    pub tasks: usize,
    /// The time that they had to finish.
    pub within: Duration,
}

impl Lifecycle {
    /// Creates a group without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the token that is cancelled when the tasks must stop.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Spawns `task`, which must finish soon after the token is cancelled.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Asks all tasks to stop and waits until they have finished, at most for `within`.
    ///
    /// # Errors
    /// Returns an error if some tasks have not finished. The caller may end the process regardless
    /// of them.
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
    async fn stop_ends_all_tasks_and_waits_for_them() {
        let lifecycle = Lifecycle::new();
        let (done, mut ended) = tokio::sync::mpsc::unbounded_channel();
        for i in 0..3 {
            let (stop, done) = (lifecycle.stopping(), done.clone());
            lifecycle.spawn(async move {
                stop.cancelled().await;
                tokio::time::sleep(Duration::from_secs(i)).await;
                done.send(i).expect("the test holds the receiver");
            });
        }
        assert_eq!(lifecycle.stop(Duration::from_secs(5)).await, Ok(()));
        for i in 0..3 {
            assert_eq!(ended.try_recv(), Ok(i));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_delays_stop_no_longer_than_allowed() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(std::future::pending());
        let within = Duration::from_secs(5);
        let started = tokio::time::Instant::now();
        assert_eq!(
            lifecycle.stop(within).await,
            Err(StillRunning { tasks: 1, within })
        );
        assert_eq!(started.elapsed().as_secs(), 5);
    }
}
