//! Records that no proper client sends, and rare ones that are allowed. The client's side is
//! forged with its traffic secrets.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError};
use tickstorm_tls::{Alert, Handshake, HandshakeProgress, OpenError, Opened, Session};

use crate::pair::configs;

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const DATA: u8 = 23;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// A client that seals any content as any type.
struct Forger {
    key: LessSafeKey,
    iv: Vec<u8>,
    count: u64,
    kernel: KernelConnection<rustls::client::ClientConnectionData>,
}

impl Forger {
    fn use_secrets(&mut self, (count, secrets): (u64, ConnectionTrafficSecrets)) {
        (self.key, self.iv) = key(&secrets);
        self.count = count;
    }

    /// Seals `inner`, which includes the content type and padding.
    fn seal_inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let len = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, len[0], len[1]];
        let mut nonce: [u8; 12] = self.iv.as_slice().try_into().unwrap();
        for (byte, count) in nonce[4..].iter_mut().zip(self.count.to_be_bytes()) {
            *byte ^= count;
        }
        self.count += 1;
        let mut sealed = inner.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed)
            .unwrap();
        [&header[..], &sealed].concat()
    }

    fn seal(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        self.seal_inner(&[content, &[content_type]].concat())
    }

    /// Replaces the key, as after a KeyUpdate.
    fn update(&mut self) {
        let secrets = self.kernel.update_tx_secret().unwrap();
        self.use_secrets(secrets);
    }
}

fn key(secrets: &ConnectionTrafficSecrets) -> (LessSafeKey, Vec<u8>) {
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
        panic!("another suite than the first one");
    };
    let unbound = UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap();
    (LessSafeKey::new(unbound), iv.as_ref().to_vec())
}

/// Does the handshake, and returns the server's session with the secrets of the client.
fn connect() -> (Session, Forger) {
    let (server, mut config) = configs();
    config.enable_secret_extraction = true;
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = UnbufferedClientConnection::new(Arc::new(config), name).unwrap();
    let mut handshake = Handshake::new(server).unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut session = None;
    loop {
        let status = client.process_tls_records(&mut to_client);
        let discard = status.discard;
        let state = status.state.unwrap();
        let is_complete = matches!(state, ConnectionState::WriteTraffic(_));
        if let ConnectionState::EncodeTlsData(mut data) = state {
            let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
                panic!("nothing to encode");
            };
            let start = to_server.len();
            to_server.resize(start + size.required_size, 0);
            data.encode(&mut to_server[start..]).unwrap();
        } else if let ConnectionState::TransmitTlsData(data) = state {
            data.done();
        }
        to_client.drain(..discard);
        let bytes = std::mem::take(&mut to_server);
        if !bytes.is_empty()
            && let HandshakeProgress::Established(established) =
                handshake.handle_input(&bytes, &mut to_client).unwrap()
        {
            assert!(established.unread.is_empty());
            session = Some(*established.session);
        }
        if is_complete && session.is_some() {
            break;
        }
    }
    let (secrets, kernel) = client.dangerous_into_kernel_connection().unwrap();
    let (key, iv) = key(&secrets.tx.1);
    let count = secrets.tx.0;
    let forger = Forger {
        key,
        iv,
        count,
        kernel,
    };
    (session.unwrap(), forger)
}

/// Opens all records of `input`.
fn open(session: &mut Session, mut input: Vec<u8>) -> Result<Vec<u8>, OpenError> {
    let mut opened = Vec::new();
    while let Opened::Record { record, content } = session.open(&mut input)? {
        opened.extend_from_slice(&input[content]);
        input.drain(..record);
    }
    Ok(opened)
}

fn refusal(input: impl FnOnce(&mut Forger) -> Vec<u8>) -> Option<Alert> {
    let (mut session, mut forger) = connect();
    let error = open(&mut session, input(&mut forger)).unwrap_err();
    let after = forger.seal(DATA, b"more");
    assert_eq!(open(&mut session, after), Err(OpenError::Closed));
    error.alert()
}

#[test]
fn padding_is_removed_and_empty_records_are_skipped() {
    let (mut session, mut forger) = connect();
    let mut input = forger.seal(DATA, b"");
    input.extend(forger.seal_inner(&[b"padded".as_slice(), &[DATA], &[0; 300]].concat()));
    input.extend(forger.seal_inner(&[&[DATA][..], &[0; 50]].concat()));
    input.extend(forger.seal(DATA, b" and plain"));
    assert_eq!(open(&mut session, input).unwrap(), b"padded and plain");
}

#[test]
fn a_key_update_may_be_split_and_takes_effect_with_the_next_record() {
    for at in 1..KEY_UPDATE.len() {
        let (mut session, mut forger) = connect();
        let mut input = forger.seal(HANDSHAKE, &KEY_UPDATE[..at]);
        input.extend(forger.seal(HANDSHAKE, &KEY_UPDATE[at..]));
        forger.update();
        input.extend(forger.seal(DATA, b"new key"));
        assert_eq!(open(&mut session, input).unwrap(), b"new key");
        assert!(!session.has_control(), "no update was requested");
    }
}

#[test]
fn many_requests_for_an_update_get_one_answer() {
    let (mut session, mut forger) = connect();
    for _ in 0..20 {
        let input = forger.seal(HANDSHAKE, &[24, 0, 0, 1, 1]);
        forger.update();
        assert_eq!(open(&mut session, input).unwrap(), b"");
    }
    assert!(session.has_control());
    session.seal_control(&mut Vec::new()).unwrap();
    assert!(!session.has_control());
}

#[test]
fn key_updates_are_bounded_even_with_data_between_them() {
    let (mut session, mut forger) = connect();
    let refused = (0..200).find_map(|_| {
        let mut input = forger.seal(DATA, b"x");
        input.extend(forger.seal(HANDSHAKE, &KEY_UPDATE));
        forger.update();
        open(&mut session, input).err()
    });
    let alert = refused.and_then(|error| error.alert());
    assert_eq!(alert, Some(Alert::UnexpectedMessage));
}

#[test]
fn records_that_break_the_protocol_are_refused_with_the_fitting_alert() {
    let unexpected = Some(Alert::UnexpectedMessage);
    let plain = |content_type: u8| vec![content_type, 3, 3, 0, 1, 1];
    assert_eq!(refusal(|_| plain(20)), unexpected, "ChangeCipherSpec");
    assert_eq!(refusal(|_| plain(21)), unexpected, "an alert in plain text");
    assert_eq!(refusal(|_| b"GET / HTTP/1.1".to_vec()), unexpected);
    for content_type in [1, 20, 24, 255] {
        let forge = |forger: &mut Forger| forger.seal(content_type, b"?");
        assert_eq!(refusal(forge), unexpected, "type {content_type}");
    }
    assert_eq!(refusal(|f| f.seal_inner(&[0; 40])), unexpected, "no type");
    assert_eq!(refusal(|f| f.seal(HANDSHAKE, b"")), unexpected);
    assert_eq!(
        refusal(|f| f.seal(HANDSHAKE, &[4, 0, 0, 1, 0])),
        unexpected,
        "a session ticket"
    );
    assert_eq!(
        refusal(|f| f.seal(HANDSHAKE, &[&KEY_UPDATE[..], &KEY_UPDATE].concat())),
        unexpected,
        "two messages around a change of keys"
    );
    let interleaved = |f: &mut Forger| {
        let mut input = f.seal(HANDSHAKE, &KEY_UPDATE[..2]);
        input.extend(f.seal(DATA, b"x"));
        input
    };
    assert_eq!(refusal(interleaved), unexpected);
    assert_eq!(
        refusal(|f| f.seal(HANDSHAKE, &[24, 0, 0, 2, 0, 0])),
        Some(Alert::DecodeError)
    );
    assert_eq!(
        refusal(|f| f.seal(HANDSHAKE, &[24, 0, 0, 1, 2])),
        Some(Alert::IllegalParameter)
    );
    assert_eq!(
        refusal(|f| f.seal(ALERT, &[1])),
        Some(Alert::DecodeError),
        "half an alert"
    );
    let overflow = Some(Alert::RecordOverflow);
    assert_eq!(refusal(|_| vec![DATA, 3, 3, 0x41, 0x01]), overflow);
    assert_eq!(refusal(|f| f.seal(DATA, &[7; (1 << 14) + 1])), overflow);
    let too_short = |_: &mut Forger| vec![DATA, 3, 3, 0, 4, 1, 2, 3, 4];
    assert_eq!(refusal(too_short), Some(Alert::BadRecordMac));
    let repeated = |f: &mut Forger| {
        let record = f.seal(DATA, b"once");
        [record.clone(), record].concat()
    };
    assert_eq!(refusal(repeated), Some(Alert::BadRecordMac));
}

#[test]
fn records_without_data_are_bounded() {
    let empty = |f: &mut Forger, count: usize| -> Vec<u8> {
        (0..count).flat_map(|_| f.seal(DATA, b"")).collect()
    };
    let (mut session, mut forger) = connect();
    for _ in 0..3 {
        let mut input = empty(&mut forger, 32);
        input.extend(forger.seal(DATA, b"x"));
        assert_eq!(open(&mut session, input).unwrap(), b"x");
    }
    assert_eq!(
        refusal(|forger| empty(forger, 33)),
        Some(Alert::UnexpectedMessage)
    );
}

#[test]
fn alerts_of_the_peer_end_the_connection_as_they_say() {
    let (mut session, mut forger) = connect();
    let mut input = forger.seal(ALERT, &[1, 90]);
    input.extend(forger.seal(DATA, b"x"));
    assert_eq!(open(&mut session, input).unwrap(), b"x", "user_canceled");
    let mut input = forger.seal(ALERT, &[1, 0]);
    assert_eq!(session.open(&mut input), Ok(Opened::Closed));
    let (mut session, mut forger) = connect();
    let input = forger.seal(ALERT, &[2, 80]);
    let error = open(&mut session, input).unwrap_err();
    assert_eq!(error, OpenError::Alert(80));
    assert_eq!(error.alert(), None, "an alert is not answered");
}
