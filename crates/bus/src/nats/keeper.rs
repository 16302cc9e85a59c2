//! [`ConnectionKeeper`]: the thread that makes one connection after another. `retries` decides when
//! to try which server, `dialing` tries them, and `connection` handles a single connection.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono, SystemClock};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{Dispatch, dispatcher};

use super::Switchboard;
use super::connection::{ConnectionEnd, NatsConnection, Recovery};
use super::dialing::{AttemptError, Candidate, dial};
use super::keeper_log::KeeperLog;
use super::options::{NatsOptions, NatsSecrets, NatsServer};
use super::retries::{Retries, STABLE_AFTER};
use super::transport::Transport;
use crate::silence::SILENCE_MIN;

/// The longest silence for which a connection is kept. If no server of the list brings anything,
/// the clocks are gone, and connecting again changes nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The state of the bus's thread.
pub(super) struct ConnectionKeeper {
    options: Arc<NatsOptions>,
    secrets: watch::Receiver<NatsSecrets>,
    candidates: Vec<Candidate>,
    retries: Retries,
    switchboard: Arc<Switchboard>,
    running: watch::Receiver<bool>,
    build_runtime: BuildRuntime,
    log: KeeperLog,
}

/// A function that creates the runtime of one connection.
pub(super) type BuildRuntime = fn() -> io::Result<Runtime>;

/// The outcome of an attempt, or of the connection that it led to.
enum AttemptEnd {
    /// The bus was stopped.
    Stopped,
    /// There is no connection.
    Failed,
    /// There was a connection to this server, which lasted for this long.
    Ended(usize, ConnectionEnd, Duration),
}

impl ConnectionKeeper {
    /// Creates a keeper for which every server is due now. It logs to the caller's subscriber.
    pub(super) fn new(
        options: Arc<NatsOptions>,
        secrets: watch::Receiver<NatsSecrets>,
        servers: Vec<NatsServer>,
        switchboard: Arc<Switchboard>,
        running: watch::Receiver<bool>,
        build_runtime: BuildRuntime,
    ) -> Self {
        Self {
            options,
            secrets,
            retries: Retries::new(servers.len(), SystemClock.now()),
            candidates: servers.into_iter().map(Candidate::new).collect(),
            switchboard,
            running,
            build_runtime,
            log: KeeperLog::to(dispatcher::get_default(Clone::clone)),
        }
    }

    /// Keeps connecting until `running` is false.
    pub(super) fn run(mut self) {
        // The libraries for TLS log each handshake. This module logs what matters.
        let _quiet = dispatcher::set_default(&Dispatch::none());
        let _end_guard = EndGuard {
            switchboard: Arc::clone(&self.switchboard),
            log: self.log.dispatch().clone(),
        };
        while let Some((server, due)) = self.retries.next() {
            if !self.wait_until(due) {
                return;
            }
            let end = self.attempt(server);
            match end {
                AttemptEnd::Stopped => return,
                AttemptEnd::Failed => {}
                AttemptEnd::Ended(server, end, lasted) => self.handle_end(server, end, lasted),
            }
        }
    }

    fn handle_end(&mut self, server: usize, end: ConnectionEnd, lasted: Duration) {
        let now = SystemClock.now();
        match end {
            ConnectionEnd::Lost => {
                self.retries
                    .handle_loss(server, lasted, now, rand::random::<f64>);
            }
            ConnectionEnd::Silent(_) => {
                self.retries
                    .handle_silence(server, now, rand::random::<f64>);
            }
        }
    }

    /// Waits until `due`. Returns false if the bus is stopped, which unparks this thread. This
    /// works without a runtime, since a failure to create one is among the reasons to wait.
    fn wait_until(&self, due: Mono) -> bool {
        loop {
            let left = due.since(SystemClock.now());
            if !*self.running.borrow() || left.is_zero() {
                return *self.running.borrow();
            }
            thread::park_timeout(left);
        }
    }

    /// Makes one connection and serves it until it ends, on a runtime that ends with it. `due` is
    /// the server that is due first.
    fn attempt(&mut self, due: usize) -> AttemptEnd {
        let runtime = match (self.build_runtime)() {
            Ok(runtime) => runtime,
            Err(error) => {
                let error = AttemptError::Runtime(error);
                self.log.failure(due, &self.candidates[due].server, &error);
                let (kind, now) = (error.failure_kind(), SystemClock.now());
                self.retries.handle_failure(due, kind, now, rand::random());
                return AttemptEnd::Failed;
            }
        };
        let mut running = self.running.clone();
        let end = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = running.wait_for(|running| !running) => AttemptEnd::Stopped,
                end = self.connect_once() => end,
            }
        });
        self.switchboard.disconnect();
        // Name resolution that is still running must not delay the next attempt.
        runtime.shutdown_background();
        end
    }

    async fn connect_once(&mut self) -> AttemptEnd {
        let Self {
            options,
            secrets,
            candidates,
            retries,
            log,
            ..
        } = self;
        match dial(candidates, options, secrets, retries, log).await {
            Some((server, transport)) => self.serve(server, transport).await,
            None => AttemptEnd::Failed,
        }
    }

    async fn serve(&mut self, index: usize, transport: Transport) -> AttemptEnd {
        let server = &self.candidates[index].server;
        let since = SystemClock.now();
        self.log.connected(server);
        self.switchboard.note_connected(server.to_string());
        let patience = self.patience();
        let addr = transport.addr;
        let recovery = self.log.missing().map(|missing| Recovery {
            server: server.to_string(),
            missing,
        });
        let (log, errors) = (self.log.dispatch().clone(), self.log.take_errors());
        let mut connection = NatsConnection::new(transport, patience, recovery, errors, log);
        let end = {
            let mut serving = pin!(connection.serve(&self.switchboard));
            match timeout(STABLE_AFTER, serving.as_mut()).await {
                Ok(end) => end,
                Err(_) => {
                    self.log.stable(server);
                    serving.await
                }
            }
        };
        self.log.keep_errors(connection.into_known_errors());
        if self.switchboard.is_heard() {
            self.retries.handle_sign();
            self.candidates[index].addresses().forget_attempts();
            self.log.heard();
        }
        match end {
            ConnectionEnd::Lost => self.log.lost(server),
            ConnectionEnd::Silent(missing) => {
                self.switchboard.note_silent_link();
                self.log.silent(index, server, addr, missing, patience);
            }
        }
        AttemptEnd::Ended(index, end, SystemClock.now().since(since))
    }

    /// Returns for how long the next connection may bring nothing. It doubles with each round in
    /// which every address of every server was tried without success.
    fn patience(&self) -> Duration {
        let counts = self.candidates.iter().map(|one| one.addresses().count());
        let round = u32::try_from(counts.sum::<usize>()).unwrap_or(u32::MAX);
        patience(self.retries.silent_links(), round)
    }
}

/// Returns for how long a connection may bring nothing after `silent_links` connections in a row
/// that did not, if there are `round` addresses.
fn patience(silent_links: u32, round: u32) -> Duration {
    let doublings = silent_links / round.max(1);
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    SILENCE_MIN.saturating_mul(factor).min(SILENCE_MAX)
}

/// A guard that ends all subscriptions when the thread ends, and logs a panic.
struct EndGuard {
    switchboard: Arc<Switchboard>,
    log: Dispatch,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.switchboard.end();
        if thread::panicking() {
            dispatcher::with_default(&self.log, || {
                tracing::error!("the bus has ended because its thread panicked");
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_with_each_fruitless_round_up_to_half_a_minute() {
        let seconds = |round: u32| {
            let links = 0..9;
            let patience = links.map(|links| patience(links, round).as_secs());
            patience.collect::<Vec<_>>()
        };
        assert_eq!(seconds(1), [5, 10, 20, 30, 30, 30, 30, 30, 30]);
        assert_eq!(seconds(3), [5, 5, 5, 10, 10, 10, 20, 20, 20]);
        assert_eq!(patience(u32::MAX, 1), SILENCE_MAX);
        assert_eq!(patience(u32::MAX, u32::MAX), 2 * SILENCE_MIN);
    }
}
