//! [`Networks`]: a set of IP networks, as lists of clients and load balancers are written.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tickstorm_service::env::Value;

/// The most networks in a setting. Longer lists belong into a file.
const LISTED_MAX: usize = 1_024;

/// A set of IP networks. IPv6 networks of mapped IPv4 addresses count as the IPv4 networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// In ascending order, and none overlaps another.
    v4: Vec<Ipv4Net>,
    /// In the same order.
    v6: Vec<Ipv6Net>,
}

/// The reason that a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It does not have the form of a network.
    #[error(
        "it is not a network such as 10.0.0.0/8 or 2001:db8::/32; a single address is written as \
         192.0.2.7/32 or 2001:db8::7/128"
    )]
    NotANetwork,
    /// The address has bits beyond the prefix, so either may be a mistake.
    #[error("the address has bits set after the first {prefix_len}; the network is {network}")]
    HostBits {
        /// The length of the prefix.
        prefix_len: u8,
        /// The network without those bits.
        network: IpNet,
    },
}

impl Networks {
    /// Returns whether one of the networks contains `ip`.
    #[must_use]
    pub fn contain(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self
                .v4
                .binary_search_by(|net| position(net.network(), net.broadcast(), ip))
                .is_ok(),
            IpAddr::V6(ip) => self
                .v6
                .binary_search_by(|net| position(net.network(), net.broadcast(), ip))
                .is_ok(),
        }
    }

    /// Returns whether the set contains no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Returns the network of all addresses of a family, if the set contains one.
    pub(crate) fn universal(&self) -> Option<IpNet> {
        let v4 = self.v4.iter().copied().map(IpNet::V4);
        let mut all = v4.chain(self.v6.iter().copied().map(IpNet::V6));
        all.find(|network| network.prefix_len() == 0)
    }

    /// Returns the networks of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::new(
            &[&self.v4[..], &other.v4].concat(),
            &[&self.v6[..], &other.v6].concat(),
        )
    }

    fn new(v4: &[Ipv4Net], v6: &[Ipv6Net]) -> Self {
        let mut v4 = Ipv4Net::aggregate(&v4.to_vec());
        let mut v6 = Ipv6Net::aggregate(&v6.to_vec());
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4, v6 }
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => match unmapped(network) {
                    Some(network) => v4.push(network),
                    None => v6.push(network),
                },
            }
        }
        Self::new(&v4, &v6)
    }
}

impl Value for Networks {
    type Rule = ();

    fn parse(text: &str, (): &()) -> Option<Self> {
        let networks: Result<Vec<_>, _> = text.split(',').map(parse_network).collect();
        networks
            .ok()
            .filter(|networks| networks.len() <= LISTED_MAX)
            .map(Self::from_iter)
    }

    fn allowed((): &()) -> String {
        format!(
            "at most {LISTED_MAX} networks such as 10.0.0.0/8 or 2001:db8::/32, separated by \
             commas; a single address is written as 192.0.2.7/32"
        )
    }
}

/// Parses a network in the notation of CIDR. Spaces around it are ignored.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    let parsed = split_network(text.trim()).ok_or(NetworkError::NotANetwork)?;
    let network = parsed.trunc();
    if network == parsed {
        return Ok(network);
    }
    Err(NetworkError::HostBits {
        prefix_len: parsed.prefix_len(),
        network,
    })
}

/// Reads the address and the length of the prefix. The standard library parses the address, because
/// `ipnet` accepts leading zeros: 010.0.0.0 is 8.0.0.0 to programs that take it for octal.
fn split_network(text: &str) -> Option<IpNet> {
    let (address, prefix_len) = text.split_once('/')?;
    let is_number = prefix_len.bytes().all(|byte| byte.is_ascii_digit());
    let prefix_len = prefix_len.parse().ok().filter(|_| is_number)?;
    IpNet::new(address.parse().ok()?, prefix_len).ok()
}

/// Returns how the network from `first` to `last` lies relative to `ip`.
fn position<A: Copy + Ord>(first: A, last: A, ip: A) -> Ordering {
    if last < ip {
        Ordering::Less
    } else if first > ip {
        Ordering::Greater
    } else {
        Ordering::Equal
    }
}

/// Returns the IPv4 network that an IPv6 network of mapped addresses stands for.
fn unmapped(network: Ipv6Net) -> Option<Ipv4Net> {
    let address: Ipv4Addr = network.network().to_ipv4_mapped()?;
    Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(text: &str) -> Networks {
        Networks::parse(text, &()).unwrap()
    }

    fn contains(networks: &Networks, ip: &str) -> bool {
        networks.contain(ip.parse().unwrap())
    }

    #[test]
    fn addresses_are_found_in_networks_of_both_families() {
        let listed = networks("10.0.0.0/8, 192.0.2.7/32,2001:db8::/32 , fd00::1/128");
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "::ffff:10.1.2.3",
            "192.0.2.7",
            "2001:db8:ffff::1",
            "fd00::1",
        ] {
            assert!(contains(&listed, inside), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.6",
            "192.0.2.8",
            "2001:db9::",
            "fd00::2",
        ] {
            assert!(!contains(&listed, outside), "{outside}");
        }
        assert!(!contains(&Networks::default(), "10.0.0.1"));
    }

    #[test]
    fn networks_of_mapped_addresses_are_ipv4_networks() {
        let listed = networks("::ffff:10.0.0.0/104");
        assert_eq!(listed, networks("10.0.0.0/8"));
        assert!(contains(&listed, "10.0.0.1"));
        assert!(!contains(&networks("::/0"), "10.0.0.1"), "only IPv6");
    }

    #[test]
    fn a_text_that_is_not_a_network_is_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0/8",
            "all",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "[::]/0",
            // Octal or decimal?
            "010.0.0.0/8",
            "10.0.00.0/8",
            "::ffff:010.0.0.0/104",
        ] {
            assert_eq!(
                parse_network(text),
                Err(NetworkError::NotANetwork),
                "{text}"
            );
            assert_eq!(Networks::parse(text, &()), None, "{text}");
        }
        assert_eq!(Networks::parse("10.0.0.0/8,", &()), None);
        let error = parse_network("10.0.0.1/8").unwrap_err().to_string();
        assert!(error.ends_with("the network is 10.0.0.0/8"), "{error}");
    }

    proptest! {
        #[test]
        fn a_merged_set_contains_exactly_what_its_networks_contain(
            listed in prop::collection::vec((0_u32..64, 24_u8..=32), 0..20),
            ip in 0_u32..(64 << 3),
        ) {
            let network = |(number, prefix_len): (u32, u8)| {
                let address = Ipv4Addr::from(0x0a00_0000 + (number << 3));
                Ipv4Net::new(address, prefix_len).unwrap().trunc()
            };
            let listed: Vec<_> = listed.into_iter().map(network).collect();
            let ip = Ipv4Addr::from(0x0a00_0000 + ip);
            let expected = listed.iter().any(|network| network.contains(&ip));
            let (one, other) = listed.split_at(listed.len() / 2);
            let set = |part: &[Ipv4Net]| part.iter().copied().map(IpNet::V4).collect::<Networks>();
            prop_assert_eq!(set(&listed).contain(ip.into()), expected);
            prop_assert_eq!(set(one).union(&set(other)), set(&listed));
        }
    }
}
