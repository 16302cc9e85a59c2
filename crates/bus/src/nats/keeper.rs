//! [`ConnectionKeeper`]: the thread that makes one connection after the other. `retries` says when
//! which server is tried; what happens on a connection is `connection`'s business.

use std::collections::BTreeSet;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_nats::{ConnectError, ConnectErrorKind, ServerError, rustls};
use tickstorm_timebase::{Clock, Mono, SystemClock};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{Dispatch, dispatcher};

use super::Switchboard;
use super::connection::NatsConnection;
use super::options::{NatsError, NatsOptions, NatsServer};
use super::retries::{Retries, STAYS_AFTER, Setback};

/// For resolving a server's name and connecting to one of its addresses.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many different failures of one server are logged in an outage.
const FAILURES_LOGGED_MAX: usize = 16;

/// How many connections in a row are logged that end soon after they are made: after that, a
/// flapping server is no news.
const FLAPS_LOGGED_MAX: u32 = 3;

/// What runs on the bus's thread.
pub(super) struct ConnectionKeeper {
    options: NatsOptions,
    servers: Vec<NatsServer>,
    retries: Retries,
    switchboard: Arc<Switchboard>,
    running: watch::Receiver<bool>,
    build_runtime: BuildRuntime,
    log: KeeperLog,
}

/// Makes the runtime of one connection.
pub(super) type BuildRuntime = fn() -> io::Result<Runtime>;

/// How an attempt ended, or the connection that it led to.
enum AttemptEnd {
    /// The bus is stopped.
    Stopped,
    Failed(AttemptError),
    /// There was a connection, for this long.
    Lost(Duration),
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("no runtime for a connection: {0}")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Options(#[from] NatsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("timed out")]
    TimedOut,
}

impl ConnectionKeeper {
    /// A keeper for which every server is due now. It logs to the caller's subscriber.
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

    /// Connects again and again until `running` is false.
    pub(super) fn run(mut self) {
        // async-nats logs each attempt, and at some levels whole URLs, which may hold passwords.
        // What matters is logged here.
        let _quiet = dispatcher::set_default(&Dispatch::none());
        let _ending = Ending {
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
                        .handle_setback(server, error.setback(), now, jitter);
                }
                AttemptEnd::Lost(lasted) => {
                    self.retries
                        .handle_loss(server, lasted, now, rand::random::<f64>);
                }
            }
        }
    }

    /// Waits until `due`; false if the bus is stopped, which unparks this thread. It needs no
    /// runtime, since a failure to build one is among the reasons to wait.
    fn wait_until(&self, due: Mono) -> bool {
        loop {
            let left = due.since(SystemClock.now());
            if !*self.running.borrow() || left.is_zero() {
                return *self.running.borrow();
            }
            thread::park_timeout(left);
        }
    }

    /// Makes one connection and keeps it to its end, on a runtime that ends with it.
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
        // A name that is still being resolved must not hold up the next attempt.
        runtime.shutdown_background();
        end
    }

    async fn connect_once(&mut self, server: usize) -> AttemptEnd {
        let server = &self.servers[server];
        let connection = match open(&self.options, server, &self.switchboard).await {
            Ok(connection) => connection,
            Err(error) => return AttemptEnd::Failed(error),
        };
        let since = SystemClock.now();
        self.log.connected(server);
        let mut carrying = pin!(connection.carry(&self.switchboard, self.log.dispatch.clone()));
        if timeout(STAYS_AFTER, carrying.as_mut()).await.is_err() {
            self.log.stays(server);
            carrying.await;
        }
        self.switchboard.disconnect();
        self.log.lost(server);
        AttemptEnd::Lost(SystemClock.now().since(since))
    }
}

async fn open(
    options: &NatsOptions,
    server: &NatsServer,
    switchboard: &Arc<Switchboard>,
) -> Result<NatsConnection, AttemptError> {
    let options = options.to_server(server)?;
    let opening = NatsConnection::open(options, server.addr.clone(), Arc::clone(switchboard));
    let opened = timeout(ATTEMPT_TIMEOUT, opening).await;
    Ok(opened.map_err(|_| AttemptError::TimedOut)??)
}

impl AttemptError {
    /// The kind of back-off. A person puts files and certificates right, as with a login.
    fn setback(&self) -> Setback {
        match self {
            Self::Runtime(_) | Self::TimedOut => Setback::Unreachable,
            Self::Options(_) => Setback::Refused,
            Self::Connect(error) => match error.kind() {
                ConnectErrorKind::Authentication
                | ConnectErrorKind::AuthorizationViolation
                | ConnectErrorKind::Tls
                | ConnectErrorKind::ServerParse
                | ConnectErrorKind::MaxReconnects => Setback::Refused,
                ConnectErrorKind::Io if is_refusal(error) => Setback::Refused,
                ConnectErrorKind::Io | ConnectErrorKind::Dns | ConnectErrorKind::TimedOut => {
                    Setback::Unreachable
                }
            },
        }
    }
}

/// Whether an error that async-nats calls I/O is a server's `-ERR`, or a failure of TLS.
fn is_refusal(error: &ConnectError) -> bool {
    let Some(source) = std::error::Error::source(error) else {
        return false;
    };
    let of_tls = source
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .is_some_and(|inner| inner.is::<rustls::Error>());
    of_tls || source.is::<ServerError>()
}

/// What the keeper logs: each new failure, and connections' beginnings and ends while they are
/// news.
struct KeeperLog {
    dispatch: Dispatch,
    /// The failures of each server that were logged since the last connection.
    failures: BTreeSet<(usize, String)>,
    /// Connections in a row that have not lasted.
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
        self.say(|| {
            tracing::warn!(
                %server, error,
                "cannot connect to NATS; trying again until it works"
            );
        });
        self.failures.insert((index, error));
    }

    fn connected(&mut self, server: &NatsServer) {
        if self.flaps < FLAPS_LOGGED_MAX {
            self.failures.clear();
            self.say(|| tracing::info!(%server, "connected to NATS"));
        }
        self.flaps = self.flaps.saturating_add(1);
    }

    fn stays(&mut self, server: &NatsServer) {
        if self.flaps > FLAPS_LOGGED_MAX {
            self.failures.clear();
            self.say(|| tracing::info!(%server, "connected to NATS"));
        }
        self.flaps = 0;
    }

    fn lost(&self, server: &NatsServer) {
        match self.flaps {
            FLAPS_LOGGED_MAX => self.say(|| {
                tracing::warn!(
                    %server,
                    "the connection to NATS is lost, soon after it was made once more; from here \
                     on only one that lasts is logged"
                );
            }),
            0..FLAPS_LOGGED_MAX => {
                self.say(|| tracing::warn!(%server, "the connection to NATS is lost"));
            }
            _ => {}
        }
    }

    fn say(&self, event: impl FnOnce()) {
        dispatcher::with_default(&self.dispatch, event);
    }
}

/// Ends all subscriptions when the thread ends, and logs a panic.
struct Ending {
    switchboard: Arc<Switchboard>,
    log: Dispatch,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.switchboard.end();
        if thread::panicking() {
            dispatcher::with_default(&self.log, || {
                tracing::error!("the bus is gone: its thread panicked");
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(error: io::Error) -> AttemptError {
        AttemptError::Connect(error.into())
    }

    #[test]
    fn what_a_human_puts_right_is_a_refusal_and_what_comes_back_by_itself_is_not() {
        let of_kind = |kind| AttemptError::Connect(ConnectError::new(kind));
        let said = |text: &str| {
            let error = ServerError::Other(text.into());
            AttemptError::Connect(ConnectError::with_source(ConnectErrorKind::Io, error))
        };
        for refused in [
            AttemptError::Options(NatsError::HalfLogin),
            of_kind(ConnectErrorKind::AuthorizationViolation),
            of_kind(ConnectErrorKind::Authentication),
            of_kind(ConnectErrorKind::Tls),
            said("user authentication expired"),
            said("maximum connections exceeded"),
            io_error(io::Error::new(
                io::ErrorKind::InvalidData,
                rustls::Error::HandshakeNotComplete,
            )),
        ] {
            assert_eq!(refused.setback(), Setback::Refused, "{refused}");
        }
        for unreachable in [
            AttemptError::TimedOut,
            AttemptError::Runtime(io::ErrorKind::OutOfMemory.into()),
            of_kind(ConnectErrorKind::Dns),
            of_kind(ConnectErrorKind::TimedOut),
            io_error(io::ErrorKind::ConnectionRefused.into()),
            AttemptError::Connect(ConnectError::with_source(
                ConnectErrorKind::Io,
                "broken pipe",
            )),
        ] {
            assert_eq!(unreachable.setback(), Setback::Unreachable, "{unreachable}");
        }
    }
}
