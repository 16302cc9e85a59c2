//! Headers of the PROXY protocol as [its
//! specification](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt) defines them,
//! including invalid ones. Nothing here uses the edge's own parser, so that the two check each
//! other.

use std::net::{IpAddr, SocketAddr};

/// The first 12 bytes of each header of version 2.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, for a connection that the balancer makes for itself.
pub const LOCAL: u8 = 0x20;
/// Version 2, for a connection of a client.
pub const PROXY: u8 = 0x21;

/// No address.
pub const UNSPEC: u8 = 0x00;
/// TCP over IPv4.
pub const TCP4: u8 = 0x11;
/// UDP over IPv4.
pub const UDP4: u8 = 0x12;
/// TCP over IPv6.
pub const TCP6: u8 = 0x21;
/// A Unix socket.
pub const UNIX: u8 = 0x31;

/// The address that clients connect to, in the headers of [`announce`].
const DESTINATION: [u8; 4] = [192, 0, 2, 80];
const DESTINATION_PORT: u16 = 8_080;

/// Returns a header with this version and command, this family, and the bytes that follow its
/// length.
///
/// # Panics
/// Panics if there are more than 65,535 of them.
#[must_use]
pub fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("a length of two bytes");
    [&SIGNATURE[..], &[command, family], &len.to_be_bytes(), rest].concat()
}

/// Returns the header that a balancer sends for a client, without optional fields.
#[must_use]
pub fn announce(client: SocketAddr) -> Vec<u8> {
    announce_with(client, &[])
}

/// Returns the header that a balancer sends for a client, with optional fields.
#[must_use]
pub fn announce_with(client: SocketAddr, fields: &[u8]) -> Vec<u8> {
    let (family, addresses) = addresses(client);
    header(PROXY, family, &[&addresses, fields].concat())
}

/// Returns an optional field.
///
/// # Panics
/// Panics if the value is longer than 65,535 bytes.
#[must_use]
pub fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("a length of two bytes");
    [&[kind], &len.to_be_bytes()[..], value].concat()
}

/// Returns the family of an address, and the block of addresses in which it is the client's.
#[must_use]
pub fn addresses(client: SocketAddr) -> (u8, Vec<u8>) {
    let ports = [client.port(), DESTINATION_PORT].map(u16::to_be_bytes);
    match client.ip() {
        IpAddr::V4(ip) => {
            let block = [&ip.octets(), &DESTINATION[..], &ports.concat()];
            (TCP4, block.concat())
        }
        IpAddr::V6(ip) => {
            let block = [&ip.octets(), &[0; 15][..], &[1], &ports.concat()];
            (TCP6, block.concat())
        }
    }
}
