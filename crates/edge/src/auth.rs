//! Credentials: user and password (and the previous password during a rotation), or tokens. Secrets
//! are compared as SHA-256 digests and in constant time, so that response times reveal nothing. The
//! cost of checking a token does not depend on the number of tokens (see `tokens`). Files are
//! checked every second and reloaded when they change. Removing a credential does not end
//! connections that are already running.

mod tokens;

use std::io;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};
use tickstorm_protocol::message::Auth;
use tickstorm_service::env::{FileError, read_secret_file};
use tokio::sync::watch;

pub use self::tokens::TokenLineError;
use self::tokens::{Digest, TOKENS_MAX, Tokens};
use crate::file_watch;

/// A credential's value, and the file it came from, if any.
#[derive(Clone, Debug)]
pub struct CredentialSource {
    /// The value at startup.
    pub value: SecretString,
    /// The file to reread it from.
    pub file: Option<PathBuf>,
}

impl CredentialSource {
    fn exists(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.exists())
    }

    /// Returns the digest of the current value, or `None` if its file is empty.
    fn digest(&self) -> Result<Option<Digest>, CredentialsError> {
        let Some(path) = &self.file else {
            return Ok(Some(Digest::of(self.value.expose_secret())));
        };
        match read_secret_file(path) {
            Ok(secret) => Ok(secret.map(|secret| Digest::of(secret.expose_secret()))),
            Err(source) => Err(CredentialsError::Secret {
                path: path.clone(),
                source,
            }),
        }
    }

    /// Like [`Self::digest`], but an empty file is an error.
    fn required_digest(&self) -> Result<Digest, CredentialsError> {
        self.digest()?.ok_or_else(|| CredentialsError::Empty {
            path: self.file.clone().unwrap_or_default(),
        })
    }
}

/// The sources of all credentials that an edge accepts.
#[derive(Clone, Debug, Default)]
pub struct CredentialSources {
    /// STREAM_USER.
    pub user: Option<CredentialSource>,
    /// STREAM_PASS.
    pub password: Option<CredentialSource>,
    /// STREAM_PASS_PREVIOUS.
    pub previous: Option<CredentialSource>,
    /// STREAM_TOKENS_FILE.
    pub tokens: Option<PathBuf>,
}

impl CredentialSources {
    fn have_files(&self) -> bool {
        let values = [&self.user, &self.password, &self.previous];
        let mut named = values.into_iter().flatten();
        self.tokens.is_some() || named.any(|source| source.file.is_some())
    }
}

/// An error while reading credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file with the user name or a password can't be read or is not valid.
    #[error("{}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// The problem.
        source: FileError,
    },
    /// The file with the user name or the password is empty.
    #[error("{}: the file is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The tokens file can't be read.
    #[error("STREAM_TOKENS_FILE={}: the file can't be read", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The error from the system.
        source: io::Error,
    },
    /// A line of the tokens file is malformed or repeats an earlier one.
    #[error(
        "STREAM_TOKENS_FILE={}: line {line}: {problem}; a line is `name \
         sha256-of-the-token-in-hex`, and empty lines and lines that start with # are ignored",
        path.display()
    )]
    TokenLine {
        /// The file.
        path: PathBuf,
        /// The number of the line; the first line is 1.
        line: usize,
        /// The problem.
        problem: TokenLineError,
    },
    /// The file has too many tokens or is too large.
    #[error(
        "STREAM_TOKENS_FILE={}: the file has more than {TOKENS_MAX} tokens or is larger than 2 MiB",
        path.display()
    )]
    TooManyTokens {
        /// The file.
        path: PathBuf,
    },
}

/// Digests of all credentials that are accepted now. There is no `Debug` implementation, so that no
/// digest can be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct AcceptedCredentials {
    user: Option<Digest>,
    passwords: Vec<Digest>,
    tokens: Tokens,
}

impl AcceptedCredentials {
    /// Reads all credentials from `sources`.
    pub(crate) fn load(sources: &CredentialSources) -> Result<Self, CredentialsError> {
        let required = |source: &Option<CredentialSource>| {
            let source = source.as_ref();
            source.map(CredentialSource::required_digest).transpose()
        };
        let user = required(&sources.user)?;
        let mut passwords = Vec::from_iter(required(&sources.password)?);
        // Emptying or removing the file of the previous password ends a rotation.
        if let Some(previous) = sources
            .previous
            .as_ref()
            .filter(|previous| previous.exists())
        {
            passwords.extend(previous.digest()?);
        }
        let tokens = sources.tokens.as_deref();
        Ok(Self {
            user,
            passwords,
            tokens: tokens.map_or_else(|| Ok(Tokens::default()), Tokens::read)?,
        })
    }

    /// Checks the credentials in `auth` and returns the client's identity if they are accepted. If
    /// `auth` has a token, its user and password are ignored.
    pub(crate) fn verify(&self, auth: &Auth) -> Option<Identity<'_>> {
        if !auth.token.is_empty() {
            return self.tokens.name_of(&auth.token).map(Identity::Token);
        }
        let given = Digest::of(&auth.username);
        let user = self
            .user
            .map_or(Choice::from(0), |known| known.ct_eq(&given));
        let given = Digest::of(&auth.password);
        let any = self
            .passwords
            .iter()
            .fold(Choice::from(0), |any, known| any | known.ct_eq(&given));
        bool::from(user & any).then_some(Identity::User)
    }
}

/// The identity that a client has proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity<'a> {
    /// STREAM_USER.
    User,
    /// The owner of the token with this name.
    Token(&'a str),
}

/// Rereads the files every second and publishes the credentials when they change. If a file is
/// unreadable or invalid, the credentials stay as they are and one warning is logged.
pub(crate) async fn watch_files(
    sources: CredentialSources,
    credentials: watch::Sender<AcceptedCredentials>,
) {
    if !sources.have_files() {
        return;
    }
    let publish = |new: AcceptedCredentials| {
        let is_changed = credentials.send_if_modified(|old| {
            *old != new && {
                *old = new;
                true
            }
        });
        if is_changed {
            tracing::info!("credentials changed: their files were reread");
        }
    };
    file_watch::watch(
        "credential files",
        move || AcceptedCredentials::load(&sources),
        publish,
        |error| {
            tracing::warn!(
                error,
                "credentials can't be reread; the old ones stay valid"
            );
        },
    )
    .await;
}
