//! The keys of device cookies: one from COOKIE_KEY_FILE for all credentials, or one derived from
//! each credential. Deriving a key from a password is slow on purpose, so it happens on a thread of
//! its own, after the password has taken effect. Until then, the password's cookies are neither
//! issued nor verified.

use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use tickstorm_service::env::{FileError, read_secret_file};
use tokio::sync::watch;

use super::cookie::{CookieKey, KeyPurpose};
use super::tokens::Digest;
use super::{AcceptedCredentials, CredentialsError};

/// The fewest bytes of text in COOKIE_KEY_FILE: as many as the key has. `openssl rand -hex 32`
/// writes twice as many.
const FILE_BYTES_MIN: usize = 32;
/// The most bytes of text in COOKIE_KEY_FILE, as for a password.
const FILE_BYTES_MAX: usize = 1_024;

/// The reason that COOKIE_KEY_FILE can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CookieKeyFileError {
    /// It can't be read as text.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is too short or too long.
    #[error(
        "the file has {found} bytes of text, but must have {FILE_BYTES_MIN} to {FILE_BYTES_MAX}; \
         `openssl rand -hex 32` makes a key"
    )]
    Length {
        /// The number of bytes, not counting a newline at the end.
        found: usize,
    },
}

/// The keys that are in use.
#[derive(Clone)]
pub(super) enum CookieKeys {
    /// The keys of COOKIE_KEY_FILE.
    OfFile {
        user: Arc<CookieKey>,
        token: Arc<CookieKey>,
    },
    /// The keys of the accepted passwords, in the same order; `None` until a key has been derived.
    /// Those of tokens are derived when they are needed.
    OfPasswords(Vec<Option<Arc<CookieKey>>>),
}

impl Default for CookieKeys {
    fn default() -> Self {
        Self::OfPasswords(Vec::new())
    }
}

impl CookieKeys {
    /// Reads COOKIE_KEY_FILE. Also returns the digest of its text, by which a change is noticed.
    pub(super) fn read(path: &Path) -> Result<(Self, Digest), CredentialsError> {
        let wrong = |source| CredentialsError::CookieKey {
            path: path.to_owned(),
            source,
        };
        let secret = read_secret_file(path).map_err(|error| wrong(error.into()))?;
        let text = secret.as_ref().map_or("", ExposeSecret::expose_secret);
        if !(FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&text.len()) {
            let found = text.len();
            return Err(wrong(CookieKeyFileError::Length { found }));
        }
        let key = |purpose| Arc::new(CookieKey::of_file(text, purpose));
        let keys = Self::OfFile {
            user: key(KeyPurpose::User),
            token: key(KeyPurpose::Token),
        };
        Ok((keys, Digest::of(text)))
    }

    /// Returns whether a password's key has not been derived yet.
    pub(super) fn are_incomplete(&self) -> bool {
        match self {
            Self::OfFile { .. } => false,
            Self::OfPasswords(keys) => keys.iter().any(Option::is_none),
        }
    }

    /// Returns the keys that may have issued a user's cookie.
    pub(super) fn of_user(&self) -> impl Iterator<Item = &CookieKey> {
        let (of_file, of_passwords) = match self {
            Self::OfFile { user, .. } => (Some(user), &[][..]),
            Self::OfPasswords(keys) => (None, &keys[..]),
        };
        let keys = of_file.into_iter().chain(of_passwords.iter().flatten());
        keys.map(|key| &**key)
    }

    /// Returns the key that issues cookies to users with the password of this index.
    pub(super) fn of_password(&self, index: usize) -> Option<&CookieKey> {
        match self {
            Self::OfFile { user, .. } => Some(user),
            Self::OfPasswords(keys) => keys.get(index)?.as_deref(),
        }
    }

    /// Returns the key of a token's cookies.
    pub(super) fn of_token(&self, digest: &Digest) -> Arc<CookieKey> {
        match self {
            Self::OfFile { token, .. } => Arc::clone(token),
            Self::OfPasswords(_) => Arc::new(CookieKey::of_token(digest.as_bytes())),
        }
    }
}

/// The user name and the passwords from which keys are derived.
#[derive(Clone, Default)]
pub(crate) struct KeyMaterial {
    pub(super) user: SecretString,
    pub(super) passwords: Vec<SecretString>,
}

impl KeyMaterial {
    /// Starts deriving the keys that `credentials` lack. Each takes effect as soon as it has been
    /// derived, unless its password is no longer accepted.
    pub(crate) fn start_deriving(self, credentials: watch::Sender<AcceptedCredentials>) {
        tokio::task::spawn_blocking(move || {
            let user = self.user.expose_secret();
            for password in &self.passwords {
                let password = password.expose_secret();
                let digests = [user, password].map(Digest::of);
                if !credentials.borrow().lacks_key(&digests) {
                    continue;
                }
                let key = Arc::new(CookieKey::of_password(user, password));
                credentials.send_if_modified(|accepted| accepted.add_key(&digests, &key));
                tracing::debug!("the key of a password's device cookies was derived");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_testkit::TempDir;

    use super::*;

    fn length_error(text: &str) -> Option<usize> {
        let dir = TempDir::new("cookie-key");
        match CookieKeys::read(&dir.write("key", text)) {
            Ok(_) => None,
            Err(CredentialsError::CookieKey {
                source: CookieKeyFileError::Length { found },
                ..
            }) => Some(found),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn a_key_file_has_32_to_1024_bytes_without_its_newline() {
        for (bytes, error) in [
            (0, Some(0)),
            (31, Some(31)),
            (32, None),
            (1_024, None),
            (1_025, Some(1_025)),
        ] {
            let text = "k".repeat(bytes);
            assert_eq!(length_error(&text), error, "{bytes} bytes");
            assert_eq!(length_error(&format!("{text}\n")), error, "{bytes} bytes");
        }
    }
}
