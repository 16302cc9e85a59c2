//! TLS records that no proper client sends, sealed with the keys of a real session.

use anyhow::anyhow;
use aws_lc_rs::aead::{Aad, Nonce};
use tickstorm_tls::ClientSession;

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// The handshake message KeyUpdate with `update_requested` (RFC 8446, section 4.6.3).
const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
/// The length of an authentication tag.
const TAG: usize = 16;

/// Appends a KeyUpdate that requests one from the edge, and replaces the sealing key.
pub(super) fn key_update(session: &mut ClientSession, output: &mut Vec<u8>) -> anyhow::Result<()> {
    seal(session, HANDSHAKE, &KEY_UPDATE_REQUESTED, output)?;
    // This replaces the key. Its own record, which requests nothing, is not sent.
    session.seal_control(&mut Vec::new())?;
    Ok(())
}

/// Appends a record without content.
pub(super) fn empty_record(
    session: &mut ClientSession,
    output: &mut Vec<u8>,
) -> anyhow::Result<()> {
    seal(session, DATA, b"", output)
}

/// Appends a record that does not authenticate under any key.
pub(super) fn unauthentic_record(output: &mut Vec<u8>) {
    const LEN: u8 = 100;
    output.extend_from_slice(&[DATA, 3, 3, 0, LEN]);
    output.extend_from_slice(&[0xAA; LEN as usize]);
}

/// Appends a record with any content type.
fn seal(
    session: &mut ClientSession,
    content_type: u8,
    content: &[u8],
    output: &mut Vec<u8>,
) -> anyhow::Result<()> {
    let key = session.bare_sealing();
    let mut nonce = key.iv;
    for (byte, count) in nonce[4..].iter_mut().zip(key.count.to_be_bytes()) {
        *byte ^= count;
    }
    *key.count += 1;
    let [high, low] = u16::try_from(content.len() + 1 + TAG)?.to_be_bytes();
    let header = [DATA, 3, 3, high, low];
    let mut sealed = [content, &[content_type]].concat();
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.context
        .seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed)
        .map_err(|_| anyhow!("the keys could not be used"))?;
    output.extend_from_slice(&header);
    output.extend_from_slice(&sealed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tickstorm_bench::ClientTls;
    use tickstorm_command::throw_away_certificate::{KeyType, ThrowAwayCertificate};
    use tickstorm_tls::{
        ClientHandshake, Handshake, HandshakeProgress, OpenError, Opened, Session, server_config,
    };

    use super::*;

    /// Does a handshake in memory.
    fn pair() -> (ClientSession, Session) {
        let certificate = ThrowAwayCertificate::new(&["localhost"], KeyType::EcdsaP256).unwrap();
        let tls = ClientTls::trusting(&certificate.authority_file()).unwrap();
        let settings = certificate.edge_settings(false);
        let file = |name| {
            let found = settings.iter().find(|(setting, _)| *setting == name);
            std::fs::read(&found.unwrap().1).unwrap()
        };
        let chain = CertificateDer::from_pem_slice(&file("TLS_CERT_FILE")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&file("TLS_KEY_FILE")).unwrap();
        let config = Arc::new(server_config(vec![chain], key, None).unwrap());
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut client = ClientHandshake::start(tls.config, tls.name, &mut to_server).unwrap();
        let mut server = Handshake::new(config).unwrap();
        let mut client_session = None;
        loop {
            let sent = std::mem::take(&mut to_server);
            if let HandshakeProgress::Established(established) =
                server.handle_input(&sent, &mut to_client).unwrap()
            {
                return (client_session.unwrap(), *established.session);
            }
            let sent = std::mem::take(&mut to_client);
            if let HandshakeProgress::Established(established) =
                client.handle_input(&sent, &mut to_server).unwrap()
            {
                client_session = Some(*established.session);
            }
        }
    }

    fn open(session: &mut Session, mut input: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let mut opened = Vec::new();
        while let Opened::Record { record, content } = session.open(&mut input)? {
            opened.extend_from_slice(&input[content]);
            input.drain(..record);
        }
        assert!(input.is_empty());
        Ok(opened)
    }

    #[test]
    fn a_key_update_is_valid_and_requests_one_in_return() {
        let (mut client, mut server) = pair();
        for _ in 0..3 {
            let mut records = Vec::new();
            key_update(&mut client, &mut records).unwrap();
            client.seal(b"frame", &mut records).unwrap();
            assert_eq!(open(&mut server, records), Ok(b"frame".to_vec()));
            assert!(server.has_control(), "no KeyUpdate was requested");
            server.seal_control(&mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn an_empty_record_is_valid_and_has_no_content() {
        let (mut client, mut server) = pair();
        let mut records = Vec::new();
        empty_record(&mut client, &mut records).unwrap();
        client.seal(b"frame", &mut records).unwrap();
        assert_eq!(open(&mut server, records), Ok(b"frame".to_vec()));
    }

    #[test]
    fn an_unauthentic_record_is_complete_and_refused() {
        let (_, mut server) = pair();
        let mut record = Vec::new();
        unauthentic_record(&mut record);
        assert!(matches!(
            open(&mut server, record),
            Err(OpenError::Peer { .. })
        ));
    }
}
