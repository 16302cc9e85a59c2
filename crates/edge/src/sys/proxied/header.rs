//! Reads the start of a connection's input, which may be a header of the PROXY protocol. It decides
//! from bytes alone, and never waits for a byte that it does not need.
//!
//! The crate `proxy-header` decodes a header that is complete. What is done here is to tell whether
//! the input starts with one, and how long it is: until then, each further byte may show that it
//! does not.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};

use super::ProxyFault;

/// The longest header that is read, including its optional fields. It is as long as the longest
/// frame before authentication. Load balancers send fewer than 200 bytes; only a client's
/// certificate, which HAProxy can add, would take more.
pub(super) const HEADER_MAX: usize = 4_096;

/// The first bytes of a version 2 header. No frame and no TLS record starts like this.
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of a version 1 header.
const VERSION_1: &[u8] = b"PROXY ";
/// The length of a header before its addresses and optional fields: the first bytes above, version
/// and command, family, and the length of the rest.
const FIXED_LEN: usize = 16;
/// The version and the command of a connection that a balancer makes for itself.
const LOCAL: u8 = 0x20;

/// The peer that sends the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A trusted load balancer, which must send a header first.
    Balancer,
    /// Any other peer, which must not send one.
    Other,
}

/// The meaning of the input so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It may become a header.
    Incomplete,
    /// It is not a header, and does not have to be one.
    Direct,
    /// It starts with a complete header of `len` bytes.
    Header {
        len: usize,
        /// The client's address; `None` if the balancer does not tell one, as for its own
        /// connections.
        client: Option<SocketAddr>,
    },
}

/// Reads the start of the input, which is not empty.
pub(super) fn read(sender: Sender, input: &[u8]) -> Result<Start, ProxyFault> {
    match (sender, signature(input)) {
        (_, Signature::Incomplete) => Ok(Start::Incomplete),
        (Sender::Other, Signature::None) => Ok(Start::Direct),
        (Sender::Other, Signature::Version1 | Signature::Version2) => Err(ProxyFault::NotTrusted),
        (Sender::Balancer, Signature::None) => Err(ProxyFault::Missing),
        (Sender::Balancer, Signature::Version1) => Err(ProxyFault::Version1),
        (Sender::Balancer, Signature::Version2) => read_version_2(input),
    }
}

/// The first bytes of the input.
enum Signature {
    /// The input is too short to tell.
    Incomplete,
    None,
    Version1,
    Version2,
}

fn signature(input: &[u8]) -> Signature {
    if input.starts_with(VERSION_2) {
        Signature::Version2
    } else if input.starts_with(VERSION_1) {
        Signature::Version1
    } else if VERSION_2.starts_with(input) || VERSION_1.starts_with(input) {
        Signature::Incomplete
    } else {
        Signature::None
    }
}

fn read_version_2(input: &[u8]) -> Result<Start, ProxyFault> {
    let Some([.., command, _, high, low]) = input.first_chunk::<FIXED_LEN>() else {
        return Ok(Start::Incomplete);
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([*high, *low]));
    if len > HEADER_MAX {
        return Err(ProxyFault::TooLong { len });
    }
    let Some(header) = input.get(..len) else {
        return Ok(Start::Incomplete);
    };
    // The rest of such a header has no meaning, whatever it contains.
    if *command == LOCAL {
        return Ok(Start::Header { len, client: None });
    }
    let client = client(header)?;
    Ok(Start::Header { len, client })
}

/// Returns the client's address in a complete header. It is `None` if the header names no address
/// of TCP: the balancer does not know it, or accepts clients over a Unix socket.
fn client(header: &[u8]) -> Result<Option<SocketAddr>, ProxyFault> {
    let config = ParseConfig {
        include_tlvs: false,
        allow_v1: false,
        allow_v2: true,
    };
    let (parsed, _) = ProxyHeader::parse(header, config).map_err(|_| ProxyFault::Invalid)?;
    let Some(addresses) = parsed.proxied_address() else {
        return Ok(None);
    };
    match addresses.protocol {
        Protocol::Datagram => Err(ProxyFault::Invalid),
        Protocol::Stream => {
            let source = addresses.source;
            let ip = source.ip().to_canonical();
            Ok(Some(SocketAddr::new(ip, source.port())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use tickstorm_testkit::proxy::{
        self, PROXY, SIGNATURE, TCP4, TCP6, UDP4, UNIX, UNSPEC, addresses, announce, announce_with,
        field,
    };

    use super::*;

    const V4: &str = "203.0.113.7:50001";
    const V6: &str = "[2001:db8::7]:50002";

    fn read_balancer(input: &[u8]) -> Result<Start, ProxyFault> {
        read(Sender::Balancer, input)
    }

    fn complete(header: &[u8], client: Option<&str>) -> Result<Start, ProxyFault> {
        Ok(Start::Header {
            len: header.len(),
            client: client.map(|client| client.parse().unwrap()),
        })
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_header_names_the_client_of_either_family_whatever_follows_it() {
        for client in [V4, V6] {
            let header = announce(addr(client));
            let expected = complete(&header, Some(client));
            assert_eq!(read_balancer(&header), expected);
            let followed = [&header[..], &header[..], b"\xF5\x7D"].concat();
            assert_eq!(read_balancer(&followed), expected);
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let header = announce(addr("[::ffff:203.0.113.7]:50001"));
        assert_eq!(read_balancer(&header), complete(&header, Some(V4)));
    }

    #[test]
    fn optional_fields_are_skipped_whether_or_not_they_are_valid() {
        let fields = [
            field(0x04, &[0; 50]),
            field(0x02, b"edge.example"),
            field(0xEE, &[]),
        ]
        .concat();
        for fields in [&fields[..], &fields[..7], b"\xFF\xFF\xFF"] {
            let header = announce_with(addr(V4), fields);
            assert_eq!(read_balancer(&header), complete(&header, Some(V4)));
        }
    }

    #[test]
    fn without_an_address_of_tcp_the_peers_own_address_stays() {
        let (_, block) = addresses(addr(V4));
        for header in [
            proxy::header(proxy::LOCAL, UNSPEC, &[]),
            proxy::header(proxy::LOCAL, UNSPEC, &field(0x04, &[0; 8])),
            proxy::header(proxy::LOCAL, TCP4, &block),
            proxy::header(proxy::LOCAL, 0xFF, &[1, 2, 3]),
            proxy::header(PROXY, UNSPEC, &[]),
            proxy::header(PROXY, UNSPEC, &block),
            proxy::header(PROXY, UNIX, &[b'/'; 216]),
        ] {
            assert_eq!(read_balancer(&header), complete(&header, None));
        }
    }

    #[test]
    fn an_invalid_header_is_refused() {
        let (_, block) = addresses(addr(V4));
        for header in [
            proxy::header(0x11, TCP4, &block),
            proxy::header(0x31, TCP4, &block),
            proxy::header(0x22, TCP4, &block),
            proxy::header(PROXY, 0x10, &block),
            proxy::header(PROXY, 0x13, &block),
            proxy::header(PROXY, 0x41, &block),
            proxy::header(PROXY, UDP4, &block),
            proxy::header(PROXY, TCP4, &block[..11]),
            proxy::header(PROXY, TCP6, &block),
            proxy::header(PROXY, UNIX, &[b'/'; 215]),
        ] {
            assert_eq!(read_balancer(&header), Err(ProxyFault::Invalid));
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_refused_as_soon_as_its_length_is_known() {
        let (_, block) = addresses(addr(V4));
        let longest = announce_with(addr(V4), &vec![0; HEADER_MAX - FIXED_LEN - block.len()]);
        assert_eq!(read_balancer(&longest), complete(&longest, Some(V4)));
        let longer = announce_with(addr(V4), &vec![0; HEADER_MAX - FIXED_LEN - block.len() + 1]);
        let len = HEADER_MAX + 1;
        assert_eq!(
            read_balancer(&longer[..FIXED_LEN]),
            Err(ProxyFault::TooLong { len })
        );
    }

    #[test]
    fn text_headers_are_refused_by_their_version() {
        let header = b"PROXY TCP4 203.0.113.7 192.0.2.80 50001 8080\r\n";
        for end in 1..=header.len() {
            let expected = match end {
                ..6 => Ok(Start::Incomplete),
                6.. => Err(ProxyFault::Version1),
            };
            assert_eq!(read_balancer(&header[..end]), expected, "{end} bytes");
        }
    }

    #[test]
    fn a_balancer_must_send_a_header_and_nobody_else_may() {
        let frame = b"\xF5\x7D\x01\x01";
        let client_hello = b"\x16\x03\x01\x02\x00";
        for other in [
            &frame[..],
            client_hello,
            b"\r\n\r\nQUIT",
            b"POST / HTTP/1.1",
            b"\n",
        ] {
            assert_eq!(read_balancer(other), Err(ProxyFault::Missing), "{other:?}");
            assert_eq!(read(Sender::Other, other), Ok(Start::Direct), "{other:?}");
        }
        for header in [announce(addr(V4)), proxy::header(proxy::LOCAL, UNSPEC, &[])] {
            for end in 1..=header.len() {
                let expected = if end < SIGNATURE.len() {
                    Ok(Start::Incomplete)
                } else {
                    Err(ProxyFault::NotTrusted)
                };
                assert_eq!(read(Sender::Other, &header[..end]), expected, "{end} bytes");
            }
        }
        assert_eq!(read(Sender::Other, b"PROXY "), Err(ProxyFault::NotTrusted));
    }

    fn any_client() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn a_header_is_incomplete_until_its_last_byte(
            client in any_client(),
            fields in prop::collection::vec(any::<u8>(), 0..100),
            following in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let header = announce_with(client, &fields);
            for end in 1..header.len() {
                prop_assert_eq!(read_balancer(&header[..end]), Ok(Start::Incomplete));
            }
            let read = read_balancer(&[&header[..], &following].concat());
            let ip = client.ip().to_canonical();
            let client = Some(SocketAddr::new(ip, client.port()));
            prop_assert_eq!(read, Ok(Start::Header { len: header.len(), client }));
        }

        #[test]
        fn a_perturbed_header_never_names_an_address_that_is_not_in_it(
            client in any_client(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut header = announce(client);
            let at = at.index(header.len());
            header[at] = byte;
            if let Ok(Start::Header { client: Some(named), .. }) = read_balancer(&header) {
                prop_assert!(header.starts_with(&SIGNATURE) && header[12] == PROXY);
                let mapped = match named.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                let (ip, port) = match header[13] {
                    TCP4 => (&header[16..20], &header[24..26]),
                    TCP6 => (&header[16..32], &header[48..50]),
                    family => return Err(TestCaseError::fail(format!("family {family}"))),
                };
                prop_assert!(mapped.ends_with(ip));
                prop_assert_eq!(port, named.port().to_be_bytes());
            }
        }

        #[test]
        fn random_bytes_are_judged_without_a_panic_and_never_differently_with_more_of_them(
            is_header in any::<bool>(),
            mut bytes in prop::collection::vec(any::<u8>(), 1..300),
        ) {
            if is_header {
                bytes.splice(0..0, SIGNATURE);
            }
            for sender in [Sender::Balancer, Sender::Other] {
                let whole = read(sender, &bytes);
                for end in 1..bytes.len() {
                    let part = read(sender, &bytes[..end]);
                    prop_assert!(part == Ok(Start::Incomplete) || part == whole);
                }
            }
        }
    }
}
