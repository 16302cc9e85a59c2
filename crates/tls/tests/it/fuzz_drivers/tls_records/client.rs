//! [`Client`]: what the client sends, and the keys with which it seals.

use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError};
use tickstorm_tls::{Handshake, HandshakeProgress};

use super::fixed;

/// The number of keys that are prepared. A server refuses to replace keys that often in a row.
pub(super) const KEYS: usize = 100;

/// The client's side of a handshake that is the same every time.
pub(super) struct Client {
    /// The records before the server's answer.
    pub(super) hello: Vec<u8>,
    /// The records after it.
    pub(super) finished: Vec<u8>,
    /// The keys in their order; a KeyUpdate leads to the next one.
    keys: Vec<(LessSafeKey, [u8; 12])>,
}

impl Client {
    pub(super) fn fixed() -> &'static Self {
        static CLIENT: OnceLock<Client> = OnceLock::new();
        CLIENT.get_or_init(Self::shake_hands)
    }

    /// Returns the record that completes the handshake.
    pub(super) fn finished_record(&self) -> &[u8] {
        let mut rest = &self.finished[..];
        loop {
            let len = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            if len == rest.len() {
                return rest;
            }
            rest = &rest[len..];
        }
    }

    /// Seals `inner`, which includes the content type and padding, as record `count` of a key.
    pub(super) fn seal(&self, key: usize, count: u64, inner: &[u8]) -> Vec<u8> {
        let (key, iv) = &self.keys[key % KEYS];
        let len = u16::try_from(inner.len() + 16)
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        let header = [23, 3, 3, len[0], len[1]];
        let mut nonce = *iv;
        for (byte, count) in nonce[4..].iter_mut().zip(count.to_be_bytes()) {
            *byte ^= count;
        }
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(header));
        let mut sealed = inner.to_vec();
        key.seal_in_place_append_tag(nonce, aad, &mut sealed)
            .expect("a short record");
        [&header[..], &sealed].concat()
    }

    fn shake_hands() -> Self {
        let name = ServerName::try_from("localhost").expect("a valid name");
        let client = UnbufferedClientConnection::new(fixed::client_config(), name);
        let mut client = client.expect("a usable configuration");
        let mut server = Handshake::new(fixed::server_config()).expect("a usable configuration");
        let mut answers = Vec::new();
        let hello = send(&mut client, &mut answers);
        let progress = server.handle_input(&hello, &mut answers);
        assert!(matches!(progress, Ok(HandshakeProgress::InProgress)));
        let finished = send(&mut client, &mut answers);
        let progress = server.handle_input(&finished, &mut answers);
        assert!(matches!(progress, Ok(HandshakeProgress::Established(_))));
        let (secrets, mut kernel) = client
            .dangerous_into_kernel_connection()
            .expect("a complete handshake");
        let mut keys = vec![key(&secrets.tx.1)];
        while keys.len() < KEYS {
            let (_, secrets) = kernel.update_tx_secret().expect("the next key");
            keys.push(key(&secrets));
        }
        Self {
            hello,
            finished,
            keys,
        }
    }
}

/// Returns what the client sends after it has read `input`.
fn send(client: &mut UnbufferedClientConnection, input: &mut Vec<u8>) -> Vec<u8> {
    let mut output = Vec::new();
    loop {
        let status = client.process_tls_records(input);
        let discard = status.discard;
        let state = status.state.expect("a proper handshake");
        let is_waiting = matches!(
            state,
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)
        );
        if let ConnectionState::EncodeTlsData(mut data) = state {
            let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
                panic!("nothing to encode");
            };
            let start = output.len();
            output.resize(start + size.required_size, 0);
            data.encode(&mut output[start..]).expect("enough room");
        } else if let ConnectionState::TransmitTlsData(data) = state {
            data.done();
        }
        input.drain(..discard);
        if is_waiting {
            return output;
        }
    }
}

fn key(secrets: &ConnectionTrafficSecrets) -> (LessSafeKey, [u8; 12]) {
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
        panic!("another suite than the first one");
    };
    let unbound = UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a key of this length");
    let iv = iv.as_ref().try_into().expect("an IV of twelve bytes");
    (LessSafeKey::new(unbound), iv)
}
