//! Handshakes: byte by byte, followed by data, refused, and broken off.

use std::io::Write as _;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, SignatureScheme};
use tickstorm_tls::{
    Handshake, HandshakeError, HandshakeProgress, Opened, provider, server_config,
};

use crate::pair::{certificate, client, configs, receive, sent};

#[test]
fn bytes_may_arrive_one_by_one_and_messages_in_fragments() {
    for fragment in [None, Some(32), Some(100)] {
        let (server, mut config) = configs();
        config.max_fragment_size = fragment;
        let (handshake, client) = (Handshake::new(server).unwrap(), client(config));
        shake_hands_byte_by_byte(handshake, client);
    }
}

fn shake_hands_byte_by_byte(mut handshake: Handshake, mut client: ClientConnection) {
    for _ in 0..3 {
        let mut output = Vec::new();
        for byte in sent(&mut client) {
            let progress = handshake.handle_input(&[byte], &mut output).unwrap();
            if let HandshakeProgress::Established(established) = progress {
                assert!(established.unread.is_empty());
                assert!(established.peer_certificate.is_none());
                return;
            }
        }
        receive(&mut client, &output);
    }
    panic!("the handshake does not end");
}

#[test]
fn data_that_follows_the_handshake_in_the_same_segment_is_carried_over() {
    let (server, config) = configs();
    let mut client = client(config);
    let mut handshake = Handshake::new(server).unwrap();
    let mut output = Vec::new();
    let _ = handshake
        .handle_input(&sent(&mut client), &mut output)
        .unwrap();
    receive(&mut client, &output);
    client.writer().write_all(b"AUTH").unwrap();
    let mut bytes = sent(&mut client);
    bytes.extend_from_slice(&[23, 3]);
    let progress = handshake.handle_input(&bytes, &mut output).unwrap();
    let HandshakeProgress::Established(established) = progress else {
        panic!("the handshake is not complete");
    };
    let (mut session, mut unread) = (established.session, established.unread);
    let Opened::Record { record, content } = session.open(&mut unread).unwrap() else {
        panic!("no record");
    };
    assert_eq!(&unread[content], b"AUTH");
    unread.drain(..record);
    assert_eq!(unread, [23, 3]);
    assert_eq!(session.open(&mut unread), Ok(Opened::Incomplete));
}

/// Does a handshake, and returns its outcome for the server and whether the client accepts it.
fn outcome(
    server: rustls::ServerConfig,
    config: ClientConfig,
) -> (
    Result<Option<CertificateDer<'static>>, HandshakeError>,
    Result<(), rustls::Error>,
) {
    let mut client = client(config);
    let mut handshake = Handshake::new(Arc::new(server)).unwrap();
    for _ in 0..4 {
        let mut output = Vec::new();
        let progress = handshake.handle_input(&sent(&mut client), &mut output);
        let mut bytes = &output[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            if let Err(error) = client.process_new_packets() {
                return (progress.map(|_| None), Err(error));
            }
        }
        match progress {
            Ok(HandshakeProgress::InProgress) => {}
            Ok(HandshakeProgress::Established(established)) => {
                return (Ok(established.peer_certificate), Ok(()));
            }
            Err(error) => return (Err(error), Ok(())),
        }
    }
    panic!("the handshake does not end");
}

fn trusting(certificate: &CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    Arc::new(roots)
}

#[test]
fn a_client_certificate_is_required_checked_and_returned() {
    let (server_certificate, server_key) = certificate();
    let (client_certificate, client_key) = certificate();
    let server = |trusted: &CertificateDer<'static>| {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(trusting(trusted), Arc::new(provider()));
        let verifier = verifier.build().unwrap();
        let chain = vec![server_certificate.clone()];
        server_config(chain, server_key.clone_key(), Some(verifier)).unwrap()
    };
    let builder = || {
        ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusting(&server_certificate))
    };
    let with_certificate = || {
        builder()
            .with_client_auth_cert(vec![client_certificate.clone()], client_key.clone_key())
            .unwrap()
    };
    let (accepted, _) = outcome(server(&client_certificate), with_certificate());
    assert_eq!(accepted.unwrap().as_ref(), Some(&client_certificate));
    let (refused, client_error) = outcome(server(&server_certificate), with_certificate());
    assert!(refused.is_err());
    assert!(
        matches!(client_error, Err(rustls::Error::AlertReceived(_))),
        "{client_error:?}"
    );
    let (refused, client_error) =
        outcome(server(&client_certificate), builder().with_no_client_auth());
    assert!(matches!(
        refused,
        Err(HandshakeError::Tls(rustls::Error::NoCertificatesPresented))
    ));
    assert!(
        matches!(client_error, Err(rustls::Error::AlertReceived(_))),
        "{client_error:?}"
    );
}

#[test]
fn what_a_client_sends_after_the_answer_counts_as_buffered_because_its_chain_is_kept() {
    let (server, _) = configs();
    let mut handshake = Handshake::new(server).unwrap();
    let (_, config) = configs();
    let hello = sent(&mut client(config));
    let _ = handshake.handle_input(&hello, &mut Vec::new()).unwrap();
    let before = handshake.buffered();
    // The start of a record.
    let _ = handshake
        .handle_input(&[23, 3, 3, 0x40, 0], &mut Vec::new())
        .unwrap();
    assert!(handshake.buffered() >= before + 5);
}

/// The error occurs after the ServerHello, which must be sent for the client to understand the
/// alert.
#[test]
fn a_client_that_cannot_verify_the_signature_gets_an_alert() {
    let (server, _) = configs();
    let mut limited = provider();
    let all = limited.signature_verification_algorithms;
    let ed25519 = all
        .mapping
        .iter()
        .position(|(scheme, _)| *scheme == SignatureScheme::ED25519);
    let ed25519 = ed25519.unwrap();
    limited.signature_verification_algorithms.mapping = &all.mapping[ed25519..=ed25519];
    let config = ClientConfig::builder_with_provider(Arc::new(limited))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let (refused, client_error) = outcome((*server).clone(), config);
    assert!(matches!(
        refused,
        Err(HandshakeError::Tls(rustls::Error::PeerIncompatible(_)))
    ));
    let alert = rustls::Error::AlertReceived(AlertDescription::HandshakeFailure);
    assert_eq!(client_error, Err(alert));
}

#[test]
fn garbage_gets_an_alert_and_endless_input_is_bounded() {
    let (server, _) = configs();
    let mut output = Vec::new();
    let mut handshake = Handshake::new(Arc::clone(&server)).unwrap();
    let garbage = handshake.handle_input(b"GET / HTTP/1.1\r\n\r\n", &mut output);
    assert!(matches!(garbage, Err(HandshakeError::Tls(_))));
    assert_eq!(output[0], 21, "an alert: {output:?}");
    assert!(matches!(
        handshake.handle_input(b"", &mut output),
        Err(HandshakeError::Ended)
    ));
    // The start of a ClientHello of 64 KB, in records of 1 KB that never complete it.
    let mut record = vec![22, 3, 1, 4, 0];
    record.resize(5 + 1_024, 0);
    record[5..9].copy_from_slice(&[1, 0, 0xff, 0xff]);
    let accepted = |mut handshake: Handshake| {
        let mut input = || handshake.handle_input(&record, &mut Vec::new()).err();
        let accepted = (0..100).take_while(|_| input().is_none()).count();
        accepted * record.len()
    };
    let handshake = || Handshake::new(Arc::clone(&server)).unwrap();
    let accepted = [
        accepted(handshake()),
        accepted(handshake().without_client_certificate()),
    ];
    assert!((23_000..=24_576).contains(&accepted[0]), "{accepted:?}");
    assert!((17_000..=18_432).contains(&accepted[1]), "{accepted:?}");
}

#[test]
fn empty_records_too_long_ones_and_too_many_are_refused_immediately() {
    let (server, config) = configs();
    let mut client = client(config);
    let hello = sent(&mut client);
    // A ClientHello of 2,048 bytes, in fragments of one byte.
    let start = [1, 0, 8, 0]
        .into_iter()
        .chain(std::iter::repeat_n(0, 1_100));
    let tiny: Vec<u8> = start.flat_map(|byte| [22, 3, 3, 0, 1, byte]).collect();
    for (input, alert, what) in [
        (vec![22, 3, 3, 0, 0], 10, "empty"),
        (vec![22, 3, 3, 0x48, 0], 22, "too long"),
        (tiny, 10, "too many"),
    ] {
        let refuse = |mut handshake: Handshake, input: &[u8]| {
            let mut output = Vec::new();
            let refused = handshake.handle_input(input, &mut output).err();
            assert!(
                matches!(refused, Some(HandshakeError::InvalidRecord)),
                "{what}: {refused:?}"
            );
            output
        };
        let first = Handshake::new(Arc::clone(&server)).unwrap();
        assert_eq!(refuse(first, &input), [21, 3, 3, 0, 2, 2, alert], "{what}");
        let mut answered = Handshake::new(Arc::clone(&server)).unwrap();
        let _ = answered.handle_input(&hello, &mut Vec::new()).unwrap();
        if what != "too many" {
            assert!(
                refuse(answered, &input).is_empty(),
                "{what}: no plain alert"
            );
        }
    }
}
