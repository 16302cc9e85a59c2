//! [`Address`] and [`Prefix`]: what the limits per client count by. A single host may use any
//! address of its IPv6 /64, and a single customer often has a whole /48 or several IPv4 addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A client's address as the limits see it: an IPv4 address, or an IPv6 /64 network, since a single
/// host usually has a /64 to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    V4([u8; 4]),
    V6([u8; 8]),
}

/// The network around an [`Address`]: an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Address {
    /// Returns the network that the address belongs to.
    pub(crate) fn prefix(self) -> Prefix {
        match self {
            Self::V4([a, b, c, _]) => Prefix::V4([a, b, c]),
            Self::V6([a, b, c, d, e, f, ..]) => Prefix::V6([a, b, c, d, e, f]),
        }
    }

    /// Returns the address, or the first one of its /64.
    pub(crate) fn first_ip(self) -> IpAddr {
        match self {
            Self::V4(octets) => Ipv4Addr::from(octets).into(),
            Self::V6([a, b, c, d, e, f, g, h]) => {
                Ipv6Addr::from([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]).into()
            }
        }
    }
}

impl Prefix {
    /// Returns the first address of the network.
    pub(crate) fn first(self) -> Address {
        match self {
            Self::V4([a, b, c]) => Address::V4([a, b, c, 0]),
            Self::V6([a, b, c, d, e, f]) => Address::V6([a, b, c, d, e, f, 0, 0]),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first_ip();
        match self {
            Self::V4(_) => first.fmt(f),
            Self::V6(_) => write!(f, "{first}/64"),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first().first_ip();
        match self {
            Self::V4(_) => write!(f, "{first}/24"),
            Self::V6(_) => write!(f, "{first}/48"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_ipv6_64_is_one_address_and_a_mapped_address_equals_its_ipv4_address() {
        assert_eq!(
            address("2001:db8:0:7::1"),
            address("2001:db8:0:7:ffff:ffff:ffff:ffff")
        );
        assert_ne!(address("2001:db8:0:7::1"), address("2001:db8:0:8::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn a_prefix_is_an_ipv4_24_or_an_ipv6_48() {
        let prefix = |text| address(text).prefix();
        assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.255"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.3.1"));
        assert_eq!(prefix("2001:db8:1:2::1"), prefix("2001:db8:1:ffff::1"));
        assert_ne!(prefix("2001:db8:1::1"), prefix("2001:db8:2::1"));
    }

    #[test]
    fn addresses_and_prefixes_are_shown_as_operators_write_them() {
        assert_eq!(address("::ffff:192.0.2.7").to_string(), "192.0.2.7");
        assert_eq!(address("192.0.2.7").prefix().to_string(), "192.0.2.0/24");
        let six = address("2001:db8:1:2:3::4");
        assert_eq!(six.to_string(), "2001:db8:1:2::/64");
        assert_eq!(six.prefix().to_string(), "2001:db8:1::/48");
    }
}
