//! The address under which an edge asks for the time: a secret key, and the token of its reply
//! subject, which is derived from the key.
//!
//! All edges may share one NATS login, which may hear the answers to all of them, and so learns all
//! tokens. But only clocks hear requests. A request that contains the key that belongs to its reply
//! subject can therefore only come from the edge that drew the key. Otherwise anyone with an edge's
//! login could ask so often in another edge's name that this edge would get no answers.
//!
//! The protocol leaves the key out of what an edge must send: any token may be a reply subject's.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};

/// The number of bytes of a key.
pub(crate) const REPLY_KEY_BYTES: usize = 16;
/// The number of bytes of the key's digest that its token shows.
const SHOWN_BYTES: u8 = 16;
/// The most characters of a token, as of a clock's id.
const TOKEN_MAX: usize = 64;

/// The secret from which an edge's reply subject is derived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReplyKey([u8; REPLY_KEY_BYTES]);

/// The last token of an edge's reply subject: 1 to 64 of `A-Z a-z 0-9 - _`. The rest of the array
/// is zero. This program's edges write 128 bits as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplyToken {
    text: [u8; TOKEN_MAX],
    len: u8,
}

impl ReplyKey {
    /// Draws a random key.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Returns the token of the reply subject that belongs to this key: the first half of the key's
    /// SHA-256.
    #[must_use]
    pub fn token(&self) -> ReplyToken {
        let hash = digest(&SHA256, &self.0);
        let mut text = [0; TOKEN_MAX];
        for (digits, byte) in text
            .chunks_exact_mut(2)
            .zip(&hash.as_ref()[..usize::from(SHOWN_BYTES)])
        {
            digits.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        ReplyToken {
            text,
            len: 2 * SHOWN_BYTES,
        }
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; REPLY_KEY_BYTES] {
        &self.0
    }
}

impl From<[u8; REPLY_KEY_BYTES]> for ReplyKey {
    fn from(bytes: [u8; REPLY_KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for ReplyKey {
    /// Does not show the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyKey").finish_non_exhaustive()
    }
}

impl ReplyToken {
    fn as_str(&self) -> &str {
        let text = &self.text[..usize::from(self.len)];
        str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Display for ReplyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The reason why a text is not a reply token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reply token has 1 to 64 of A-Z a-z 0-9 - _")]
pub struct InvalidReplyToken;

impl FromStr for ReplyToken {
    type Err = InvalidReplyToken;

    fn from_str(text: &str) -> Result<Self, InvalidReplyToken> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let len = u8::try_from(text.len()).map_err(|_| InvalidReplyToken)?;
        if !(1..=TOKEN_MAX).contains(&text.len()) || !text.bytes().all(is_allowed) {
            return Err(InvalidReplyToken);
        }
        let mut padded = [0; TOKEN_MAX];
        padded[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { text: padded, len })
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..10 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    }
}

/// The address that an edge asks under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyAddress {
    pub(crate) key: ReplyKey,
    pub(crate) token: ReplyToken,
}

impl ReplyAddress {
    pub(crate) fn draw() -> Self {
        let key = ReplyKey::random();
        Self {
            key,
            token: key.token(),
        }
    }
}

impl Default for ReplyAddress {
    fn default() -> Self {
        Self::draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_first_half_of_the_keys_sha_256() {
        let token = ReplyKey::from([0; 16]).token();
        assert_eq!(token.to_string(), "374708fff7719dd5979ec875d56cd228");
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn any_token_of_up_to_64_allowed_characters_may_be_a_reply_subjects() {
        let longest = "x".repeat(TOKEN_MAX);
        for text in ["a", "Qk9PSw-_09", &longest] {
            let token: ReplyToken = text.parse().unwrap();
            assert_eq!(token.to_string(), text);
        }
        let too_long = "x".repeat(TOKEN_MAX + 1);
        for text in [
            "",
            "a.b",
            "*",
            ">",
            "a b",
            "\u{e4}",
            &too_long,
            &"x".repeat(300),
        ] {
            assert_eq!(text.parse::<ReplyToken>(), Err(InvalidReplyToken), "{text}");
        }
    }

    #[test]
    fn each_address_is_another_one_and_shows_no_key() {
        let (one, other) = (ReplyAddress::draw(), ReplyAddress::draw());
        assert_ne!(one.token, other.token);
        let shown = format!("{one:?}");
        assert!(
            !shown.contains(&format!("{:?}", one.key.as_bytes())),
            "{shown}"
        );
        assert!(shown.contains(&one.token.to_string()), "{shown}");
    }
}
