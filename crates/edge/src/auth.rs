//! Credentials: user and password (and the previous password during a rotation), or tokens. Secrets
//! are compared as SHA-256 digests and in constant time, so that response times reveal nothing. The
//! cost of checking a token does not depend on the number of tokens (see `tokens`). Files are
//! checked every second and reloaded when they change, by the same rules as at the start. Removing
//! a credential does not end connections that are already running.
//!
//! A client that has authenticated gets a device cookie, which shows later that it is known (see
//! `cookie`).

mod cookie;
mod cookie_keys;
mod label;
pub(crate) mod logins;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};
use tickstorm_protocol::message::Auth;
use tickstorm_service::env::{FileError, read_credential_file};
use tickstorm_service::file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile};
use tokio::sync::watch;

use self::cookie::CookieKey;
pub(crate) use self::cookie::{Cookie, DeviceId};
pub use self::cookie_keys::CookieKeyFileError;
use self::cookie_keys::CookieKeys;
pub(crate) use self::cookie_keys::KeyMaterial;
pub(crate) use self::label::label;
pub(crate) use self::logins::{ALARM as LOGIN_ALARM, Logins};
pub use self::tokens::TokenLineError;
use self::tokens::{Digest, TOKENS_MAX, Tokens};

/// A credential's value, or the file that contains it.
#[derive(Clone, Debug)]
pub struct CredentialSource {
    /// The value, unless it is in a file.
    pub value: SecretString,
    /// The file to read it from. It is read again when it changes.
    pub file: Option<PathBuf>,
}

impl CredentialSource {
    /// Returns the current value, or `None` if its file is empty. `setting` names the file.
    fn read(&self, setting: &'static str) -> Result<Option<SecretString>, CredentialsError> {
        let Some(path) = &self.file else {
            return Ok(Some(self.value.clone()));
        };
        read_credential_file(path).map_err(|source| CredentialsError::Secret {
            setting,
            path: path.clone(),
            source,
        })
    }

    /// Like [`Self::read`], but an empty file is an error.
    fn read_required(&self, setting: &'static str) -> Result<SecretString, CredentialsError> {
        self.read(setting)?.ok_or_else(|| CredentialsError::Empty {
            setting,
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
    /// COOKIE_KEY_FILE.
    pub cookie_key: Option<PathBuf>,
}

const USER_FILE: &str = "STREAM_USER_FILE";
const PASSWORD_FILE: &str = "STREAM_PASS_FILE";
const PREVIOUS_FILE: &str = "STREAM_PASS_PREVIOUS_FILE";

/// An error while reading credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file with the user name or a password can't be read or is not valid.
    #[error("{setting}={}", path.display())]
    Secret {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The problem.
        source: FileError,
    },
    /// The file with the user name or the password is empty.
    #[error("{setting}={}: the file is empty", path.display())]
    Empty {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The tokens file can't be read as text.
    #[error("STREAM_TOKENS_FILE={}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The problem.
        source: FileError,
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
    /// The file with the key of device cookies can't be used.
    #[error("COOKIE_KEY_FILE={}", path.display())]
    CookieKey {
        /// The file.
        path: PathBuf,
        /// The problem.
        source: CookieKeyFileError,
    },
}

/// The credentials that are accepted now, and the keys of their device cookies. There is no `Debug`
/// implementation, so that nothing of them can be printed.
#[derive(Clone, Default)]
pub(crate) struct AcceptedCredentials {
    digests: CredentialDigests,
    cookie_keys: CookieKeys,
}

/// The digests of all credentials. A difference shows that they have changed.
#[derive(Clone, Default, PartialEq, Eq)]
struct CredentialDigests {
    user: Option<Digest>,
    passwords: Vec<Digest>,
    tokens: Tokens,
    /// The digest of the text in COOKIE_KEY_FILE.
    cookie_key: Option<Digest>,
}

impl AcceptedCredentials {
    /// Reads all credentials from `sources`. Also returns what the keys of their cookies must be
    /// derived from.
    pub(crate) fn load(
        sources: &CredentialSources,
    ) -> Result<(Self, KeyMaterial), CredentialsError> {
        let required = |source: &Option<CredentialSource>, setting| {
            let source = source.as_ref();
            source
                .map(|source| source.read_required(setting))
                .transpose()
        };
        let user = required(&sources.user, USER_FILE)?;
        let mut passwords = Vec::from_iter(required(&sources.password, PASSWORD_FILE)?);
        // Emptying the file of the previous password ends a rotation.
        if let Some(previous) = &sources.previous {
            let is_other = |previous: &SecretString| {
                let previous = previous.expose_secret();
                passwords.iter().all(|one| one.expose_secret() != previous)
            };
            let previous = previous.read(PREVIOUS_FILE)?.filter(is_other);
            passwords.extend(previous);
        }
        let digest = |secret: &SecretString| Digest::of(secret.expose_secret());
        let tokens = sources.tokens.as_deref();
        let mut digests = CredentialDigests {
            user: user.as_ref().map(digest),
            passwords: passwords.iter().map(digest).collect(),
            tokens: tokens.map_or_else(|| Ok(Tokens::default()), Tokens::read)?,
            cookie_key: None,
        };
        let cookie_keys = match &sources.cookie_key {
            Some(path) => {
                let (keys, digest) = CookieKeys::read(path)?;
                digests.cookie_key = Some(digest);
                keys
            }
            None => CookieKeys::OfPasswords(vec![None; passwords.len()]),
        };
        let accepted = Self {
            digests,
            cookie_keys,
        };
        let user = user.unwrap_or_default();
        Ok((accepted, KeyMaterial { user, passwords }))
    }

    /// Checks the credentials in `auth` and returns the client's identity if they are accepted. If
    /// `auth` has a token, its user and password are ignored.
    pub(crate) fn verify(&self, auth: &Auth) -> Option<Identity<'_>> {
        if !auth.token.is_empty() {
            return self.owner_of(&auth.token);
        }
        let is_user = self.is_user(&auth.username);
        let given = Digest::of(&auth.password);
        let mut accepted = None;
        // All passwords are compared, whichever is right.
        for (password, known) in self.digests.passwords.iter().enumerate() {
            if bool::from(is_user & known.ct_eq(&given)) {
                accepted.get_or_insert(Identity::User { password });
            }
        }
        accepted
    }

    /// Returns the device of the cookie, if it was issued for the user that `auth` names, or for
    /// the owner of its token. Whether the password is right does not matter.
    pub(crate) fn device_of(&self, auth: &Auth, cookie: &Cookie) -> Option<DeviceId> {
        if !auth.token.is_empty() {
            let Some(Identity::Token { name, digest }) = self.owner_of(&auth.token) else {
                return None;
            };
            return self.cookie_keys.of_token(digest).verify(cookie, name);
        }
        if !bool::from(self.is_user(&auth.username)) {
            return None;
        }
        let mut keys = self.cookie_keys.of_user();
        keys.find_map(|key| key.verify(cookie, &auth.username))
    }

    /// Issues a cookie for a client that `auth` has identified; `None` until its key has been
    /// derived.
    pub(crate) fn issue_cookie(
        &self,
        identity: Identity<'_>,
        auth: &Auth,
        device: DeviceId,
    ) -> Option<Cookie> {
        match identity {
            Identity::User { password } => {
                let key = self.cookie_keys.of_password(password)?;
                Some(key.issue(device, &auth.username))
            }
            Identity::Token { name, digest } => {
                Some(self.cookie_keys.of_token(digest).issue(device, name))
            }
        }
    }

    /// Returns whether the keys of some cookies have not been derived yet, so that a valid cookie
    /// may look invalid.
    pub(crate) fn lack_cookie_keys(&self) -> bool {
        self.cookie_keys.are_incomplete()
    }

    fn is_user(&self, name: &str) -> Choice {
        let given = Digest::of(name);
        self.digests
            .user
            .map_or(Choice::from(0), |known| known.ct_eq(&given))
    }

    fn owner_of(&self, token: &str) -> Option<Identity<'_>> {
        let (digest, name) = self.digests.tokens.find(token)?;
        Some(Identity::Token { name, digest })
    }

    /// Returns whether a password, given by the digests of the user name and of itself, is accepted
    /// but its cookies have no key.
    fn lacks_key(&self, digests: &[Digest; 2]) -> bool {
        let CookieKeys::OfPasswords(keys) = &self.cookie_keys else {
            return false;
        };
        let index = self.index_of(digests);
        index.is_some_and(|index| matches!(keys.get(index), Some(None)))
    }

    /// Adds the key of a password's cookies, if the password is still accepted. Returns whether it
    /// is.
    fn add_key(&mut self, digests: &[Digest; 2], key: &Arc<CookieKey>) -> bool {
        let index = self.index_of(digests);
        let CookieKeys::OfPasswords(keys) = &mut self.cookie_keys else {
            return false;
        };
        let place = index.and_then(|index| keys.get_mut(index));
        place.map(|place| *place = Some(Arc::clone(key))).is_some()
    }

    /// Takes over the keys that have been derived for `old`.
    fn keep_keys_of(&mut self, old: &Self) {
        let (Some(user), CookieKeys::OfPasswords(keys)) = (old.digests.user, &old.cookie_keys)
        else {
            return;
        };
        for (password, key) in old.digests.passwords.iter().zip(keys) {
            if let Some(key) = key {
                self.add_key(&[user, *password], key);
            }
        }
    }

    fn index_of(&self, [user, password]: &[Digest; 2]) -> Option<usize> {
        let digests = &self.digests;
        let mut passwords = digests.passwords.iter();
        passwords
            .position(|known| known == password)
            .filter(|_| digests.user == Some(*user))
    }
}

/// The identity that a client has proved.
#[derive(Clone, Copy)]
pub(crate) enum Identity<'a> {
    /// STREAM_USER.
    User {
        /// Which of the accepted passwords was given.
        password: usize,
    },
    /// The owner of a token.
    Token { name: &'a str, digest: &'a Digest },
}

/// The credentials, with the files that are reread.
pub(crate) struct CredentialWatcher {
    files: FilesInUse<WatchedSources>,
    credentials: watch::Sender<AcceptedCredentials>,
}

impl CredentialWatcher {
    /// Reads the credentials, and starts to derive the keys of their cookies.
    ///
    /// # Errors
    /// Returns an error if a file can't be read or is not valid.
    pub(crate) fn load(sources: CredentialSources) -> Result<Self, CredentialsError> {
        let (files, (accepted, material)) = FilesInUse::load(WatchedSources(sources))?;
        let credentials = watch::Sender::new(accepted);
        material.start_deriving(credentials.clone());
        Ok(Self { files, credentials })
    }

    /// Returns the credentials that are accepted, which change with the files.
    pub(crate) fn credentials(&self) -> watch::Receiver<AcceptedCredentials> {
        self.credentials.subscribe()
    }

    /// Returns access to the files.
    pub(crate) fn access(&self) -> FileWatch {
        self.files.access()
    }

    /// Watches the files and publishes credentials that have changed.
    pub(crate) async fn run(self, counters: ReloadCounters) {
        let Self { files, credentials } = self;
        let publish = |changed| {
            let Some((mut new, material)): Option<(AcceptedCredentials, KeyMaterial)> = changed
            else {
                return;
            };
            let is_changed = credentials.send_if_modified(|old| {
                // A file may also have changed in a comment.
                old.digests != new.digests && {
                    new.keep_keys_of(old);
                    std::mem::swap(old, &mut new);
                    true
                }
            });
            if is_changed {
                material.start_deriving(credentials.clone());
            }
        };
        files.watch(counters, publish, |_| ()).await;
    }
}

/// The sources, of which the files are reread.
struct WatchedSources(CredentialSources);

impl FileSet for WatchedSources {
    const NAME: &'static str = "credentials";
    const EFFECT: &'static str = "new logins are checked against them";
    type Loaded = (AcceptedCredentials, KeyMaterial);
    type Error = CredentialsError;

    fn files(&self) -> Vec<WatchedFile> {
        let Self(sources) = self;
        let lost_login = "clients can no longer log in with it";
        let lost_previous = "the previous password is no longer accepted";
        let lost_tokens =
            "clients with these tokens can no longer log in; those that are connected stay";
        let lost_key = "device cookies are no longer recognised";
        let of_source = |setting, source: &Option<CredentialSource>, loss| {
            let path = source.as_ref()?.file.as_deref()?;
            Some(WatchedFile::value(setting, path, loss))
        };
        let tokens = sources.tokens.as_deref();
        let cookie_key = sources.cookie_key.as_deref();
        let files = [
            of_source(USER_FILE, &sources.user, lost_login),
            of_source(PASSWORD_FILE, &sources.password, lost_login),
            of_source(PREVIOUS_FILE, &sources.previous, lost_previous),
            tokens
                .map(|path| WatchedFile::lines("STREAM_TOKENS_FILE", path, "tokens", lost_tokens)),
            cookie_key.map(|path| WatchedFile::value("COOKIE_KEY_FILE", path, lost_key)),
        ];
        files.into_iter().flatten().collect()
    }

    fn load(&self) -> Result<(AcceptedCredentials, KeyMaterial), CredentialsError> {
        AcceptedCredentials::load(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tickstorm_service::env::Settings;
    use tickstorm_testkit::TempDir;

    use super::*;
    use crate::config::Config;
    use crate::settings::{DEFAULTS, SECTIONS};

    /// A piece of a file with a secret.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[a-z\u{e4}\u{1f642} ]{0,20}".prop_map(String::into_bytes),
            1 => Just("\u{feff}".as_bytes().to_vec()),
            1 => prop_oneof![Just(b"\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"\0".to_vec())],
            1 => any::<[u8; 2]>().prop_map(Vec::from),
            1 => prop_oneof![Just(1_000_usize), Just(1_024), Just(1_500), Just(70_000)]
                .prop_map(|length| vec![b'x'; length]),
        ]
    }

    proptest! {
        #[test]
        fn a_reload_accepts_the_same_secrets_as_a_start(
            pieces in proptest::collection::vec(piece(), 0..4)
        ) {
            let dir = TempDir::new("secrets");
            let path = dir.write("secret", "good");
            let at_path = |setting: &str| {
                let login = ["USER", "PASS"].map(|name| {
                    let is_in_file = setting == format!("STREAM_{name}_FILE");
                    let value = if is_in_file { "" } else { "ada" };
                    (format!("STREAM_{name}"), value.to_owned())
                });
                let file = (setting.to_owned(), path.to_str().unwrap().to_owned());
                let vars = login.into_iter().chain([file]);
                Settings::from_vars(vars, &SECTIONS, &DEFAULTS)
            };
            for setting in [USER_FILE, PASSWORD_FILE, PREVIOUS_FILE, "COOKIE_KEY_FILE"] {
                dir.write("secret", "a good secret of many more characters than 32");
                let sources = Config::from_settings(&at_path(setting).unwrap()).credentials;
                dir.write("secret", pieces.concat());
                let starts = at_path(setting).is_ok_and(|settings| {
                    AcceptedCredentials::load(&Config::from_settings(&settings).credentials).is_ok()
                });
                let reloads = AcceptedCredentials::load(&sources);
                let reloads = reloads.map(drop).map_err(|error| error.to_string());
                prop_assert_eq!(starts, reloads.is_ok(), "{}: {:?}", setting, reloads);
                if let Err(error) = reloads {
                    let is_named = error.starts_with(&format!("{setting}={}", path.display()));
                    prop_assert!(is_named, "{}", error);
                }
            }
        }
    }
}
