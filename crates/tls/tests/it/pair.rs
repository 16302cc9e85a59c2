//! A server of this crate and a client of rustls, connected by two byte queues.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tickstorm_tls::{
    Handshake, HandshakeProgress, OpenError, Opened, Session, provider, server_config,
};

/// A certificate for `localhost` and its key.
pub(crate) fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    (cert.der().clone(), key)
}

/// The configurations of a server and of a client that trusts it.
pub(crate) fn configs() -> (Arc<ServerConfig>, ClientConfig) {
    let (certificate, key) = certificate();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server = server_config(vec![certificate], key, None).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), client)
}

pub(crate) fn client(config: ClientConfig) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// An established connection: the server of this crate, and the client of rustls.
pub(crate) struct Pair {
    pub(crate) session: Session,
    pub(crate) client: ClientConnection,
    /// Bytes that the server has received and not opened.
    pub(crate) input: Vec<u8>,
}

impl Pair {
    /// Connects, with at most `records_max` records per key of the server.
    pub(crate) fn connect(records_max: u64) -> Self {
        let (server, client_config) = configs();
        let mut client = client(client_config);
        let mut handshake = Handshake::with_records_max(server, records_max).unwrap();
        for _ in 0..10 {
            let mut output = Vec::new();
            let progress = handshake
                .handle_input(&sent(&mut client), &mut output)
                .unwrap();
            receive(&mut client, &output);
            if let HandshakeProgress::Established(established) = progress {
                return Self {
                    session: *established.session,
                    client,
                    input: established.unread,
                };
            }
        }
        panic!("the handshake does not end");
    }

    /// Seals data of the server and returns what the client reads.
    pub(crate) fn server_sends(&mut self, data: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        self.session.seal(data, &mut output).unwrap();
        receive(&mut self.client, &output)
    }

    /// Lets the client write, and returns what the server opens.
    pub(crate) fn client_sends(&mut self, data: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.client.writer().write_all(data).unwrap();
        let bytes = sent(&mut self.client);
        self.input.extend_from_slice(&bytes);
        self.open()
    }

    /// Opens the complete records of the input.
    pub(crate) fn open(&mut self) -> Result<Vec<u8>, OpenError> {
        let mut opened = Vec::new();
        while let Opened::Record { record, content } = self.session.open(&mut self.input)? {
            opened.extend_from_slice(&self.input[content]);
            self.input.drain(..record);
        }
        Ok(opened)
    }
}

/// Returns everything that the client wants to send.
pub(crate) fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Passes bytes to the client, and returns the data that it reads.
pub(crate) fn receive(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let mut buffer = [0; 1 << 14];
        while let Ok(read @ 1..) = client.reader().read(&mut buffer) {
            data.extend_from_slice(&buffer[..read]);
        }
    }
    data
}
