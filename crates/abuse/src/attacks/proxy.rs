//! Attacks with headers of the PROXY protocol.

use std::time::Duration;

use super::{Ingredients, cut};
use crate::script::{Script, Step};
use crate::wire;

/// The first bytes of a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// TCP over IPv4.
const TCP4: u8 = 0x11;
/// Addresses and ports of the documentation networks.
const ADDRESSES: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x9C, 0x40, 0x1F, 0x90];

/// Returns headers, right and wrong ones, from an address that is not trusted.
pub(super) fn from_anywhere(ingredients: &Ingredients) -> Vec<Script> {
    let mut scripts = from_a_balancer(ingredients);
    scripts.push(with_header(header(PROXY, TCP4, &ADDRESSES)));
    scripts.push(with_header(header(0x20, 0, &[])));
    scripts
}

/// Returns wrong headers from a trusted address, and connections without one.
pub(super) fn from_a_balancer(_: &Ingredients) -> Vec<Script> {
    let good = header(PROXY, TCP4, &ADDRESSES);
    let slow = Step::Trickle(good.clone().into(), Duration::from_millis(700));
    let truncated = [Step::Send(good[..14].into()), Step::HalfClose, Step::Hold];
    let mut scripts: Vec<Script> = wrong_headers().into_iter().map(with_header).collect();
    scripts.extend([
        Script::new([slow, Step::ShakeHands, Step::Auth]),
        Script::new(truncated),
        Script::new([Step::Send(cut(good).into()), Step::Hold]),
        Script::new([Step::ShakeHands, Step::Auth]),
        Script::new([Step::Send(wire::heartbeat().into())]),
    ]);
    scripts
}

fn wrong_headers() -> Vec<Vec<u8>> {
    let good = header(PROXY, TCP4, &ADDRESSES);
    let mut damaged = good.clone();
    damaged[5] ^= 1;
    // A TLV of 65,535 bytes, none of which follows.
    let tlv = [&ADDRESSES[..], &[0x04, 0xFF, 0xFF]].concat();
    vec![
        b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 8080\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        header(0x11, TCP4, &ADDRESSES),
        header(0x31, TCP4, &ADDRESSES),
        header(0x2F, TCP4, &ADDRESSES),
        header(PROXY, 0x51, &ADDRESSES),
        header(PROXY, TCP4, &ADDRESSES[..4]),
        header(PROXY, 0x21, &ADDRESSES),
        header(PROXY, TCP4, &tlv),
        header(PROXY, TCP4, &vec![0; usize::from(u16::MAX)]),
        damaged,
        [good.clone(), good].concat(),
    ]
}

/// Returns a header of version 2.
fn header(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    [&SIGNATURE[..], &[command, family], &len, content].concat()
}

/// Returns a client that behaves well after its header.
fn with_header(header: Vec<u8>) -> Script {
    Script::new([Step::Send(header.into()), Step::ShakeHands, Step::Auth])
}
