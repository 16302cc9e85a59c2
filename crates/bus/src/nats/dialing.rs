//! Connects to the first server that works. The servers that are due are tried side by side, each a
//! moment after the one before, so that one that is silent delays the others by that moment only.
//! `retries` decides when a server is due, and `transport` connects to one.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tickstorm_timebase::{Clock, SystemClock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::addresses::Addresses;
use super::keeper_log::KeeperLog;
use super::options::{NatsOptions, NatsSecrets, NatsServer, ServerOptions};
use super::retries::{FailureKind, Retries};
use super::transport::{ConnectError, STAGGER, Transport, connect, joined};

/// A server, and what is known of its addresses.
pub(super) struct Candidate {
    pub(super) server: NatsServer,
    addresses: Arc<Mutex<Addresses>>,
}

/// The reason why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error("cannot create a runtime for the connection: {0}")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl AttemptError {
    /// Returns the kind of failure, which determines the backoff. Faults in files, certificates and
    /// logins count as refusals, because a person has to fix them.
    pub(super) fn failure_kind(&self) -> FailureKind {
        let is_refusal = match self {
            Self::Runtime(_) => false,
            Self::Connect(error) => error.is_refusal(),
        };
        if is_refusal {
            FailureKind::Refused
        } else {
            FailureKind::Unreachable
        }
    }
}

impl Candidate {
    pub(super) fn new(server: NatsServer) -> Self {
        Self {
            server,
            addresses: Arc::default(),
        }
    }

    pub(super) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the first of the servers that works, and returns its index. Returns `None` if all
/// attempts have failed and no server is due, after `retries` and `log` have noted the failures.
pub(super) async fn dial(
    candidates: &[Candidate],
    options: &NatsOptions,
    secrets: &watch::Receiver<NatsSecrets>,
    retries: &mut Retries,
    log: &mut KeeperLog,
) -> Option<(usize, Transport)> {
    let mut attempts = Attempts::default();
    let mut earliest = SystemClock.now();
    loop {
        let next = retries.next_besides(&attempts.servers);
        let now = SystemClock.now();
        if attempts.servers.is_empty() && next.is_none_or(|(_, due)| due > now) {
            return None;
        }
        let next = next.map(|(server, due)| (server, due.max(earliest).since(now)));
        tokio::select! {
            biased;
            Some((server, attempt)) = attempts.next_end() => match attempt {
                Ok(transport) => return Some((server, transport)),
                Err(error) => {
                    // Nothing is gained by waiting for it any longer.
                    earliest = SystemClock.now();
                    let error = AttemptError::from(error);
                    log.failure(server, &candidates[server].server, &error);
                    retries.handle_failure(server, error.failure_kind(), earliest, rand::random());
                }
            },
            server = after_pause(next) => {
                earliest = SystemClock.now() + STAGGER;
                let candidate = &candidates[server];
                let options = options.to_server(&candidate.server, &secrets.borrow());
                attempts.start(server, candidate, options);
            }
        }
    }
}

/// Waits for the pause, and then returns the server. Waits forever if there is none.
async fn after_pause(next: Option<(usize, Duration)>) -> usize {
    match next {
        Some((server, pause)) => {
            sleep(pause).await;
            server
        }
        None => pending().await,
    }
}

/// The attempts under way, which end when this is dropped.
#[derive(Default)]
struct Attempts {
    tasks: JoinSet<(usize, Result<Transport, ConnectError>)>,
    servers: Vec<usize>,
}

impl Attempts {
    /// Starts to connect to a server.
    fn start(
        &mut self,
        index: usize,
        Candidate { server, addresses }: &Candidate,
        options: ServerOptions,
    ) {
        let name = (server.host.clone(), server.port);
        let connecting = connect(name, options, Arc::clone(addresses));
        self.tasks.spawn(async move { (index, connecting.await) });
        self.servers.push(index);
    }

    /// Returns the next attempt that ends, or `None` if none is under way.
    async fn next_end(&mut self) -> Option<(usize, Result<Transport, ConnectError>)> {
        let (index, result) = joined(self.tasks.join_next().await?);
        self.servers.retain(|server| *server != index);
        Some((index, result))
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
            AttemptError::Connect(ConnectError::Refused("authorization violation".into())),
            ConnectError::Refused("maximum connections exceeded".into()).into(),
            ConnectError::Info.into(),
            ConnectError::Key.into(),
            ConnectError::Tls(of_tls(rustls::Error::HandshakeNotComplete)).into(),
            ConnectError::Io(of_tls(unknown_ca)).into(),
        ] {
            assert_eq!(refused.failure_kind(), FailureKind::Refused, "{refused}");
        }
        for unreachable in [
            AttemptError::Runtime(io::ErrorKind::OutOfMemory.into()),
            ConnectError::NoAddress.into(),
            ConnectError::Unresolved.into(),
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
