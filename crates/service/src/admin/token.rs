//! The token of ADMIN_TOKEN_FILE, reread when the file changes. Only its digest is held.

use std::path::PathBuf;

use prometheus::Registry;
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::AdminError;
use crate::{
    env::{FileError, Settings, read_secret_file},
    file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile},
    settings::ADMIN_TOKEN_FILE,
};

/// The fewest bytes of a token, so that it can't be guessed. `openssl rand -hex 32` writes 64.
const BYTES_MIN: usize = 16;
/// The most bytes of a token, as for a password.
const BYTES_MAX: usize = 1_024;

/// The reason that ADMIN_TOKEN_FILE can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}={}", ADMIN_TOKEN_FILE.name(), path.display())]
pub struct AdminTokenError {
    path: PathBuf,
    #[source]
    problem: TokenProblem,
}

#[derive(Debug, thiserror::Error)]
enum TokenProblem {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "the file has {found} bytes of text, but must have {BYTES_MIN} to {BYTES_MAX}; `openssl \
         rand -hex 32` makes a token"
    )]
    Length { found: usize },
    #[error(
        "the token has a character that no bearer token may have; allowed are A-Z a-z 0-9 - . _ ~ \
         + / and = at the end"
    )]
    Character,
}

/// The SHA-256 digest of a token. Comparisons, including `==`, take constant time, and a digest
/// can't be printed.
#[derive(Clone, Copy, Eq)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

struct TokenFile(PathBuf);

impl FileSet for TokenFile {
    const NAME: &'static str = "the tokens of the admin port";
    const EFFECT: &'static str = "requests need the new token";
    type Loaded = TokenDigest;
    type Error = AdminTokenError;

    fn files(&self) -> Vec<WatchedFile> {
        let loss = "requests need no token";
        vec![WatchedFile::value(ADMIN_TOKEN_FILE.name(), &self.0, loss)]
    }

    fn load(&self) -> Result<TokenDigest, AdminTokenError> {
        self.digest().map_err(|problem| AdminTokenError {
            path: self.0.clone(),
            problem,
        })
    }
}

impl TokenFile {
    fn digest(&self) -> Result<TokenDigest, TokenProblem> {
        let secret = read_secret_file(&self.0)?;
        let token = secret.as_ref().map_or("", ExposeSecret::expose_secret);
        if !(BYTES_MIN..=BYTES_MAX).contains(&token.len()) {
            let found = token.len();
            return Err(TokenProblem::Length { found });
        }
        if !is_bearer_token(token) {
            return Err(TokenProblem::Character);
        }
        Ok(TokenDigest::of(token.as_bytes()))
    }
}

/// Returns whether `text` can follow `Bearer` in a header (token68 of RFC 9110).
fn is_bearer_token(text: &str) -> bool {
    let text = text.trim_end_matches('=');
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

/// The file in use, and the digest of the token in it.
pub(super) struct AdminToken {
    file: FilesInUse<TokenFile>,
    digests: watch::Sender<TokenDigest>,
    counters: ReloadCounters,
}

impl AdminToken {
    /// Reads the file that `settings` name, if they do, and registers the metrics.
    pub(super) fn load(
        settings: &Settings,
        registry: &Registry,
    ) -> Result<Option<Self>, AdminError> {
        let Some(path) = settings.get(&ADMIN_TOKEN_FILE) else {
            return Ok(None);
        };
        let (file, digest) = FilesInUse::load(TokenFile(path))?;
        let counters = ReloadCounters::register(
            registry,
            "tickstorm_admin_token_reloads_total",
            "Changes of the admin port's token, by result: loaded, or failed, after which the old \
             token stays valid.",
        )?;
        Ok(Some(Self {
            file,
            digests: watch::Sender::new(digest),
            counters,
        }))
    }

    /// Returns access to the file.
    pub(super) fn access(&self) -> FileWatch {
        self.file.access()
    }

    /// Returns the digest of the token that is valid, which changes with the file.
    pub(super) fn digests(&self) -> watch::Receiver<TokenDigest> {
        self.digests.subscribe()
    }

    /// Watches the file and publishes a token that has changed.
    pub(super) async fn run(self) {
        let Self {
            file,
            digests,
            counters,
        } = self;
        let publish = |changed| {
            if let Some(digest) = changed {
                digests.send_replace(digest);
            }
        };
        file.watch(counters, publish, |_| ()).await;
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_testkit::TempDir;

    use super::*;
    use crate::error_chain::ErrorChain;

    fn read(text: &str) -> Result<TokenDigest, AdminTokenError> {
        let dir = TempDir::new("admin-token");
        TokenFile(dir.write("token", text)).load()
    }

    #[test]
    fn a_token_is_the_text_of_the_file_without_its_newline() {
        for token in ["0123456789abcdef", "AZ-az.09_~+/AZ-az.09_~+/=="] {
            for text in [
                token.to_owned(),
                format!("{token}\n"),
                format!("{token}\r\n"),
            ] {
                let digest = read(&text).unwrap_or_else(|error| panic!("{error:?}"));
                assert!(digest == TokenDigest::of(token.as_bytes()), "{text:?}");
            }
        }
        let longest = "k".repeat(BYTES_MAX);
        assert!(read(&longest).is_ok());
    }

    #[test]
    fn the_error_names_the_file_and_what_is_wrong_but_not_the_token() {
        let long = "k".repeat(BYTES_MAX + 1);
        for (text, expected) in [
            ("", "0 bytes of text, but must have 16 to 1024"),
            ("\n", "0 bytes of text"),
            ("0123456789abcde", "15 bytes of text"),
            (&long, "1025 bytes of text"),
            ("0123456789abcdef 0123456789abcdef", "a character that"),
            (
                "0123456789abcdef\n0123456789abcdef\n",
                "a control character",
            ),
            ("\u{feff}0123456789abcdef", "a byte-order mark"),
            ("0123456789=abcdef", "a character that"),
            ("0123456789abcdef\u{e9}", "a character that"),
            ("================", "a character that"),
        ] {
            let Err(error) = read(text) else {
                panic!("{text:?} is accepted");
            };
            let error = ErrorChain(&error).to_string();
            assert!(error.starts_with("ADMIN_TOKEN_FILE=/"), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("0123456789"), "{error}");
        }
    }
}
