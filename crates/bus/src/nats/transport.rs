//! Connects to a server: TCP, TLS if either side demands it, and the login. The result is a stream
//! on which the server has accepted the login.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::login::{InvalidCredentials, ServerInfo, connect_op};
use super::options::{NatsServer, ServerOptions};
use super::wire::{Decoder, ServerOp, WireError, encode};

/// The time limit for connecting to one address of a server, including TLS and the login: ten round
/// trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to a server, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream on which the server has accepted the login, and the decoder of what it sends.
pub(super) struct Transport {
    pub(super) stream: Box<dyn Stream>,
    pub(super) decoder: Decoder,
}

/// The reason why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    #[error(transparent)]
    Protocol(#[from] WireError),
    #[error("the server's INFO is not valid JSON")]
    Info,
    /// The server's text, in lower case.
    #[error("{0}")]
    Refused(String),
    #[error("the key of the credentials file cannot sign")]
    Key,
    #[error("the host name has no address")]
    NoAddress,
    #[error("timed out")]
    TimedOut,
}

impl From<InvalidCredentials> for ConnectError {
    fn from(_: InvalidCredentials) -> Self {
        Self::Key
    }
}

/// Connects to the first address of `server` that works.
pub(super) async fn connect(
    server: &NatsServer,
    options: &ServerOptions,
) -> Result<Transport, ConnectError> {
    let mut last = ConnectError::NoAddress;
    for addr in lookup_host((server.host.as_str(), server.port)).await? {
        let attempt = timeout(CONNECT_TIMEOUT, connect_to(addr, options)).await;
        match attempt.unwrap_or(Err(ConnectError::TimedOut)) {
            Ok(transport) => return Ok(transport),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(addr: SocketAddr, options: &ServerOptions) -> Result<Transport, ConnectError> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut decoder = Decoder::default();
    let ServerOp::Info(json) = next(&mut stream, &mut decoder).await? else {
        return Err(ConnectError::Info);
    };
    let info: ServerInfo = serde_json::from_slice(&json).map_err(|_| ConnectError::Info)?;
    let has_tls = options.requires_tls || info.tls_required;
    let mut stream: Box<dyn Stream> = if has_tls {
        // Whatever came behind INFO was not encrypted, so it must not count.
        decoder = Decoder::default();
        let connector = TlsConnector::from(options.tls.clone());
        let connecting = connector.connect(options.tls_name.clone(), stream);
        Box::new(connecting.await.map_err(ConnectError::Tls)?)
    } else {
        Box::new(stream)
    };
    let connect = connect_op(&options.name, &options.login, &info, has_tls)?;
    stream.write_all(&connect).await?;
    drop(connect);
    stream.write_all(encode::PING).await?;
    stream.flush().await?;
    loop {
        match next(&mut stream, &mut decoder).await? {
            ServerOp::Pong => return Ok(Transport { stream, decoder }),
            ServerOp::Error(text) => return Err(ConnectError::Refused(text.to_lowercase())),
            ServerOp::Ping => stream.write_all(encode::PONG).await?,
            ServerOp::Info(_) | ServerOp::Ok | ServerOp::Message(_) => {}
        }
    }
}

/// Reads the next thing that the server sends.
async fn next(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    decoder: &mut Decoder,
) -> Result<ServerOp, ConnectError> {
    loop {
        if let Some(op) = decoder.next()? {
            return Ok(op);
        }
        if stream.read_buf(decoder.buffer()).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}
