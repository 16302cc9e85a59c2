//! Who may subscribe: user and password (and the previous one, while it is rotated) or tokens.
//! Everything is compared as SHA-256 digests and in constant time, so that the time taken tells
//! nothing; what a token costs does not depend on how many there are (`tokens`). Files are looked
//! at each second and taken over when they change; what is removed ends no running connection.

mod tokens;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};
use tickstorm_protocol::message::Auth;
use tickstorm_service::env::{FileError, read_secret_file};
use tickstorm_service::error_chain::ErrorChain;
use tokio::sync::watch;

pub use self::tokens::TokenLineError;
use self::tokens::{Digest, TOKENS_MAX, Tokens};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A secret's value and the file it came from, if any.
#[derive(Clone, Debug)]
pub struct CredentialSource {
    /// The value at start.
    pub value: SecretString,
    /// The file to read it from again.
    pub file: Option<PathBuf>,
}

impl CredentialSource {
    fn exists(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.exists())
    }

    /// The digest of what it says now; none if that is nothing.
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

    /// The same, where nothing is an error.
    fn required_digest(&self) -> Result<Digest, CredentialsError> {
        self.digest()?.ok_or_else(|| CredentialsError::Empty {
            path: self.file.clone().unwrap_or_default(),
        })
    }
}

/// Where credentials come from.
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

/// Why credentials can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file with a user's name or a password does not give it.
    #[error("{}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// Such a file is empty.
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
        /// What the system said.
        source: io::Error,
    },
    /// A line of the tokens file is not what it should be.
    #[error(
        "STREAM_TOKENS_FILE={}: line {line}: {problem}; a line is `name sha256-of-the-token-in-hex`, empty lines and \
         lines that begin with # are passed over",
        path.display()
    )]
    TokenLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        problem: TokenLineError,
    },
    /// There are too many tokens.
    #[error("STREAM_TOKENS_FILE={}: more than {TOKENS_MAX} tokens, or 2 MiB", path.display())]
    TooManyTokens {
        /// The file.
        path: PathBuf,
    },
}

/// Digests of all that is accepted now. There is no `Debug`, so that none of them can be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct AcceptedCredentials {
    user: Option<Digest>,
    passwords: Vec<Digest>,
    tokens: Tokens,
}

impl AcceptedCredentials {
    /// Reads everything that `sources` name.
    pub(crate) fn load(sources: &CredentialSources) -> Result<Self, CredentialsError> {
        let required = |source: &Option<CredentialSource>| {
            let source = source.as_ref();
            source.map(CredentialSource::required_digest).transpose()
        };
        let user = required(&sources.user)?;
        let mut passwords = Vec::from_iter(required(&sources.password)?);
        // A rotation ends with the previous password's file emptied or taken away.
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

    /// Whether `auth` is right. With a token, user and password are not looked at. Gives the
    /// token's name, if it was one.
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

/// Who a client has shown itself to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity<'a> {
    /// STREAM_USER.
    User,
    /// The owner of the token with this name.
    Token(&'a str),
}

/// Looks at the files each second and publishes what they say when it changes. A file that can't be
/// read or is wrong changes nothing and is warned of once.
pub(crate) async fn watch_files(
    sources: CredentialSources,
    credentials: watch::Sender<AcceptedCredentials>,
) {
    if !sources.have_files() {
        return;
    }
    let sources = Arc::new(sources);
    let mut interval = tokio::time::interval(LOOK);
    let mut complaint = String::new();
    loop {
        interval.tick().await;
        let looked_at = Arc::clone(&sources);
        // A file system that hangs holds up nobody but this.
        let loaded =
            tokio::task::spawn_blocking(move || AcceptedCredentials::load(&looked_at)).await;
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "credentials are no longer looked at");
                return;
            }
            // The runtime ends.
            Err(_) => return,
        };
        match loaded {
            Ok(new) => {
                complaint.clear();
                if credentials.send_if_modified(|old| {
                    *old != new && {
                        *old = new;
                        true
                    }
                }) {
                    tracing::info!("credentials changed: their files were read again");
                }
            }
            Err(error) => {
                let text = ErrorChain(&error).to_string();
                if text != complaint {
                    tracing::warn!(error = text, "credentials stay as they were");
                    complaint = text;
                }
            }
        }
    }
}
