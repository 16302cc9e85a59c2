//! Interprets any bytes as the sender and the input of a connection. However the input is cut, the
//! edge must judge it like a simple reader that has the whole input, and must read a header that
//! another implementation has made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tickstorm_edge::fuzzing::{ProxiedInput, receive_proxied};
use tickstorm_testkit::proxy;

/// The longest header that an edge reads, in bytes.
const HEADER_MAX: usize = 4_096;
const VERSION_1: &[u8] = b"PROXY ";

pub(crate) fn run(data: &[u8]) {
    let &[flags, cut, ref rest @ ..] = data else {
        return;
    };
    let is_balancer = flags & 1 == 0;
    let (stream, announced) = match (flags >> 1) % 4 {
        0 => (rest.to_vec(), None),
        1 => ([&proxy::SIGNATURE[..], rest].concat(), None),
        2 => (header(rest), None),
        _ => {
            let announced = announce(rest);
            (announced.stream.clone(), Some(announced))
        }
    };
    let expected = reference(is_balancer, &stream);
    if let Some(announced) = announced.filter(|announced| is_balancer && announced.is_allowed) {
        assert_eq!(expected.client, Some(announced.client));
        assert_eq!(expected.bytes, announced.following);
    }
    let check = |pieces: &[&[u8]], how: &str| {
        let (input, buffered_max) = receive_proxied(is_balancer, pieces);
        assert_eq!(input, expected, "{how}");
        assert!(buffered_max <= HEADER_MAX, "{how}: {buffered_max} bytes");
    };
    let cut = usize::from(cut);
    check(&[&stream], "in one piece");
    let (head, tail) = stream.split_at(cut.min(stream.len()));
    check(&[head, tail], "cut");
    let chunks: Vec<_> = stream.chunks(1 + cut).collect();
    check(&chunks, "in chunks");
    let (head, tail) = stream.split_at(stream.len().min(300));
    let chunks: Vec<_> = head.chunks(1).chain([tail]).collect();
    check(&chunks, "byte by byte at first");
}

/// Makes a header from its command, its family, the difference of its length from that of the bytes
/// that follow, and those bytes.
fn header(script: &[u8]) -> Vec<u8> {
    let &[command, family, difference, ref rest @ ..] = script else {
        return script.to_vec();
    };
    let mut stream = proxy::header(command, family, &rest[..rest.len().min(60_000)]);
    if let Some(claimed) = rest.len().checked_sub(usize::from(difference)) {
        let claimed = u16::try_from(claimed).unwrap_or(u16::MAX);
        stream[14..16].copy_from_slice(&claimed.to_be_bytes());
    }
    stream
}

/// A header for a client, with optional fields and the bytes that follow it.
struct Announced {
    client: SocketAddr,
    stream: Vec<u8>,
    following: Vec<u8>,
    /// Whether the header is short enough.
    is_allowed: bool,
}

fn announce(script: &[u8]) -> Announced {
    let mut script = script.iter().copied();
    let mut byte = || script.next().unwrap_or(0);
    let (is_v4, fields) = (byte() % 2 == 0, byte());
    let port = u16::from_be_bytes([byte(), byte()]);
    let octets: [u8; 16] = std::array::from_fn(|_| byte());
    let ip = if is_v4 {
        IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
    } else {
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let mut block = Vec::new();
    for _ in 0..fields % 20 {
        let (kind, len, content) = (byte(), usize::from(byte()), byte());
        block.extend(proxy::field(kind, &vec![content; len]));
    }
    let header = proxy::announce_with(SocketAddr::new(ip, port), &block);
    let following: Vec<u8> = script.collect();
    Announced {
        client: SocketAddr::new(ip.to_canonical(), port),
        stream: [&header[..], &following].concat(),
        is_allowed: header.len() <= HEADER_MAX,
        following,
    }
}

/// Judges an input that has arrived as a whole and has ended.
fn reference(is_balancer: bool, stream: &[u8]) -> ProxiedInput {
    let fault = |fault: &str| ProxiedInput {
        fault: Some(fault.to_owned()),
        ..ProxiedInput::default()
    };
    let is_version_2 = stream.starts_with(&proxy::SIGNATURE);
    let is_start = proxy::SIGNATURE.starts_with(stream) || VERSION_1.starts_with(stream);
    match (is_balancer, is_version_2) {
        _ if stream.is_empty() => ProxiedInput::default(),
        (false, true) => fault("NotTrusted"),
        (false, false) if stream.starts_with(VERSION_1) => fault("NotTrusted"),
        (true, false) if stream.starts_with(VERSION_1) => fault("Version1"),
        (_, false) if is_start => fault("Unfinished"),
        (true, false) => fault("Missing"),
        (false, false) => ProxiedInput {
            bytes: stream.to_vec(),
            ..ProxiedInput::default()
        },
        (true, true) => version_2(stream).unwrap_or_else(|name| fault(&name)),
    }
}

/// Reads an input that starts with the signature of version 2.
fn version_2(stream: &[u8]) -> Result<ProxiedInput, String> {
    let Some(&[command, family, high, low]) = stream.get(12..16) else {
        return Err("Unfinished".to_owned());
    };
    let len = 16 + usize::from(u16::from_be_bytes([high, low]));
    if len > HEADER_MAX {
        return Err(format!("TooLong {{ len: {len} }}"));
    }
    let Some((header, following)) = stream.split_at_checked(len) else {
        return Err("Unfinished".to_owned());
    };
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let client = match (command, family, len - 16) {
        (proxy::LOCAL, _, _) | (proxy::PROXY, proxy::UNSPEC, _) => None,
        (proxy::PROXY, proxy::UNIX | 0x32, 216..) => None,
        (proxy::PROXY, proxy::TCP4, 12..) => {
            let ip: [u8; 4] = header[16..20].try_into().expect("four bytes");
            Some(SocketAddr::new(ip.into(), port(24)))
        }
        (proxy::PROXY, proxy::TCP6, 36..) => {
            let ip: [u8; 16] = header[16..32].try_into().expect("sixteen bytes");
            Some(SocketAddr::new(IpAddr::from(ip).to_canonical(), port(48)))
        }
        _ => return Err("Invalid".to_owned()),
    };
    Ok(ProxiedInput {
        client,
        bytes: following.to_vec(),
        fault: None,
    })
}
