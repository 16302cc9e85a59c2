//! What holds for a port with TLS.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue};
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
    let tickets = Arc::new(Tickets::default());
    config.resumption = Resumption::store(Arc::clone(&tickets) as _);
    config.alpn_protocols = vec![b"tickstorm".to_vec()];
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
