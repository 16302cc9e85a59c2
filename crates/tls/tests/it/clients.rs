//! The client's side against this crate's server: how the load generator uses it.

use std::sync::Arc;

use aws_lc_rs::aead::{Aad, Nonce};
use proptest::collection::vec;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use tickstorm_tls::{
    Alert, ClientHandshake, ClientSession, Handshake, HandshakeError, HandshakeProgress, OpenError,
    Opened, Session,
};

use crate::pair::configs;

/// An established connection with both sides of this crate.
struct BothSides {
    server: Session,
    client: ClientSession,
}

/// Connects. Each side receives at most `step` bytes at a time.
fn connect(step: usize, records_max: u64) -> BothSides {
    let (server, mut client) = configs();
    client.enable_secret_extraction = true;
    let mut server = Handshake::with_records_max(server, records_max).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut client = ClientHandshake::start(Arc::new(client), name, &mut to_server).unwrap();
    let (mut served, mut connected) = (None, None);
    for _ in 0..100_000 {
        (served, connected) = match (served, connected) {
            (Some(server), Some(client)) => return BothSides { server, client },
            incomplete => incomplete,
        };
        let bytes: Vec<u8> = to_server.drain(..step.min(to_server.len())).collect();
        if !bytes.is_empty()
            && let HandshakeProgress::Established(established) =
                server.handle_input(&bytes, &mut to_client).unwrap()
        {
            assert!(established.unread.is_empty());
            served = Some(*established.session);
        }
        let bytes: Vec<u8> = to_client.drain(..step.min(to_client.len())).collect();
        if !bytes.is_empty()
            && let HandshakeProgress::Established(established) =
                client.handle_input(&bytes, &mut to_server).unwrap()
        {
            assert!(established.unread.is_empty());
            assert!(established.peer_certificate.is_some());
            connected = Some(*established.session);
        }
    }
    panic!("the handshake does not end");
}

/// Opens all records of `input`, which is at the end of a record.
fn open<D>(session: &mut Session<D>, mut input: Vec<u8>) -> Result<Vec<u8>, OpenError> {
    let (mut opened, mut at) = (Vec::new(), 0);
    while let Opened::Record { record, content } = session.open(&mut input[at..])? {
        opened.extend_from_slice(&input[at..][content]);
        at += record;
    }
    assert_eq!(at, input.len());
    Ok(opened)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Keys last for 8 records here, so that both sides replace them all the time.
    #[test]
    fn both_sides_read_what_the_other_sent(
        step in 1..4_000_usize,
        messages in vec((any::<bool>(), vec(any::<u8>(), 0..20_000)), 0..40),
    ) {
        let BothSides { mut server, mut client } = connect(step, 8);
        for (is_server, data) in messages {
            let mut sealed = Vec::new();
            let opened = if is_server {
                server.seal(&data, &mut sealed).unwrap();
                open(&mut client, sealed).unwrap()
            } else {
                client.seal(&data, &mut sealed).unwrap();
                open(&mut server, sealed).unwrap()
            };
            prop_assert!(opened == data);
        }
    }
}

#[test]
fn a_client_answers_a_request_for_new_keys_with_its_next_data() {
    let BothSides {
        mut server,
        mut client,
    } = connect(usize::MAX, 8);
    for round in 0..100_u8 {
        let mut sealed = Vec::new();
        client.seal(&[round], &mut sealed).unwrap();
        assert_eq!(open(&mut server, sealed).unwrap(), [round]);
        if server.has_control() {
            let mut control = Vec::new();
            server.seal_control(&mut control).unwrap();
            assert_eq!(open(&mut client, control).unwrap(), []);
        }
    }
}

#[test]
fn close_notify_of_the_server_is_an_orderly_end() {
    let BothSides {
        mut server,
        mut client,
    } = connect(1, u64::MAX);
    let mut sealed = Vec::new();
    server.seal_alert(Alert::CloseNotify, &mut sealed).unwrap();
    assert_eq!(client.open(&mut sealed), Ok(Opened::Closed));
}

#[test]
fn a_server_of_another_name_is_refused_with_an_alert() {
    let (server, mut client) = configs();
    client.enable_secret_extraction = true;
    let mut server = Handshake::new(server).unwrap();
    let name = ServerName::try_from("elsewhere.example").unwrap();
    let (mut hello, mut answer, mut alert) = (Vec::new(), Vec::new(), Vec::new());
    let mut client = ClientHandshake::start(Arc::new(client), name, &mut hello).unwrap();
    assert!(server.handle_input(&hello, &mut answer).is_ok());
    let refused = client.handle_input(&answer, &mut alert);
    let Err(HandshakeError::Tls(rustls::Error::InvalidCertificate(_))) = refused else {
        panic!("the client must refuse the certificate");
    };
    assert!(server.handle_input(&alert, &mut Vec::new()).is_err());
}

#[test]
fn records_that_a_bare_loop_seals_with_a_lent_key_fit_between_others() {
    let BothSides {
        mut server,
        mut client,
    } = connect(usize::MAX, u64::MAX);
    for round in 0..10_u8 {
        let mut sealed = Vec::new();
        server.seal(&[round], &mut sealed).unwrap();
        assert_eq!(open(&mut client, sealed).unwrap(), [round]);
        let lent = server.bare_sealing();
        let mut nonce = lent.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(lent.count.to_be_bytes()) {
            *byte ^= count;
        }
        *lent.count += 1;
        let header = [23, 3, 3, 0, 18];
        let (mut record, mut inner) = (header.to_vec(), vec![round, 23]);
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(header));
        lent.context
            .seal_in_place_append_tag(nonce, aad, &mut inner)
            .unwrap();
        record.append(&mut inner);
        assert_eq!(open(&mut client, record).unwrap(), [round]);
    }
}
