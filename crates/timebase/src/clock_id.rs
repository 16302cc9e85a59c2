//! [`ClockId`]: the name of a clock replica. It is validated on construction, because it is a token
//! of the bus's subjects, and ends up in logs, labels and JSON.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The maximum length of an id in bytes. A label of a host name, which has at most 63, fits.
pub const CLOCK_ID_BYTES_MAX: usize = 64;

/// A clock replica's id: 1 to 64 characters of `A-Z a-z 0-9 - _`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockId(Box<str>);

impl ClockId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets maps by id be searched by text.
impl Borrow<str> for ClockId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClockId {
    type Err = InvalidClockId;

    fn from_str(text: &str) -> Result<Self, InvalidClockId> {
        if text.is_empty() || text.len() > CLOCK_ID_BYTES_MAX {
            return Err(InvalidClockId::Length(text.len()));
        }
        match text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"-_".contains(*c))
        {
            Some(character) => Err(InvalidClockId::Character(character)),
            None => Ok(Self(text.into())),
        }
    }
}

/// The reason why a text is not a valid clock id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClockId {
    /// The text is empty or too long; its length in bytes.
    #[error("a clock id has 1 to {CLOCK_ID_BYTES_MAX} characters, but this text has {0} bytes")]
    Length(usize),
    /// The text contains a character other than letters, digits, `-` and `_`.
    #[error("a clock id may contain only A-Z, a-z, 0-9, '-' and '_', but not {0:?}")]
    Character(char),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_64_letters_digits_hyphens_and_underscores() {
        for id in ["a", "clock-0", "Clock_1", &"x".repeat(64)] {
            assert_eq!(id.parse::<ClockId>().unwrap().as_str(), id);
        }
        assert_eq!("".parse::<ClockId>(), Err(InvalidClockId::Length(0)));
        assert_eq!(
            "x".repeat(65).parse::<ClockId>(),
            Err(InvalidClockId::Length(65))
        );
        for (id, bad) in [
            ("a b", ' '),
            ("a\n", '\n'),
            ("ä", 'ä'),
            ("a\"", '"'),
            ("a/b", '/'),
            // These three have a meaning in subjects.
            ("a.b", '.'),
            ("*", '*'),
            (">", '>'),
        ] {
            assert_eq!(id.parse::<ClockId>(), Err(InvalidClockId::Character(bad)));
        }
    }
}
