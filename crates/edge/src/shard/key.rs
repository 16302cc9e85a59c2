//! [`Key`]: the identity of a connection.

use crate::sys::network::Token;

/// The identity of a connection: its slot, and an id that no other connection of the process ever
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) id: u64,
}

impl Key {
    /// Returns the token with which the connection's events are reported.
    pub(super) fn token(self) -> Token {
        Token {
            slot: self.slot,
            generation: low_bits(self.id),
        }
    }
}

fn low_bits(id: u64) -> u32 {
    let [.., a, b, c, d] = id.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}
