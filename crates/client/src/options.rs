//! [`Options`]: which edges to connect to, with which credentials, and what to subscribe to.
//! Secrets are held in a form that printing cannot reveal, and are wiped from memory when they are
//! dropped.

use secrecy::SecretString;
use tickstorm_timebase::{Epoch, Mode};

#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

/// The configuration of a client: how to reach an edge, and what to request from it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The addresses of the edges; at least one.
    pub(crate) addresses: Vec<String>,
    pub(crate) credentials: Credentials,
    pub(crate) mode: Mode,
    pub(crate) resume_after: Option<Epoch>,
    pub(crate) client_id: String,
    pub(crate) exact_time: bool,
    pub(crate) ahead: bool,
    pub(crate) reconnect: bool,
    pub(crate) moves: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsOptions>,
}

impl Options {
    /// Creates options for SECOND ticks from the edge at `address` (`host:port`), without
    /// credentials yet.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            addresses: vec![address.into()],
            credentials: Credentials::default(),
            mode: Mode::Second,
            resume_after: None,
            client_id: String::new(),
            exact_time: false,
            ahead: false,
            reconnect: true,
            moves: true,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Adds another edge's address. After each failure the client tries the next address, and after
    /// the last one the first again.
    #[must_use]
    pub fn or_at(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Authenticates with a username and password, in place of any credentials set before.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::Password {
            user: user.into(),
            password: SecretString::from(password.into()),
        };
        self
    }

    /// Authenticates with a token, in place of any credentials set before.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::Token(SecretString::from(token.into()));
        self
    }

    /// Subscribes to the ticks of `mode`.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Resumes an earlier subscription: requests the ticks after `epoch`. Those whose time has come
    /// arrive first, as REPLAY. `epoch` is the last tick that the earlier subscription received, or
    /// its [`Ticks::start_epoch`](crate::Ticks::start_epoch) if it received none.
    #[must_use]
    pub fn resume_after(mut self, epoch: Epoch) -> Self {
        self.resume_after = Some(epoch);
        self
    }

    /// Samples authority time every 2 s instead of every two thirds of the edge's heartbeat
    /// interval. Between samples, its error then grows by less than 0.5 ms instead of 2 ms.
    #[must_use]
    pub fn exact_time(mut self) -> Self {
        self.exact_time = true;
        self
    }

    /// Sets whether to subscribe ahead, which is off by default. If so, ticks arrive 800 ms before
    /// their time (unless the edge is configured otherwise), and the client releases each one when
    /// its own estimate of authority time reaches it. A tick's lateness then depends on the
    /// estimate's error and on the timer, not on the network's delay.
    #[must_use]
    pub fn ahead(mut self, ahead: bool) -> Self {
        self.ahead = ahead;
        self
    }

    /// Connects over TLS. The default is plain TCP, over which passwords travel as they are.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets whether to reconnect when a connection ends, which is the default. Otherwise the
    /// stream's last item is the error that ended the connection, and an edge is not left while
    /// anything comes from it within its heartbeat timeout, since there is nowhere to go.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Sets whether to move to another edge when an edge announces that it will close the
    /// connection, which is the default. For a moment, a move takes two connections. A client that
    /// may only have one waits for the end of the first, and then gets its ticks some seconds late.
    #[must_use]
    pub fn moves(mut self, moves: bool) -> Self {
        self.moves = moves;
        self
    }

    /// Identifies this client to the edge's operator. The edge cuts the id to 64 characters.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }
}

/// The credentials to authenticate with.
#[derive(Clone, Debug, Default)]
pub(crate) enum Credentials {
    /// No credentials. An edge answers with AUTH_FAILED.
    #[default]
    None,
    /// A username and password.
    Password {
        user: String,
        password: SecretString,
    },
    /// A token.
    Token(SecretString),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let options = Options::new("edge:8080").credentials("ada", "open sesame");
        let shown = format!("{options:?}");
        assert!(
            shown.contains("ada") && !shown.contains("sesame"),
            "{shown}"
        );
        let shown = format!("{:?}", options.token("open sesame"));
        assert!(
            !shown.contains("ada") && !shown.contains("sesame"),
            "{shown}"
        );
    }
}
