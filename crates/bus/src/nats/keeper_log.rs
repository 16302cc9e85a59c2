//! [`KeeperLog`]: what the keeper logs, and how often. It contains each new failure, and the start
//! and end of connections unless the servers flap or bring nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{Dispatch, dispatcher};

use super::Missing;
use super::connection::KnownErrors;
use super::dialing::AttemptError;
use super::options::NatsServer;

/// The maximum number of different failures logged per server and outage.
const FAILURES_LOGGED_MAX: usize = 16;

/// The maximum number of consecutive short-lived connections that are logged. After that, a
/// flapping server is no longer worth reporting.
const FLAPS_LOGGED_MAX: u32 = 3;

/// The keeper's log.
pub(super) struct KeeperLog {
    dispatch: Dispatch,
    /// The failures logged since the last connection, by server.
    failures: BTreeSet<(usize, String)>,
    /// The number of consecutive connections, including the current one, that have not lasted
    /// [`STABLE_AFTER`](super::retries::STABLE_AFTER).
    flaps: u32,
    /// The servers whose silence is logged, since a connection has last brought what it must.
    silent: BTreeSet<usize>,
    /// What the last of them did not bring.
    missing: Option<Missing>,
    /// The server errors that are logged, since a connection has last brought what it must.
    errors: KnownErrors,
}

impl KeeperLog {
    /// Creates the log, which writes to `dispatch`.
    pub(super) fn to(dispatch: Dispatch) -> Self {
        Self {
            dispatch,
            failures: BTreeSet::new(),
            flaps: 0,
            silent: BTreeSet::new(),
            missing: None,
            errors: KnownErrors::default(),
        }
    }

    pub(super) const fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// Returns what the last connection did not bring, if none has brought anything since.
    pub(super) const fn missing(&self) -> Option<Missing> {
        self.missing
    }

    /// Returns the server errors that are logged, for the connection that logs further ones.
    pub(super) fn take_errors(&mut self) -> KnownErrors {
        std::mem::take(&mut self.errors)
    }

    /// Takes them back when that connection has ended.
    pub(super) fn keep_errors(&mut self, errors: KnownErrors) {
        self.errors = errors;
    }

    pub(super) fn failure(&mut self, index: usize, server: &NatsServer, error: &AttemptError) {
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

    pub(super) fn connected(&mut self, server: &NatsServer) {
        if self.flaps < FLAPS_LOGGED_MAX {
            self.failures.clear();
            self.emit(|| tracing::info!(%server, "connected to NATS"));
        }
        self.flaps = self.flaps.saturating_add(1);
    }

    /// Logs a connection that has lasted. If connections bring nothing, they are given up after
    /// that time or later, and only their beginning is of interest.
    pub(super) fn stable(&mut self, server: &NatsServer) {
        if self.missing.is_some() {
            return;
        }
        if self.flaps > FLAPS_LOGGED_MAX {
            self.failures.clear();
            self.emit(|| tracing::info!(%server, "connected to NATS"));
        }
        self.flaps = 0;
    }

    pub(super) fn lost(&self, server: &NatsServer) {
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

    /// Logs that a connection to `server` at `addr` is given up, once for each server until one
    /// brings what it must.
    pub(super) fn silent(
        &mut self,
        index: usize,
        server: &NatsServer,
        addr: SocketAddr,
        missing: Missing,
        waited: Duration,
    ) {
        self.missing = Some(missing);
        if !self.silent.insert(index) {
            return;
        }
        self.emit(|| match missing {
            Missing::Answers => tracing::warn!(
                %server, address = %addr, ?waited,
                "no clock of CLOCKS answers over this connection to NATS: giving it up, and trying \
                 the next server until one does; if the alarm `unheard` is raised, CLOCKS names \
                 the wrong clocks; this is logged once per server"
            ),
            Missing::OwnAnnouncements => tracing::warn!(
                %server, address = %addr, ?waited,
                "this clock's announcements do not come back over this connection to NATS: giving \
                 it up, and trying the next server until they do; this is logged once per server"
            ),
        });
    }

    /// Handles that a connection has brought what it must, so that its end is worth logging.
    pub(super) fn heard(&mut self) {
        self.errors = KnownErrors::default();
        if self.missing.take().is_some() {
            self.silent.clear();
            self.flaps = 0;
        }
    }

    fn emit(&self, event: impl FnOnce()) {
        dispatcher::with_default(&self.dispatch, event);
    }
}
