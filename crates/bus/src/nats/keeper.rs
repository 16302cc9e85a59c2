//! [`ConnectionKeeper`]: the thread that makes one connection after another. `retries` decides when
//! to try which server; `connection` handles a single connection.

use std::collections::BTreeSet;
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
use super::connection::NatsConnection;
use super::options::{NatsError, NatsOptions, NatsServer};
use super::retries::{FailureKind, Retries, STABLE_AFTER};
use super::transport::{ConnectError, connect};

/// The time limit for resolving a server's name and connecting to one of its addresses.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of different failures logged per server and outage.
const FAILURES_LOGGED_MAX: usize = 16;

/// The maximum number of consecutive short-lived connections that are logged. After that, a
/// flapping server is no longer worth reporting.
const FLAPS_LOGGED_MAX: u32 = 3;

/// The state of the bus's thread.
pub(super) struct ConnectionKeeper {
    options: NatsOptions,
    servers: Vec<NatsServer>,
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
    Failed(AttemptError),
    /// There was a connection, which lasted for this long.
    Lost(Duration),
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("cannot create a runtime for the connection: {0}")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Options(#[from] NatsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("timed out")]
    TimedOut,
}

impl ConnectionKeeper {
    /// Creates a keeper for which every server is due now. It logs to the caller's subscriber.
    pub(super) fn new(
        options: NatsOptions,
        servers: Vec<NatsServer>,
        switchboard: Arc<Switchboard>,
        running: watch::Receiver<bool>,
        build_runtime: BuildRuntime,
    ) -> Self {
        Self {
            options,
            retries: Retries::new(servers.len(), SystemClock.now()),
            servers,
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
            log: self.log.dispatch.clone(),
        };
        while let Some((server, due)) = self.retries.next() {
            if !self.wait_until(due) {
                return;
            }
            let end = self.attempt(server);
            self.switchboard.disconnect();
            let now = SystemClock.now();
            match end {
                AttemptEnd::Stopped => return,
                AttemptEnd::Failed(error) => {
                    self.log.failure(server, &self.servers[server], &error);
                    let jitter = rand::random();
                    self.retries
                        .handle_failure(server, error.failure_kind(), now, jitter);
                }
                AttemptEnd::Lost(lasted) => {
                    self.retries
                        .handle_loss(server, lasted, now, rand::random::<f64>);
                }
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

    /// Makes one connection and serves it until it ends, on a runtime that ends with it.
    fn attempt(&mut self, server: usize) -> AttemptEnd {
        let runtime = match (self.build_runtime)() {
            Ok(runtime) => runtime,
            Err(error) => return AttemptEnd::Failed(AttemptError::Runtime(error)),
        };
        let mut running = self.running.clone();
        let end = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = running.wait_for(|running| !running) => AttemptEnd::Stopped,
                end = self.connect_once(server) => end,
            }
        });
        // Name resolution that is still running must not delay the next attempt.
        runtime.shutdown_background();
        end
    }

    async fn connect_once(&mut self, server: usize) -> AttemptEnd {
        let server = &self.servers[server];
        let connection = match open(&self.options, server, &self.log.dispatch).await {
            Ok(connection) => connection,
            Err(error) => return AttemptEnd::Failed(error),
        };
        let since = SystemClock.now();
        self.log.connected(server);
        let mut serving = pin!(connection.serve(&self.switchboard));
        if timeout(STABLE_AFTER, serving.as_mut()).await.is_err() {
            self.log.stable(server);
            serving.await;
        }
        self.switchboard.disconnect();
        self.log.lost(server);
        AttemptEnd::Lost(SystemClock.now().since(since))
    }
}

async fn open(
    options: &NatsOptions,
    server: &NatsServer,
    log: &Dispatch,
) -> Result<NatsConnection, AttemptError> {
    let options = options.to_server(server)?;
    let connecting = timeout(ATTEMPT_TIMEOUT, connect(server, &options)).await;
    let transport = connecting.map_err(|_| AttemptError::TimedOut)??;
    Ok(NatsConnection::new(transport, log.clone()))
}

impl AttemptError {
    /// Returns the kind of failure, which determines the backoff. Faults in files, certificates and
    /// logins count as refusals, because a person has to fix them.
    fn failure_kind(&self) -> FailureKind {
        match self {
            Self::Runtime(_) | Self::TimedOut => FailureKind::Unreachable,
            Self::Options(_) => FailureKind::Refused,
            Self::Connect(error) => match error {
                ConnectError::Refused(_)
                | ConnectError::Protocol(_)
                | ConnectError::Info
                | ConnectError::Key => FailureKind::Refused,
                // The connection may have been lost during the handshake. A client's handshake ends
                // before the server has judged its certificate, so a refusal arrives later.
                ConnectError::Tls(error) | ConnectError::Io(error) if is_of_tls(error) => {
                    FailureKind::Refused
                }
                ConnectError::Tls(_)
                | ConnectError::Io(_)
                | ConnectError::NoAddress
                | ConnectError::TimedOut => FailureKind::Unreachable,
            },
        }
    }
}

/// Returns whether TLS itself failed.
fn is_of_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The keeper's log. It contains each new failure, and the start and end of connections unless the
/// server flaps.
struct KeeperLog {
    dispatch: Dispatch,
    /// The failures logged since the last connection, by server.
    failures: BTreeSet<(usize, String)>,
    /// The number of consecutive connections, including the current one, that have not lasted
    /// [`STABLE_AFTER`].
    flaps: u32,
}

impl KeeperLog {
    const fn to(dispatch: Dispatch) -> Self {
        Self {
            dispatch,
            failures: BTreeSet::new(),
            flaps: 0,
        }
    }

    fn failure(&mut self, index: usize, server: &NatsServer, error: &AttemptError) {
        let error = error.to_string();
        let logged = self.failures.iter().filter(|(of, _)| *of == index).count();
        if logged >= FAILURES_LOGGED_MAX || self.failures.contains(&(index, error.clone())) {
            return;
        }
        self.emit(|| {
            tracing::warn!(
                %server, error,
                "cannot connect to NATS; retrying until it works"
            );
        });
        self.failures.insert((index, error));
    }

    fn connected(&mut self, server: &NatsServer) {
        if self.flaps < FLAPS_LOGGED_MAX {
            self.failures.clear();
            self.emit(|| tracing::info!(%server, "connected to NATS"));
        }
        self.flaps = self.flaps.saturating_add(1);
    }

    fn stable(&mut self, server: &NatsServer) {
        if self.flaps > FLAPS_LOGGED_MAX {
            self.failures.clear();
            self.emit(|| tracing::info!(%server, "connected to NATS"));
        }
        self.flaps = 0;
    }

    fn lost(&self, server: &NatsServer) {
        match self.flaps {
            FLAPS_LOGGED_MAX => self.emit(|| {
                tracing::warn!(
                    %server,
                    "the connection to NATS is lost again, soon after it was made; further \
                     losses are not logged until a connection lasts"
                );
            }),
            0..FLAPS_LOGGED_MAX => {
                self.emit(|| tracing::warn!(%server, "the connection to NATS is lost"));
            }
            _ => {}
        }
    }

    fn emit(&self, event: impl FnOnce()) {
        dispatcher::with_default(&self.dispatch, event);
    }
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
    fn failures_that_a_person_must_fix_are_refusals_and_passing_ones_are_not() {
        let of_tls = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let unknown_ca = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        for refused in [
            AttemptError::Options(NatsError::HalfLogin),
            ConnectError::Refused("authorization violation".into()).into(),
            ConnectError::Refused("maximum connections exceeded".into()).into(),
            ConnectError::Info.into(),
            ConnectError::Key.into(),
            ConnectError::Tls(of_tls(rustls::Error::HandshakeNotComplete)).into(),
            ConnectError::Io(of_tls(unknown_ca)).into(),
        ] {
            assert_eq!(refused.failure_kind(), FailureKind::Refused, "{refused}");
        }
        for unreachable in [
            AttemptError::TimedOut,
            AttemptError::Runtime(io::ErrorKind::OutOfMemory.into()),
            ConnectError::NoAddress.into(),
            ConnectError::TimedOut.into(),
            ConnectError::Io(io::ErrorKind::ConnectionRefused.into()).into(),
            ConnectError::Tls(io::ErrorKind::ConnectionReset.into()).into(),
        ] {
            assert_eq!(
                unreachable.failure_kind(),
                FailureKind::Unreachable,
                "{unreachable}"
            );
        }
    }
}
