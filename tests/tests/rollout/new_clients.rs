//! New clients that connect while pods are replaced. Each must be accepted at its first attempt.

use std::time::Duration;

use tickstorm_client::{Options, connect};
use tickstorm_testkit::PATIENCE;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The pause between two clients.
const PAUSE: Duration = Duration::from_millis(250);

/// A task that connects one new client after the other until it is stopped.
pub(crate) struct NewClients {
    stop: watch::Sender<bool>,
    task: JoinHandle<usize>,
}

impl NewClients {
    pub(crate) fn start(options: Options) -> Self {
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let mut connected = 0;
            while !*stopped.borrow_and_update() {
                let first = timeout(PATIENCE, connect(options.clone())).await;
                let ticks = first.expect("a new client is accepted in time");
                drop(ticks.expect("a new client is accepted"));
                connected += 1;
                sleep(PAUSE).await;
            }
            connected
        });
        Self { stop, task }
    }

    /// Stops the task and returns how many clients it has connected.
    ///
    /// # Panics
    /// Panics if a client was not accepted.
    pub(crate) fn stop(self) -> usize {
        self.stop.send_replace(true);
        Handle::current()
            .block_on(self.task)
            .expect("every new client is accepted")
    }
}
