//! [`Options`]: which edges to connect to, with which credentials, and what to subscribe to.
//! Secrets are held in a form that printing cannot reveal, and are wiped from memory when they are
//! dropped.

mod env;
mod url;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use tickstorm_timebase::{Epoch, Mode};
use zeroize::Zeroizing;

pub use self::url::OptionsError;
use crate::error::Error;
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
        Self::of(vec![address.into()])
    }

    fn of(addresses: Vec<String>) -> Self {
        Self {
            addresses,
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
    pub fn credentials(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.user(
            user.into(),
            Secret::Text(SecretString::from(password.into())),
        )
    }

    /// Authenticates with a username and the password in a file, without the newline at its end, in
    /// place of any credentials set before. The file is read before each login, so that a password
    /// can be changed while the client runs.
    #[must_use]
    pub fn password_file(self, user: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.user(user.into(), Secret::File(path.into()))
    }

    /// Authenticates with this password and the username set before, such as the one in a URL. If
    /// there is none, connecting fails.
    #[must_use]
    pub fn password(self, password: impl Into<String>) -> Self {
        let user = match &self.credentials {
            Credentials::Password { user, .. } => user.clone(),
            Credentials::None | Credentials::Token(_) => String::new(),
        };
        self.credentials(user, password)
    }

    fn user(mut self, user: String, password: Secret) -> Self {
        self.credentials = Credentials::Password { user, password };
        self
    }

    /// Authenticates with a token, in place of any credentials set before.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::Token(Secret::Text(SecretString::from(token.into())));
        self
    }

    /// Authenticates with the token in a file, without the newline at its end, in place of any
    /// credentials set before. The file is read before each login.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials = Credentials::Token(Secret::File(path.into()));
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

    /// Sets whether to sample authority time every 2 s instead of every two thirds of the edge's
    /// heartbeat interval, which is off by default. Between samples, its error then grows by less
    /// than 0.5 ms instead of 2 ms. [`Options::ahead`] implies it.
    #[must_use]
    pub fn exact_time(mut self, exact_time: bool) -> Self {
        self.exact_time = exact_time;
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

/// The longest secret that is read from a file. An edge accepts no longer AUTH.
const SECRET_LEN_MAX: u64 = 4_096;

/// The credentials to authenticate with.
#[derive(Clone, Debug, Default)]
pub(crate) enum Credentials {
    /// No credentials. An edge answers with AUTH_FAILED.
    #[default]
    None,
    /// A username and password.
    Password { user: String, password: Secret },
    /// A token.
    Token(Secret),
}

impl Credentials {
    /// Fails if a part of the credentials is missing.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self::Password { user, password } = self else {
            return Ok(());
        };
        let missing = if user.is_empty() {
            "username"
        } else if matches!(password, Secret::Missing) {
            "password"
        } else {
            return Ok(());
        };
        Err(Error::MissingCredentials { missing })
    }

    /// Returns these credentials with the current content of their file, if they have one.
    pub(crate) async fn load(&self) -> Result<Self, Error> {
        Ok(match self {
            Self::None => Self::None,
            Self::Password { user, password } => Self::Password {
                user: user.clone(),
                password: password.load().await?,
            },
            Self::Token(token) => Self::Token(token.load().await?),
        })
    }
}

/// A password or token, or the file that contains it.
#[derive(Clone, Debug)]
pub(crate) enum Secret {
    Missing,
    Text(SecretString),
    File(PathBuf),
}

impl Secret {
    /// Returns the secret, unless it is in a file or missing.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.expose_secret()),
            Self::Missing | Self::File(_) => None,
        }
    }

    async fn load(&self) -> Result<Self, Error> {
        let Self::File(path) = self else {
            return Ok(self.clone());
        };
        let (file, path) = (path.clone(), path.clone());
        let read = tokio::task::spawn_blocking(move || read_secret(File::open(file)?));
        let text = read
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        let text = text.map_err(|source| Error::SecretFile { path, source })?;
        Ok(Self::Text(text))
    }
}

/// Reads a secret without the newline at its end.
fn read_secret(from: impl io::Read) -> io::Result<SecretString> {
    let mut text = Zeroizing::new(String::new());
    from.take(SECRET_LEN_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > SECRET_LEN_MAX) {
        let limit = format!("it is longer than {SECRET_LEN_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, limit));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(SecretString::from(line))
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

    #[test]
    fn a_secret_in_a_file_ends_at_its_newline() {
        for (content, expected) in [
            ("sesame", "sesame"),
            ("sesame\n", "sesame"),
            ("sesame\r\n", "sesame"),
            (" sesame \n\n", " sesame \n"),
        ] {
            let read = read_secret(content.as_bytes()).unwrap();
            assert_eq!(read.expose_secret(), expected);
        }
        for (content, expected) in [
            ("", "it is empty"),
            ("\n", "it is empty"),
            ("\r\n", "it is empty"),
            (&"s".repeat(4_097), "it is longer than 4096 bytes"),
        ] {
            let error = read_secret(content.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        assert!(read_secret(&b"\xff"[..]).is_err());
    }

    #[test]
    fn a_password_belongs_to_the_user_set_before() {
        let options = Options::new("edge:8080").credentials("ada", "old");
        let Credentials::Password { user, password } = options.password("new").credentials else {
            panic!("a password was set");
        };
        assert_eq!((user.as_str(), password.text()), ("ada", Some("new")));
    }
}
