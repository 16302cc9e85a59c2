//! Clients that come for the first time while something is replaced: each must be let in at its first attempt.

use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_testkit::PATIENCE;
use tickstorm_tests::crowd;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// From one to the next.
const PAUSE: Duration = Duration::from_millis(250);

/// They come until they are told to leave.
pub(crate) struct Newcomers {
    stop: watch::Sender<bool>,
    task: JoinHandle<usize>,
}

impl Newcomers {
    pub(crate) fn come(addr: SocketAddr) -> Self {
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let mut came = 0;
            while !*stopped.borrow_and_update() {
                let first = timeout(PATIENCE, crowd::connect(addr)).await;
                let ticks = first.expect("a newcomer is let in in time");
                drop(ticks.expect("a newcomer is let in"));
                came += 1;
                sleep(PAUSE).await;
            }
            came
        });
        Self { stop, task }
    }

    /// How many came.
    ///
    /// # Panics
    /// Where one was not let in.
    pub(crate) fn leave(self) -> usize {
        self.stop.send_replace(true);
        Handle::current()
            .block_on(self.task)
            .expect("every newcomer is let in")
    }
}
