//! What holds for a port with TLS.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, NamedGroup, ProtocolVersion};
use tickstorm_protocol::ErrorCode;
use tickstorm_timebase::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::frames::{Point, refused};
use crate::check::bytes::{self, IGNORABLE};
use crate::check::server::Server;
use crate::check::stop::{Outcome, Stop, ensure, fail, skip};

/// The start of a ClientHello in a record of TLS.
const CLIENT_HELLO: [u8; 6] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01];
/// How long tickets for resumption would have taken to arrive at most.
const TICKET_TIME_MAX: Duration = Duration::from_millis(500);
/// How long a server may take to refuse a ClientHello.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(10);
/// The types of the records of a handshake, and of alerts.
const HANDSHAKE: u8 = 0x16;
const ALERT: u8 = 0x15;
/// More bytes than fit into four records.
const LONG: usize = 65_536;

fn only_with_tls(server: &Server) -> Outcome<()> {
    if !server.is_tls() {
        skip!("the connection is plain: see --tls");
    }
    Ok(())
}

pub(super) async fn tls_or_plain(server: Arc<Server>) -> Outcome {
    if !server.is_tls() {
        let code = ErrorCode::BadMagic;
        refused(&server, Point::BeforeAuth, &CLIENT_HELLO[..1], code).await?;
        return Ok(String::new());
    }
    let mut stream = server.dial_tcp().await.map_err(cannot)?;
    // An AUTH with made-up credentials: nothing secret may be sent without TLS.
    let frame = bytes::frame(0x01, b"");
    stream.write_all(&frame).await.map_err(cannot)?;
    let mut answer = Vec::new();
    let reading = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    ensure!(
        !answer.starts_with(&[0xF5]),
        "a port with TLS answers a plain frame with {answer:02x?}"
    );
    match reading {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {}
        Ok(Err(error)) => return Err(cannot(error)),
        Err(_) => fail!("a port with TLS does not close a plain connection for 10 s"),
    }
    Ok(String::new())
}

pub(super) async fn parameters(server: Arc<Server>) -> Outcome {
    let Some((mut config, name)) = server.tls().map_err(cannot)? else {
        skip!("the connection is plain: see --tls");
    };
    only_one_version(&server).await?;
    only_allowed_suites(&server).await?;
    let tickets = Arc::new(Tickets::default());
    config.resumption = Resumption::store(Arc::clone(&tickets) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"tickstorm".to_vec()];
    let stream = server.dial_tcp().await.map_err(cannot)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let connected = timeout(Duration::from_secs(10), connecting).await;
    let mut stream = match connected {
        Ok(connected) => connected.map_err(cannot)?,
        Err(_) => fail!("the handshake takes more than 10 s"),
    };
    stream.write_all(&server.auth()).await.map_err(cannot)?;
    stream.flush().await.map_err(cannot)?;
    let mut answer = [0; 256];
    let reading = async {
        loop {
            match stream.read(&mut answer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // Tickets come after the handshake, before or after the first data.
    let _ = timeout(TICKET_TIME_MAX, reading).await;
    let (_, session) = stream.get_ref();
    ensure!(
        session.protocol_version() == Some(ProtocolVersion::TLSv1_3),
        "the version is {:?}",
        session.protocol_version()
    );
    let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
    let allowed = [
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    ensure!(
        suite.is_some_and(|suite| allowed.contains(&suite)),
        "the cipher suite is {suite:?}"
    );
    ensure!(
        session.alpn_protocol().is_none(),
        "the server chose a protocol by ALPN"
    );
    let count = tickets.0.load(Ordering::Relaxed);
    ensure!(count == 0, "the server sent {count} tickets for resumption");
    Ok(suite.map_or_else(String::new, |suite| format!("{suite:?}")))
}

/// Expects that a ClientHello which offers TLS 1.2 only is not answered by a ServerHello.
async fn only_one_version(server: &Server) -> Outcome<()> {
    let mut stream = server.dial_tcp().await.map_err(cannot)?;
    stream.write_all(&hello_of_tls12()).await.map_err(cannot)?;
    let mut answer = [0; 1];
    match timeout(REFUSAL_TIME_MAX, stream.read(&mut answer)).await {
        // An alert, or the end of the connection.
        Ok(Ok(1)) if answer == [ALERT] => {}
        Ok(Ok(0)) => {}
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {}
        Ok(Err(error)) => return Err(cannot(error)),
        Ok(Ok(_)) if answer == [HANDSHAKE] => fail!("the server accepts TLS 1.2"),
        Ok(Ok(_)) => fail!("the answer to a ClientHello of TLS 1.2 begins with {answer:02x?}"),
        Err(_) => fail!("a ClientHello of TLS 1.2 is not refused within {REFUSAL_TIME_MAX:?}"),
    }
    Ok(())
}

/// Returns a ClientHello with the cipher suites, groups and signatures that servers of TLS 1.2
/// accept.
fn hello_of_tls12() -> Vec<u8> {
    // ECDHE with ECDSA or RSA, and AES-256-GCM, AES-128-GCM or ChaCha20-Poly1305.
    const SUITES: [u16; 6] = [0xC02C, 0xC030, 0xC02B, 0xC02F, 0xCCA9, 0xCCA8];
    // x25519, P-256 and P-384.
    const GROUPS: [u16; 3] = [0x001D, 0x0017, 0x0018];
    // ECDSA, RSA-PSS and RSA with SHA-256 and SHA-384.
    const SIGNATURES: [u16; 6] = [0x0403, 0x0503, 0x0804, 0x0805, 0x0401, 0x0501];
    let numbers = |list: &[u16]| -> Vec<u8> {
        let bytes = list.iter().flat_map(|number| number.to_be_bytes());
        bytes.collect()
    };
    let extensions = [
        extension(0x000A, &prefixed(&numbers(&GROUPS))),
        // Points are not compressed.
        extension(0x000B, &[1, 0]),
        extension(0x000D, &prefixed(&numbers(&SIGNATURES))),
    ]
    .concat();
    let body = [
        &[0x03, 0x03][..],
        &[0x5A; 32],
        // No session, and no compression.
        &[0],
        &prefixed(&numbers(&SUITES)),
        &[1, 0],
        &prefixed(&extensions),
    ]
    .concat();
    // Client_hello, with a length of three bytes.
    let message = [&[0x01, 0x00][..], &prefixed(&body)].concat();
    [&[HANDSHAKE, 0x03, 0x01][..], &prefixed(&message)].concat()
}

fn extension(number: u16, content: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &prefixed(content)].concat()
}

/// Returns bytes with their length, as a number of two bytes, in front of them.
fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("a ClientHello is far below 64 KiB");
    [&len.to_be_bytes()[..], bytes].concat()
}

/// Expects that a client which offers no other suite than TLS_AES_128_GCM_SHA256 is refused.
async fn only_allowed_suites(server: &Server) -> Outcome<()> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let Some((config, name)) = server.tls_with(provider).map_err(cannot)? else {
        return Ok(());
    };
    let stream = server.dial_tcp().await.map_err(cannot)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match timeout(REFUSAL_TIME_MAX, connecting).await {
        Ok(Err(_)) => Ok(()),
        Ok(Ok(_)) => fail!("the server accepts TLS_AES_128_GCM_SHA256"),
        Err(_) => fail!("TLS_AES_128_GCM_SHA256 is not refused within {REFUSAL_TIME_MAX:?}"),
    }
}

/// Each byte in a record, all frames in one, and a frame that spans several.
pub(super) async fn records(server: Arc<Server>) -> Outcome {
    only_with_tls(&server)?;
    let subscribe = bytes::subscribe(Mode::Minute, None, false);
    let frames = [server.auth(), subscribe, bytes::heartbeat(1)].concat();
    for record_len in [1, 7, frames.len()] {
        let mut connection = server.open().await?;
        for record in frames.chunks(record_len) {
            connection.send(record).await;
        }
        connection.ack_of_auth().await?;
        connection.ack_of_subscribe().await?;
        connection.echo(1).await?;
    }
    let mut connection = server.authenticated().await?;
    let long = bytes::frame(IGNORABLE, &[0x55; LONG]);
    connection.send(&long).await;
    connection.send(&bytes::heartbeat(2)).await;
    match connection.echo(2).await {
        // A server may be configured to skip less.
        Err(Stop::Failed(text)) if text.starts_with("MESSAGE_TOO_LARGE") => {}
        outcome => outcome?,
    }
    Ok(String::new())
}

pub(super) async fn close_notify(server: Arc<Server>) -> Outcome {
    only_with_tls(&server)?;
    // Each refusal expects an orderly end, which with TLS includes close_notify.
    for point in super::frames::BOTH {
        refused(&server, point, b"?", ErrorCode::BadMagic).await?;
    }
    Ok(String::new())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the argument of map_err"
)]
fn cannot(error: std::io::Error) -> Stop {
    Stop::Failed(format!("cannot connect: {error}"))
}

/// Counts the tickets that a server sends, and keeps none.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
