//! [`Level`]: the sizes of address blocks whose failures are counted together. A guesser who has
//! many addresses has them in few blocks; one who has many blocks meets the level of all addresses.

use std::fmt;
use std::time::Duration;

use super::Address;

/// The wait before an AUTH is judged, once a block has used up its failures. It doubles with each
/// further failure.
const DELAY_MIN: Duration = Duration::from_millis(250);
/// The longest wait. Together with the edge's own delays, it stays below the 10 s for which clients
/// wait for the answer to AUTH.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(8);

/// A block size, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// A single IPv4 address, or an IPv6 /64.
    Address,
    /// An IPv6 /56, which many providers assign to one household. Others assign a /64 to each, so
    /// it may fail as often as four of these.
    Slash56,
    /// An IPv4 /24 or an IPv6 /48: the smallest that is routed by itself, and what a customer of a
    /// hoster or a site gets. It may fail as often as 16 addresses: if more than 16 of the 256
    /// addresses of a /24 are wrong in the same minute, someone is guessing.
    Network,
    /// All addresses. They may fail as often as 100 of them: 1,000 times per minute by default, far
    /// more often than people mistype passwords, even after one was changed.
    All,
}

impl Level {
    pub(super) const ALL: [Self; 4] = [Self::Address, Self::Slash56, Self::Network, Self::All];

    /// Returns the failures per minute that a block of this size may have before its AUTHs wait, as
    /// a multiple of AUTH_RATE_LIMIT.
    const fn factor(self) -> u32 {
        match self {
            Self::Address => 1,
            Self::Slash56 => 4,
            Self::Network => 16,
            Self::All => 100,
        }
    }

    /// Returns how many AUTHs of a block may wait at a time. With waits of 8 s, an address has at
    /// most 75 further guesses per minute, a /56 150, a network 300, and all addresses together
    /// 7,680. That many waiting connections take up a quarter of MAX_HANDSHAKES' default.
    pub(super) const fn waiting_max(self) -> usize {
        match self {
            Self::Address => 10,
            Self::Slash56 => 20,
            Self::Network => 40,
            Self::All => 1_024,
        }
    }

    /// Returns how long an AUTH waits if its block has `count` failures and waiting AUTHs; `None`
    /// if it need not wait.
    pub(super) fn delay(self, count: u32, failures_max: u32) -> Option<Duration> {
        let excess = count.checked_sub(failures_max.saturating_mul(self.factor()))?;
        // A few doublings exceed the longest wait.
        let delay = DELAY_MIN.saturating_mul(1 << excess.min(16));
        Some(delay.min(DELAY_MAX))
    }

    /// Returns the block of this size that contains `address`; `None` if its family has no such
    /// size.
    pub(super) fn block_of(self, address: Address) -> Option<Block> {
        let address = match (self, address) {
            (Self::Address, address) => address,
            (Self::Slash56, Address::V4(_)) => return None,
            (Self::Slash56, Address::V6([a, b, c, d, e, f, g, _])) => {
                Address::V6([a, b, c, d, e, f, g, 0])
            }
            (Self::Network, address) => address.prefix().first(),
            (Self::All, _) => Address::V4([0; 4]),
        };
        Some(Block {
            level: self,
            address,
        })
    }
}

/// A block of addresses whose failures are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    pub(super) level: Level,
    /// The block's first address.
    address: Address,
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::Address => self.address.fmt(formatter),
            Level::Slash56 => write!(formatter, "{}/56", self.address.first_ip()),
            Level::Network => self.address.prefix().fmt(formatter),
            Level::All => formatter.write_str("all addresses"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn blocks(ip: &str) -> Vec<String> {
        let address = Address::from(ip.parse::<IpAddr>().unwrap());
        let blocks = Level::ALL.map(|level| level.block_of(address));
        blocks
            .into_iter()
            .flatten()
            .map(|block| block.to_string())
            .collect()
    }

    #[test]
    fn an_address_is_in_one_block_of_each_size_of_its_family() {
        assert_eq!(
            blocks("192.0.2.129"),
            ["192.0.2.129", "192.0.2.0/24", "all addresses"]
        );
        assert_eq!(
            blocks("2001:db8:1:2ff:3::4"),
            [
                "2001:db8:1:2ff::/64",
                "2001:db8:1:200::/56",
                "2001:db8:1::/48",
                "all addresses"
            ]
        );
    }

    #[test]
    fn waits_double_from_250_ms_to_8_s() {
        for (level, free) in [
            (Level::Address, 10),
            (Level::Slash56, 40),
            (Level::All, 1_000),
        ] {
            assert_eq!(level.delay(free - 1, 10), None);
            let waits = (0..8).map(|excess| level.delay(free + excess, 10).unwrap().as_millis());
            assert_eq!(
                Vec::from_iter(waits),
                [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000],
                "{level:?}"
            );
            assert_eq!(level.delay(u32::MAX, 10), Some(DELAY_MAX));
        }
        assert_eq!(
            Level::All.delay(u32::MAX - 1, u32::MAX),
            None,
            "no overflow"
        );
    }
}
