//! Clients' tokens: reads the file that lists them, and looks tokens up. The file holds only
//! digests, and a token that a client presents is compared by its digest, so accepted tokens are
//! never stored in plain text.
//!
//! A lookup costs the same for any number of tokens. The position of a digest in the map depends on
//! a random key that each map draws, so an attacker can't construct a token that falls next to
//! another one. Digests that do collide are compared in constant time. Response times therefore
//! reveal nothing about a digest.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::Path;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER_PERMISSIVE;
use subtle::{Choice, ConstantTimeEq};
use tickstorm_service::env::{FileError, read_text_file};

use super::CredentialsError;

/// The most tokens that a file may hold: far more than anyone could keep track of, and about 1 MB
/// of memory.
pub(super) const TOKENS_MAX: usize = 10_000;
/// The largest tokens file, in bytes: enough for [`TOKENS_MAX`] lines of the greatest length, and
/// some comments.
const FILE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest name of a token, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The SHA-256 digest of a secret. Comparisons, including `==`, take constant time, and a digest
/// can't be printed.
#[derive(Clone, Copy, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(text: &str) -> Self {
        // AWS-LC wipes its state, which contains a short secret completely.
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ConstantTimeEq for Digest {
    fn ct_eq(&self, other: &Self) -> Choice {
        #[cfg(test)]
        tests::COMPARISONS.set(tests::COMPARISONS.get() + 1);
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// An error in a line of the tokens file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenLineError {
    /// The line does not consist of two words.
    #[error("the line does not have exactly two words")]
    NotTwoWords,
    /// The name is too long.
    #[error("the name is longer than {NAME_BYTES_MAX} bytes")]
    LongName,
    /// The second word is not a digest.
    #[error("the digest is not 64 hex digits")]
    NoDigest,
    /// An earlier line has the same name.
    #[error("an earlier line has the same name")]
    NameTwice,
    /// An earlier line has the same digest.
    #[error(
        "this is also the token of {other}; each name needs its own token, or removing one line \
         would revoke nothing"
    )]
    TokenTwice {
        /// The name in the earlier line.
        other: Box<str>,
    },
}

/// The tokens that are accepted now.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    name_by_digest: HashMap<Digest, Box<str>>,
}

impl Tokens {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let too_many = || CredentialsError::TooManyTokens {
            path: path.to_owned(),
        };
        let text = read_text_file(path, FILE_BYTES_MAX).map_err(|source| {
            if matches!(source, FileError::TooLong { .. }) {
                return too_many();
            }
            let path = path.to_owned();
            CredentialsError::Tokens { path, source }
        })?;
        let mut tokens = Self::default();
        let mut digest_by_name = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem| CredentialsError::TokenLine {
                path: path.to_owned(),
                line: index + 1,
                problem,
            };
            let (name, digest) = parse_line(line).map_err(wrong)?;
            if digest_by_name.insert(name, digest).is_some() {
                return Err(wrong(TokenLineError::NameTwice));
            }
            if let Some(other) = tokens.name_by_digest.insert(digest, name.into()) {
                return Err(wrong(TokenLineError::TokenTwice { other }));
            }
            if tokens.name_by_digest.len() > TOKENS_MAX {
                return Err(too_many());
            }
        }
        Ok(tokens)
    }

    /// Returns the digest and the name of `token`, if the token is accepted.
    pub(super) fn find(&self, token: &str) -> Option<(&Digest, &str)> {
        let (digest, name) = self.name_by_digest.get_key_value(&Digest::of(token))?;
        Some((digest, name))
    }
}

fn parse_line(line: &str) -> Result<(&str, Digest), TokenLineError> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(hex), None) = (words.next(), words.next(), words.next()) else {
        return Err(TokenLineError::NotTwoWords);
    };
    if name.len() > NAME_BYTES_MAX {
        return Err(TokenLineError::LongName);
    }
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    let digest = bytes.and_then(|bytes| bytes.try_into().ok());
    digest
        .map(|digest| (name, Digest(digest)))
        .ok_or(TokenLineError::NoDigest)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fmt::Write;

    use tickstorm_testkit::TempDir;

    use super::*;

    thread_local! {
        /// The number of digests that this thread has compared.
        pub(super) static COMPARISONS: Cell<usize> = const { Cell::new(0) };
    }

    fn hex(token: &str) -> String {
        HEXLOWER_PERMISSIVE.encode(&Digest::of(token).0)
    }

    fn read(text: &str) -> Result<Tokens, CredentialsError> {
        let dir = TempDir::new("tokens");
        Tokens::read(&dir.write("tokens", text))
    }

    fn tokens(number: usize) -> Tokens {
        let mut text = String::new();
        for index in 0..number {
            writeln!(text, "name-{index} {}", hex(&format!("token-{index}"))).unwrap();
        }
        read(&text).unwrap()
    }

    #[test]
    fn the_number_of_comparisons_does_not_grow_with_the_number_of_tokens() {
        for number in [10, TOKENS_MAX] {
            let tokens = tokens(number);
            for index in 0..2 * number {
                let (before, token) = (COMPARISONS.get(), format!("token-{index}"));
                let name = tokens.find(&token).map(|(_, name)| name);
                let expected = (index < number).then(|| format!("name-{index}"));
                assert_eq!(name.map(str::to_owned), expected);
                // One, plus the few digests whose keyed hash happens to collide, each with a
                // probability of 1 in 128.
                let compared = COMPARISONS.get() - before;
                assert!(compared <= 16, "{compared} of {number} for {token}");
            }
        }
    }

    #[test]
    fn a_digest_may_be_in_upper_or_lower_case() {
        let upper = hex("a token").to_uppercase();
        let tokens = read(&format!("shouting {upper}\n")).unwrap();
        let found = tokens.find("a token").map(|(_, name)| name);
        assert_eq!(found, Some("shouting"));
    }

    #[test]
    fn the_error_about_a_malformed_line_names_the_problem() {
        let good = hex("a token");
        let upper = good.to_uppercase();
        for (text, expected) in [
            ("alone".to_owned(), TokenLineError::NotTwoWords),
            (format!("a {good} more"), TokenLineError::NotTwoWords),
            (
                format!("{} {good}", "n".repeat(65)),
                TokenLineError::LongName,
            ),
            (format!("a {}", &good[1..]), TokenLineError::NoDigest),
            (format!("a {good}ff"), TokenLineError::NoDigest),
            (format!("a {}g", &good[1..]), TokenLineError::NoDigest),
            (format!("a {good}\na {good}"), TokenLineError::NameTwice),
            (
                format!("first {good}\nsecond {upper}"),
                TokenLineError::TokenTwice {
                    other: "first".into(),
                },
            ),
        ] {
            match read(&text) {
                Err(CredentialsError::TokenLine { problem, line, .. }) => {
                    assert_eq!((problem, line), (expected, text.lines().count()), "{text}");
                }
                Err(error) => panic!("{error:?} of {text}"),
                Ok(_) => panic!("{text} is accepted"),
            }
        }
    }

    #[test]
    fn a_file_with_too_many_tokens_or_bytes_is_refused() {
        let mut text = String::new();
        for index in 0..=TOKENS_MAX {
            writeln!(text, "name-{index} {}", hex(&index.to_string())).unwrap();
        }
        let comment = "#".repeat(FILE_BYTES_MAX + 1);
        for text in [text, comment] {
            let refused = read(&text).err();
            assert!(
                matches!(refused, Some(CredentialsError::TooManyTokens { .. })),
                "{refused:?}"
            );
        }
    }
}
