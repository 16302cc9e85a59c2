//! Who may subscribe: user and password (and the previous one, while it is rotated) or tokens. Everything is compared as
//! SHA-256 digests, in constant time and without an early end, so that the time taken tells nothing. Files are looked at each
//! second and taken over when they change; what is removed ends no running connection.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tickstorm_protocol::message::Auth;
use tickstorm_service::env::{Secret, read_secret_file};
use tokio::sync::watch;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Tokens a file may hold: each AUTH with a token is compared with all.
const TOKENS_MAX: usize = 10_000;
/// Bytes of such a file: enough for as many lines of the greatest length, and some comments.
const TOKENS_FILE_MAX: u64 = 2 * 1024 * 1024;

type Hash = [u8; 32];

/// A secret's value and the file it came from, if any.
#[derive(Clone, Debug)]
pub struct Source {
    /// The value at start.
    pub value: Secret,
    /// The file to read it from again.
    pub file: Option<PathBuf>,
}

impl Source {
    fn exists(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.exists())
    }
}

/// Where credentials come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// STREAM_USER.
    pub user: Option<Source>,
    /// STREAM_PASS.
    pub password: Option<Source>,
    /// STREAM_PASS_PREVIOUS.
    pub previous: Option<Source>,
    /// STREAM_TOKENS_FILE.
    pub tokens: Option<PathBuf>,
}

/// Why credentials can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        error: String,
    },
    /// A line of the tokens file is not what it should be.
    #[error(
        "STREAM_TOKENS_FILE={path}: line {line}: {problem}; a line is `name sha256-of-the-token-in-hex`, empty lines and \
         lines that begin with # are passed over"
    )]
    Token {
        /// The file.
        path: String,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Too many tokens.
    #[error("STREAM_TOKENS_FILE={path}: more than {TOKENS_MAX} tokens, or 2 MiB")]
    TooMany {
        /// The file.
        path: String,
    },
}

/// Digests of all that is accepted now. Its `Debug` shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    user: Option<Hash>,
    passwords: Vec<Hash>,
    tokens: Vec<(String, Hash)>,
}

impl Credentials {
    /// Reads everything that `sources` name.
    pub(crate) fn load(sources: &Sources) -> Result<Self, Error> {
        let required = |source: &Source| current(source)?.ok_or_else(|| is_empty(source));
        let user = sources.user.as_ref().map(required).transpose()?;
        let mut passwords = Vec::from_iter(sources.password.as_ref().map(required).transpose()?);
        // A rotation ends with the previous password's file emptied or taken away.
        if let Some(previous) = sources
            .previous
            .as_ref()
            .filter(|previous| previous.exists())
        {
            passwords.extend(current(previous)?);
        }
        let tokens = sources
            .tokens
            .as_deref()
            .map_or(Ok(Vec::new()), read_tokens)?;
        Ok(Self {
            user,
            passwords,
            tokens,
        })
    }

    /// Whether `auth` is right. With a token, user and password are not looked at. Gives the token's name, if it was one.
    pub(crate) fn verify(&self, auth: &Auth) -> Option<Identity<'_>> {
        if !auth.token.is_empty() {
            return self.verify_token(&auth.token);
        }
        let user = self
            .user
            .map_or(Choice::from(0), |user| user.ct_eq(&digest(&auth.username)));
        let given = digest(&auth.password);
        let any = self
            .passwords
            .iter()
            .fold(Choice::from(0), |any, known| any | known.ct_eq(&given));
        bool::from(user & any).then_some(Identity::User)
    }

    fn verify_token(&self, token: &str) -> Option<Identity<'_>> {
        let given = digest(token);
        let mut found = None;
        for (name, known) in &self.tokens {
            if bool::from(known.ct_eq(&given)) {
                found = Some(Identity::Token(name));
            }
        }
        found
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

/// Looks at the files each second and publishes what they say when it changes. A file that can't be read or is wrong changes
/// nothing and is warned of once.
pub(crate) async fn watch_files(sources: Sources, credentials: watch::Sender<Credentials>) {
    let named = [&sources.user, &sources.password, &sources.previous];
    if sources.tokens.is_none() && named.iter().all(|source| source_file(source).is_none()) {
        return;
    }
    let sources = Arc::new(sources);
    let mut interval = tokio::time::interval(LOOK);
    let mut complaint = String::new();
    loop {
        interval.tick().await;
        let looked_at = Arc::clone(&sources);
        // A file system that hangs holds up nobody but this.
        let loaded = tokio::task::spawn_blocking(move || Credentials::load(&looked_at)).await;
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
                let text = error.to_string();
                if text != complaint {
                    tracing::warn!(error = text, "credentials stay as they were");
                    complaint = text;
                }
            }
        }
    }
}

fn source_file(source: &Option<Source>) -> Option<&Path> {
    source.as_ref()?.file.as_deref()
}

/// Digest of what the source says now; none where that is nothing.
fn current(source: &Source) -> Result<Option<Hash>, Error> {
    let Some(path) = &source.file else {
        return Ok(Some(digest(source.value.expose())));
    };
    match read_secret_file(path) {
        Ok(secret) => Ok(secret.map(|secret| digest(secret.expose()))),
        Err(error) => Err(Error::Read {
            path: path.display().to_string(),
            error: error.to_string(),
        }),
    }
}

fn is_empty(source: &Source) -> Error {
    let path = source
        .file
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    Error::Read {
        path,
        error: "the file is empty".to_owned(),
    }
}

fn read_tokens(path: &Path) -> Result<Vec<(String, Hash)>, Error> {
    let name = || path.display().to_string();
    let unreadable = |error: std::io::Error| Error::Read {
        path: format!("STREAM_TOKENS_FILE={}", name()),
        error: error.to_string(),
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(TOKENS_FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > TOKENS_FILE_MAX {
        return Err(Error::TooMany { path: name() });
    }
    let mut tokens = Vec::new();
    let mut names = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let line_text = line.trim();
        if line_text.is_empty() || line_text.starts_with('#') {
            continue;
        }
        let wrong = |problem| Error::Token {
            path: name(),
            line: index + 1,
            problem,
        };
        let (owner, hash) = parse_token(line_text).map_err(wrong)?;
        if !names.insert(owner.to_owned()) {
            return Err(wrong("the name stands there twice"));
        }
        tokens.push((owner.to_owned(), hash));
        if tokens.len() > TOKENS_MAX {
            return Err(Error::TooMany { path: name() });
        }
    }
    Ok(tokens)
}

fn parse_token(line: &str) -> Result<(&str, Hash), &'static str> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(hex), None) = (words.next(), words.next(), words.next()) else {
        return Err("not two words");
    };
    if name.len() > 64 {
        return Err("the name has more than 64 bytes");
    }
    let mut hash = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("the digest does not have 64 hex digits");
    }
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| "the digest is not hex")?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| "the digest is not hex")?;
    }
    Ok((name, hash))
}

fn digest(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}
