//! The file of tokens.

use std::collections::HashSet;

use tickstorm_edge::fuzzing::Credentials;
use tickstorm_edge::{CredentialSources, CredentialsError};
use tickstorm_protocol::message::Auth;

use super::super::text_file::TextFile;

/// Tokens, and the digests by which a file lists them.
const TOKENS: [(&str, &str); 3] = [
    (
        "s3cret-0",
        "bfc98b22c25cc7988b4185531549ca78b43b347d2478421cb918f7f47d69ba82",
    ),
    (
        "s3cret-1",
        "6d837e5f0dbb0dc7ecc83248fc728f1ff4c776d6ee650605666eb1c03bc49811",
    ),
    (
        "s3cret-2",
        "a0915fbc887d424f41c133d6f15b1620aa92f89cef30eb61feb6458c113eddae",
    ),
];

pub(super) fn run(content: &[u8]) {
    let file = TextFile::new(content);
    let sources = CredentialSources {
        tokens: Some(file.path()),
        ..CredentialSources::default()
    };
    let expected = digests(content);
    match (Credentials::load(&sources), expected) {
        (Ok(credentials), Ok(digests)) => {
            for (token, digest) in TOKENS {
                let auth = Auth {
                    token: token.to_owned(),
                    ..Auth::default()
                };
                assert_eq!(credentials.accept(&auth), digests.contains(digest));
            }
            assert!(!credentials.accept(&Auth::default()));
        }
        (Err(error), Err(wrong_line)) => {
            assert!(error.to_string().starts_with("STREAM_TOKENS_FILE="));
            let line = if let CredentialsError::TokenLine { line, .. } = error {
                Some(line)
            } else {
                None
            };
            assert_eq!(line, wrong_line);
        }
        (loaded, expected) => panic!("{:?} instead of {expected:?}", loaded.err()),
    }
}

/// Returns the digests in the file, or the number of the line that is wrong; `None` if the file is
/// not a list.
fn digests(content: &[u8]) -> Result<HashSet<String>, Option<usize>> {
    let text = super::list(content).ok_or(None)?;
    let (mut names, mut digests) = (HashSet::new(), HashSet::new());
    for (number, line) in (1..).zip(text.split('\n')) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        let &[name, digest] = &words[..] else {
            return Err(Some(number));
        };
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        let is_new = names.insert(name) & digests.insert(digest.to_ascii_lowercase());
        if name.len() > 64 || !is_digest || !is_new {
            return Err(Some(number));
        }
    }
    Ok(digests)
}
