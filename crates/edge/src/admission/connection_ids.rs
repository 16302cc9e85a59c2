//! [`ConnectionIds`]: the numbers of connections, and the ids by which clients, logs and operators
//! know them. An id is a connection's number and a check that is computed from it, so it takes no
//! memory, and a client that knows its own id can't guess that of another.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hmac;

/// The characters of a check: Crockford's base 32 in lower case, in which no two are easily taken
/// for each other when they are read aloud or copied by hand.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// The number of characters in a check. With 40 bits, an id of an earlier run of this process, or
/// of another edge, is valid in this run with a probability of one in 10^12.
const CHECK_LEN: usize = 8;
const BITS_PER_CHARACTER: u32 = 5;

/// The connections of this process, as far as they have a number.
pub(super) struct ConnectionIds {
    next: AtomicU64,
    /// Random, so that the checks differ in each run.
    key: hmac::Key,
}

/// The id of a connection: its number, in digits, and its check, as in `4821-k7m2q9xd`. It has at
/// most 29 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionId {
    number: u64,
    check: [u8; CHECK_LEN],
}

/// The reason that a text is not the id of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionIdError {
    /// It does not have the form of an id.
    #[error(
        "invalid connection id: it is a number and 8 characters, as in 4821-k7m2q9xd; clients get \
         it in ACK and ERROR, and the log and /connections show it"
    )]
    Form,
    /// No connection of this process has had it.
    #[error(
        "no connection has had this id since this edge started: it may be of another edge, or from \
         before a restart"
    )]
    Foreign,
}

impl ConnectionIds {
    pub(super) fn new() -> Self {
        let key: [u8; 32] = rand::random();
        Self {
            next: AtomicU64::new(1),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        }
    }

    /// Returns a number that no other connection of this process has had.
    pub(super) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how many numbers have been given.
    pub(super) fn given(&self) -> u64 {
        self.next.load(Ordering::Relaxed) - 1
    }

    /// Returns the id of the connection with this number.
    pub(super) fn id_of(&self, number: u64) -> ConnectionId {
        let tag = hmac::sign(&self.key, &number.to_be_bytes());
        let bits = tag.as_ref().iter().take(size_of::<u64>());
        let mut bits = bits.fold(0, |bits: u64, &byte| bits << 8 | u64::from(byte));
        let check = [(); CHECK_LEN].map(|()| {
            let character = ALPHABET[(bits % 32) as usize];
            bits >>= BITS_PER_CHARACTER;
            character
        });
        ConnectionId { number, check }
    }

    /// Returns the number of the connection with the id that `text` is.
    pub(super) fn number_of(&self, text: &str) -> Result<u64, ConnectionIdError> {
        let given: ConnectionId = text.parse()?;
        let is_ours = (1..=self.given()).contains(&given.number);
        if is_ours && self.id_of(given.number) == given {
            Ok(given.number)
        } else {
            Err(ConnectionIdError::Foreign)
        }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.number, self.check.escape_ascii())
    }
}

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    /// Accepts what an id is displayed as, and nothing else.
    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let (number, check) = text.split_once('-').ok_or(ConnectionIdError::Form)?;
        let is_number =
            number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
        let number = number.parse().ok().filter(|_| is_number);
        let is_check = check.bytes().all(|byte| ALPHABET.contains(&byte));
        let check = check.as_bytes().try_into().ok().filter(|_| is_check);
        match (number, check) {
            (Some(number), Some(check)) => Ok(Self { number, check }),
            (_, _) => Err(ConnectionIdError::Form),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use tickstorm_protocol::message::CONNECTION_ID_LEN_MAX;

    use super::*;

    #[test]
    fn an_id_leads_to_its_number_in_this_run_and_to_none_in_another() {
        let (ids, others) = (ConnectionIds::new(), ConnectionIds::new());
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            others.next();
            let number = ids.next();
            let id = ids.id_of(number).to_string();
            assert_eq!(ids.number_of(&id), Ok(number), "{id}");
            assert_eq!(
                others.number_of(&id),
                Err(ConnectionIdError::Foreign),
                "{id}"
            );
            let (_, check) = id.split_once('-').unwrap();
            assert!(
                seen.insert(check.to_owned()),
                "{id}: a check for two numbers"
            );
        }
        let next = ids.id_of(1_001).to_string();
        assert_eq!(
            ids.number_of(&next),
            Err(ConnectionIdError::Foreign),
            "not given yet"
        );
    }

    #[test]
    fn the_longest_id_fits_into_its_fields() {
        let id = ConnectionIds::new().id_of(u64::MAX).to_string();
        assert!(id.len() <= CONNECTION_ID_LEN_MAX, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
    }

    #[test]
    fn nothing_but_an_id_as_it_is_shown_has_the_form_of_one() {
        for text in [
            "",
            "7",
            "-",
            "7-",
            "-k7m2q9xd",
            "7-k7m2q9x",
            "7-k7m2q9xdd",
            "07-k7m2q9xd",
            "0-k7m2q9xd",
            "+7-k7m2q9xd",
            " 7-k7m2q9xd",
            "7-k7m2q9xd ",
            "7-K7M2Q9XD",
            "7-k7m2q9xi",
            "7-k7m2-9xd",
            "7--k7m2q9x",
            "18446744073709551616-k7m2q9xd",
            "٧-k7m2q9xd",
            "7-k7m2q9é",
        ] {
            let parsed: Result<ConnectionId, _> = text.parse();
            assert_eq!(parsed, Err(ConnectionIdError::Form), "{text:?}");
        }
    }

    proptest! {
        /// A client that changes its own id does not get that of another.
        #[test]
        fn a_guessed_id_is_foreign(number in 1_u64..=1_000, check in "[0-9a-hjkmnp-tv-z]{8}") {
            let ids = ConnectionIds::new();
            for _ in 0..1_000 {
                ids.next();
            }
            let guess = format!("{number}-{check}");
            prop_assert_eq!(ids.number_of(&guess), Err(ConnectionIdError::Foreign));
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text: String) {
            let ids = ConnectionIds::new();
            prop_assert!(ids.number_of(&text).is_err());
        }
    }
}
