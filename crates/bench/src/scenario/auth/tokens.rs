//! The random tokens of a run: tokens in a file for the edge under test, and tokens that are in no
//! file. The file contains only digests, and is removed at the end of the run.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tickstorm_command::private_dir::PrivateDir;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::Auth;

/// The tokens that the edge knows, used in rotation.
pub(super) struct RandomTokens {
    known: Vec<String>,
    next: usize,
    file: PathBuf,
    /// The directory of the file, which is removed with this.
    _directory: PrivateDir,
}

/// The answer that an AUTH must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthVerdict {
    /// An ACK.
    Accepted,
    /// ERROR AUTH_FAILED.
    Refused,
}

impl RandomTokens {
    /// Creates `count` tokens, and the file with their digests.
    pub(super) fn new(count: u32) -> io::Result<Self> {
        let known: Vec<String> = (0..count).map(|_| random()).collect();
        let mut lines = String::new();
        for (number, token) in known.iter().enumerate() {
            let digest = HEXLOWER.encode(&Sha256::digest(token.as_bytes()));
            let _infallible = writeln!(lines, "client-{number} {digest}");
        }
        let directory = PrivateDir::new("tickstorm-bench-tokens-")?;
        Ok(Self {
            known,
            next: 0,
            file: directory.write("tokens", &lines)?,
            _directory: directory,
        })
    }

    /// Returns the value of STREAM_TOKENS_FILE.
    pub(super) fn path(&self) -> OsString {
        self.file.clone().into()
    }

    /// Returns the next token, in rotation.
    pub(super) fn next(&mut self) -> &str {
        self.next = (self.next + 1) % self.known.len();
        &self.known[self.next]
    }

    /// Encodes an AUTH with the next token, or with one that the edge does not know.
    pub(super) fn auth(&mut self, verdict: AuthVerdict) -> Vec<u8> {
        let token = match verdict {
            AuthVerdict::Accepted => self.next().to_owned(),
            AuthVerdict::Refused => random(),
        };
        let auth = Auth {
            client_id: "tickstorm bench".into(),
            token,
            ..Auth::default()
        };
        let mut frame = Vec::new();
        encode(FrameType::Auth, &auth, &mut frame);
        frame
    }
}

/// Returns 128 random bits in hexadecimal.
fn random() -> String {
    HEXLOWER.encode(&rand::random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_the_digest_of_each_token_and_no_token() {
        let tokens = RandomTokens::new(3).unwrap();
        let text = std::fs::read_to_string(tokens.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        for (token, line) in tokens.known.iter().zip(lines) {
            let (_, digest) = line.split_once(' ').unwrap();
            assert_eq!(digest, HEXLOWER.encode(&Sha256::digest(token.as_bytes())));
            assert!(!line.contains(token));
        }
    }

    #[test]
    fn tokens_are_used_in_rotation() {
        let mut tokens = RandomTokens::new(3).unwrap();
        let mut seen: Vec<String> = (0..3).map(|_| tokens.next().to_owned()).collect();
        assert_eq!(tokens.next(), seen[0]);
        seen.sort();
        tokens.known.sort();
        assert_eq!(seen, tokens.known);
    }
}
