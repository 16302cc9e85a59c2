//! A session and rustls' client understand each other, whatever the sizes, splits and key updates.

use proptest::prelude::*;
use tickstorm_tls::Alert;

use crate::pair::{Pair, receive, sent};

#[derive(Clone, Debug)]
enum Action {
    /// The server sends this many bytes.
    Seal(usize),
    /// The client sends this many bytes, which arrive in pieces of this size.
    Open(usize, usize),
    /// The client updates its key, and requests the same of the server.
    ClientUpdatesKey,
    /// The server updates its key without having been asked.
    ServerUpdatesKey,
    /// The server sends the KeyUpdate that it owes or wants, and the client answers.
    Answer,
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![0_usize..200, 16_000_usize..17_000, Just(60_000)];
    prop_oneof![
        size.clone().prop_map(Action::Seal),
        (size, 1_usize..20_000).prop_map(|(size, piece)| Action::Open(size, piece)),
        Just(Action::ClientUpdatesKey),
        Just(Action::ServerUpdatesKey),
        Just(Action::Answer),
    ]
}

fn data(size: usize, seed: usize) -> Vec<u8> {
    (0..size)
        .map(|n| u8::try_from((n * 7 + seed) % 251).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_read_what_the_other_sent(
        actions in prop::collection::vec(action(), 1..30),
        records_max in prop_oneof![4_u64..50, Just(u64::MAX)],
    ) {
        let mut pair = Pair::connect(records_max);
        for (seed, action) in actions.into_iter().enumerate() {
            match action {
                Action::Seal(size) => {
                    let data = data(size, seed);
                    prop_assert_eq!(pair.server_sends(&data), data);
                }
                Action::Open(size, piece) => {
                    let data = data(size, seed);
                    std::io::Write::write_all(&mut pair.client.writer(), &data).unwrap();
                    let mut opened = Vec::new();
                    for bytes in sent(&mut pair.client).chunks(piece) {
                        pair.input.extend_from_slice(bytes);
                        opened.extend(pair.open().unwrap());
                    }
                    prop_assert_eq!(opened, data);
                }
                Action::ClientUpdatesKey => {
                    pair.client.refresh_traffic_keys().unwrap();
                    prop_assert_eq!(pair.client_sends(b"x").unwrap(), b"x");
                    prop_assert!(pair.session.has_control());
                }
                Action::Answer => {
                    if pair.session.has_control() {
                        let mut output = Vec::new();
                        pair.session.seal_control(&mut output).unwrap();
                        receive(&mut pair.client, &output);
                        prop_assert!(pair.client_sends(b"y").is_ok_and(|opened| opened == b"y"));
                        prop_assert!(records_max < u64::MAX || !pair.session.has_control());
                    }
                }
                Action::ServerUpdatesKey => {
                    let mut output = Vec::new();
                    pair.session.seal_control(&mut output).unwrap();
                    receive(&mut pair.client, &output);
                }
            }
        }
        let mut output = Vec::new();
        pair.session.seal_alert(Alert::CloseNotify, &mut output).unwrap();
        let mut bytes = &output[..];
        pair.client.read_tls(&mut bytes).unwrap();
        prop_assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn a_changed_byte_never_opens(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut pair = Pair::connect(u64::MAX);
        std::io::Write::write_all(&mut pair.client.writer(), b"authentic").unwrap();
        let mut bytes = sent(&mut pair.client);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        pair.input.extend_from_slice(&bytes);
        // A changed length may leave the record incomplete; nothing is opened in any case.
        prop_assert!(pair.open().map_or(true, |opened| opened.is_empty()));
    }
}
