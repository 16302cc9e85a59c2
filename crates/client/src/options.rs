//! [`Options`]: where to connect, as whom, and what to subscribe to. Secrets are held so that printing can't show them, and wiped
//! from memory when they are dropped.

use secrecy::SecretString;
use tickstorm_timebase::{Epoch, Mode};

/// How to reach an edge, and what to ask it for.
#[derive(Clone, Debug)]
pub struct Options {
    /// At least one.
    pub(crate) addresses: Vec<String>,
    pub(crate) credentials: Credentials,
    pub(crate) mode: Mode,
    pub(crate) resume_after: Option<Epoch>,
    pub(crate) client_id: String,
    pub(crate) exact_time: bool,
    pub(crate) ahead: bool,
    pub(crate) reconnect: bool,
}

impl Options {
    /// SECOND ticks from the edge at `address` (`host:port`), without credentials yet.
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
        }
    }

    /// Adds another edge's address. After each failure the next one is gone to, and after the last the first again.
    #[must_use]
    pub fn or_at(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Authenticates with a user's name and password, in place of any credentials set before.
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

    /// Asks for the ticks after `epoch` that have already been: they come first, as REPLAY. `epoch` is the last tick seen, or
    /// [`Ticks::start_epoch`](crate::Ticks::start_epoch) where none was.
    #[must_use]
    pub fn resume_after(mut self, epoch: Epoch) -> Self {
        self.resume_after = Some(epoch);
        self
    }

    /// Samples authority time each 2 s instead of with each heartbeat, so that its error between samples stays below half a
    /// millisecond, and not 2 ms.
    #[must_use]
    pub fn exact_time(mut self) -> Self {
        self.exact_time = true;
        self
    }

    /// Subscribes ahead: ticks come 800 ms before their time, and are released when authority time has come to them by this client's
    /// own estimate. The network's delay then makes no tick late, only the estimate's error does.
    #[must_use]
    pub fn ahead(mut self, ahead: bool) -> Self {
        self.ahead = ahead;
        self
    }

    /// Whether to connect again when a connection ends, as is the default. Without, the stream's last item is why it ended.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Tells the edge's operator who this is. The edge cuts it to 64 characters.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }
}

/// As whom to authenticate.
#[derive(Clone, Debug, Default)]
pub(crate) enum Credentials {
    /// An edge refuses this, and says so.
    #[default]
    None,
    /// A user's name and password.
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
