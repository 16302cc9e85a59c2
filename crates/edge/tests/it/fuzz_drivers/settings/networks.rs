//! Lists of networks, in a file and in a variable.

use std::net::{IpAddr, Ipv6Addr};

use tickstorm_edge::fuzzing::load_ip_lists;
use tickstorm_edge::{IpListError, IpListSources, Networks};
use tickstorm_service::env::Value as _;

use super::super::text_file::TextFile;

/// The most networks in a variable.
const LISTED_MAX: usize = 1_024;

pub(super) fn run(content: &[u8]) {
    let file = TextFile::new(content);
    let blocked = load_ip_lists(IpListSources {
        blocked_file: Some(file.path()),
        ..IpListSources::default()
    });
    let allowed = load_ip_lists(IpListSources {
        allowed_file: Some(file.path()),
        ..IpListSources::default()
    });
    let lines = entries(content);
    let listed = lines.as_ref().map_or(Err(None), |lines| parse(lines));
    let is_listed = |networks: &[Network], ip| networks.iter().any(|one| one.contains(ip));
    match (&blocked, &listed) {
        (Ok(permit), Ok(networks)) => {
            for ip in probes(networks) {
                assert_eq!(permit(ip), !is_listed(networks, ip), "blocked: {ip}");
            }
        }
        (Err(error), Err(line)) => assert_names_line(error, "IP_BLOCKLIST_FILE", *line),
        (_, _) => panic!("{:?}, not {listed:?}", blocked.as_ref().err()),
    }
    match (&allowed, &listed) {
        (Ok(permit), Ok(networks)) => {
            assert!(!networks.is_empty(), "nobody would be allowed");
            for ip in probes(networks) {
                assert_eq!(permit(ip), is_listed(networks, ip), "allowed: {ip}");
            }
        }
        (Err(IpListError::NobodyAllowed { name, .. }), Ok(networks)) => {
            assert!(networks.is_empty());
            assert_eq!(*name, "IP_ALLOWLIST_FILE");
        }
        (Err(error), Err(line)) => assert_names_line(error, "IP_ALLOWLIST_FILE", *line),
        (_, _) => panic!("{:?}, not {listed:?}", allowed.as_ref().err()),
    }
    if let Some(lines) = lines {
        let written: Vec<_> = lines.iter().map(|(_, text)| *text).collect();
        in_a_variable(&written.join(","));
    }
}

/// Reads networks that are separated by commas.
fn in_a_variable(text: &str) {
    let lines: Vec<_> = (1..).zip(text.split(',').map(str::trim)).collect();
    let listed = parse(&lines).ok().filter(|_| lines.len() <= LISTED_MAX);
    let networks = Networks::parse(text, &());
    assert_eq!(networks.is_some(), listed.is_some(), "{text:?}");
    if let (Some(networks), Some(listed)) = (networks, listed) {
        for ip in probes(&listed) {
            let is_listed = listed.iter().any(|network| network.contains(ip));
            assert_eq!(networks.contain(ip), is_listed, "{ip}");
        }
        assert_eq!(networks.union(&networks), networks);
    }
}

fn assert_names_line(error: &IpListError, expected: &str, wrong_line: Option<usize>) {
    assert!(error.to_string().starts_with(expected), "{error}");
    let line = if let IpListError::Line { line, .. } = error {
        Some(*line)
    } else {
        None
    };
    assert_eq!(line, wrong_line, "{error}");
}

/// A network as a number of leading bits of an IPv6 address. Those of IPv4 are mapped.
#[derive(Debug)]
struct Network {
    first: u128,
    /// The bits that all of its addresses have in common.
    mask: u128,
    is_v4: bool,
}

impl Network {
    fn contains(&self, ip: IpAddr) -> bool {
        let is_v4 = ip.to_canonical().is_ipv4();
        is_v4 == self.is_v4 && mapped(ip) & self.mask == self.first
    }

    /// Parses a network in the notation of CIDR, without any bit beyond the prefix.
    fn parse(text: &str) -> Option<Self> {
        let (ip, len) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let (width, is_digits) = (if ip.is_ipv4() { 32 } else { 128 }, |b: u8| {
            b.is_ascii_digit()
        });
        let len: u32 = len.parse().ok().filter(|_| len.bytes().all(is_digits))?;
        let host_bits = u32::checked_sub(width, len)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        let first = mapped(ip);
        // An IPv6 network that contains all mapped addresses, and others, is one of IPv6.
        let is_v4 = ip.to_canonical().is_ipv4() && host_bits <= 32;
        (first & mask == first).then_some(Self { first, mask, is_v4 })
    }
}

fn mapped(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Returns addresses at and beyond both ends of each network, and some others.
fn probes(networks: &[Network]) -> Vec<IpAddr> {
    let ends = networks.iter().flat_map(|network| {
        let last = network.first | !network.mask;
        [
            network.first,
            network.first.wrapping_sub(1),
            last,
            last.wrapping_add(1),
            network.first ^ 0x0100,
        ]
    });
    let others = [0, 1, u128::MAX, 0xFFFF_0A00_0001, 0xFFFE_0A00_0001];
    let all = ends.chain(others).map(Ipv6Addr::from_bits);
    all.flat_map(|ip| [IpAddr::V6(ip), IpAddr::V6(ip).to_canonical()])
        .collect()
}

/// Returns the entries of a file with their line numbers; `None` if it is not a list.
fn entries(content: &[u8]) -> Option<Vec<(usize, &str)>> {
    let text = super::list(content)?;
    let lines = (1..).zip(text.split('\n'));
    let entries = lines.map(|(number, line)| {
        let end = line.find('#').unwrap_or(line.len());
        (number, line[..end].trim())
    });
    Some(entries.filter(|(_, entry)| !entry.is_empty()).collect())
}

/// Returns the networks, or the number of the first line that is wrong.
fn parse(lines: &[(usize, &str)]) -> Result<Vec<Network>, Option<usize>> {
    let parse = |(line, text): &(usize, &str)| Network::parse(text).ok_or(Some(*line));
    lines.iter().map(parse).collect()
}
