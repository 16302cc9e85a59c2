//! Clients' tokens: the file they are listed in, and looking one up. The file holds digests, and a token that a client shows is
//! compared as a digest too, so nothing here ever sees a token that is kept.
//!
//! A lookup costs the same however many tokens there are. A digest's place in the map comes from a hash with a key that each map
//! draws at random, so that nobody can choose a token that lands beside another one; what lands there is compared in constant
//! time. What a stranger can measure therefore says nothing about a digest.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::Path;

use data_encoding::HEXLOWER_PERMISSIVE;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::CredentialsError;

/// The most tokens that a file may hold: far more than clients that somebody could tell apart, and some 1 MB of memory.
pub(super) const TOKENS_MAX: usize = 10_000;
/// The most bytes of such a file: enough for as many lines of the greatest length, and some comments.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// The most bytes of a token's name.
const NAME_BYTES_MAX: usize = 64;

/// The SHA-256 of a secret. Two are compared in constant time, by `==` as well, and none can be printed.
#[derive(Clone, Copy, Eq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
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

/// What is wrong with a line of the tokens file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenLineError {
    /// It does not have two words.
    #[error("not two words")]
    NotTwoWords,
    /// The name is too long.
    #[error("the name has more than {NAME_BYTES_MAX} bytes")]
    LongName,
    /// The digest is none.
    #[error("the digest does not have 64 hex digits")]
    NoDigest,
    /// An earlier line has the same name.
    #[error("the name stands there twice")]
    NameTwice,
    /// An earlier line has the same digest.
    #[error(
        "the token of {other} stands there again: each name takes a token of its own, or taking out one line would revoke nothing"
    )]
    TokenTwice {
        /// The name in that line.
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
        let unreadable = |source: io::Error| CredentialsError::Tokens {
            path: path.to_owned(),
            source,
        };
        let too_many = || CredentialsError::TooManyTokens {
            path: path.to_owned(),
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(too_many());
        }
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

    /// The name that `token` goes by, if it is known.
    pub(super) fn name_of(&self, token: &str) -> Option<&str> {
        let name = self.name_by_digest.get(&Digest::of(token))?;
        Some(name)
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
        /// The digests that this thread has compared.
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
    fn a_lookup_compares_no_more_digests_however_many_there_are() {
        for number in [10, TOKENS_MAX] {
            let tokens = tokens(number);
            for index in 0..2 * number {
                let (before, token) = (COMPARISONS.get(), format!("token-{index}"));
                let name = tokens.name_of(&token);
                let expected = (index < number).then(|| format!("name-{index}"));
                assert_eq!(name.map(str::to_owned), expected);
                // One, and few whose keyed hash happens to look like it: each is a chance of 1 in 128.
                let compared = COMPARISONS.get() - before;
                assert!(compared <= 16, "{compared} of {number} for {token}");
            }
        }
    }

    #[test]
    fn a_digest_may_be_written_in_upper_and_lower_case() {
        let upper = hex("a token").to_uppercase();
        let tokens = read(&format!("shouting {upper}\n")).unwrap();
        assert_eq!(tokens.name_of("a token"), Some("shouting"));
    }

    #[test]
    fn a_line_that_is_not_right_says_what_is_wrong_with_it() {
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
                Ok(_) => panic!("{text} is taken"),
            }
        }
    }

    #[test]
    fn a_file_of_too_many_tokens_or_bytes_is_refused() {
        let mut text = String::new();
        for index in 0..=TOKENS_MAX {
            writeln!(text, "name-{index} {}", hex(&index.to_string())).unwrap();
        }
        let comment = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        for text in [text, comment] {
            let refused = read(&text).err();
            assert!(
                matches!(refused, Some(CredentialsError::TooManyTokens { .. })),
                "{refused:?}"
            );
        }
    }
}
