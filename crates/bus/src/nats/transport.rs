//! Connects to a server: TCP, TLS if either side demands it, and the login. The result is a stream
//! on which the server has accepted the login.
//!
//! A server's name may have several addresses. They are tried side by side, each a moment after the
//! one before (as in RFC 8305), so that silent addresses hide none that works.

use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::addresses::Addresses;
use super::login::{InvalidCredentials, ServerInfo, connect_op};
use super::options::ServerOptions;
use super::wire::{Decoder, ServerOp, WireError, encode};

/// The time limit for resolving a server's name. A resolver asks the next name server after 5 s by
/// default; meanwhile, other servers are tried.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit for connecting to one address of a server, including TLS and the login: ten round
/// trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The time after which the next address, or the next server, is tried beside those under way: the
/// value that RFC 8305 recommends.
pub(super) const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses that are tried in one attempt. The next attempt continues with the others.
const ADDRESSES_MAX: usize = 16;

/// A connection to a server, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream on which the server has accepted the login, and the decoder of what it sends.
pub(super) struct Transport {
    pub(super) stream: Box<dyn Stream>,
    pub(super) decoder: Decoder,
    /// Whether messages may have headers.
    pub(super) has_headers: bool,
    /// The server's address.
    pub(super) addr: SocketAddr,
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
    #[error("the host name could not be resolved in time")]
    Unresolved,
    #[error("timed out")]
    TimedOut,
}

impl From<InvalidCredentials> for ConnectError {
    fn from(_: InvalidCredentials) -> Self {
        Self::Key
    }
}

impl ConnectError {
    /// Returns whether a person has to fix this: the server rejected this process, or this process
    /// rejected the server.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Protocol(_) | Self::Info | Self::Key => true,
            // The connection may have been lost during the handshake. A client's handshake ends
            // before the server has judged its certificate, so a refusal arrives later.
            Self::Tls(error) | Self::Io(error) => is_of_tls(error),
            Self::NoAddress | Self::Unresolved | Self::TimedOut => false,
        }
    }
}

/// Returns whether TLS itself failed.
fn is_of_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Resolves the name of `server` and connects to the first address that works. If none does, this
/// returns the error of the last one, or of one that refused.
pub(super) async fn connect(
    (host, port): (String, u16),
    options: ServerOptions,
    addresses: Arc<Mutex<Addresses>>,
) -> Result<Transport, ConnectError> {
    let resolved = timeout(RESOLVE_TIMEOUT, lookup_host((host, port))).await;
    let resolved = resolved.map_err(|_| ConnectError::Unresolved)??;
    connect_to_any(resolved, options, &addresses).await
}

async fn connect_to_any(
    resolved: impl IntoIterator<Item = SocketAddr>,
    options: ServerOptions,
    addresses: &Mutex<Addresses>,
) -> Result<Transport, ConnectError> {
    let lock = || addresses.lock().unwrap_or_else(PoisonError::into_inner);
    let order = lock().order(resolved);
    let mut waiting = order.into_iter().take(ADDRESSES_MAX);
    let options = Arc::new(options);
    let mut attempts = JoinSet::new();
    let mut error = ConnectError::NoAddress;
    let mut next_start = Instant::now();
    while !(attempts.is_empty() && waiting.len() == 0) {
        tokio::select! {
            biased;
            Some(attempt) = attempts.join_next() => match joined(attempt) {
                Ok(transport) => return Ok(transport),
                Err(failed) => {
                    if !error.is_refusal() {
                        error = failed;
                    }
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if waiting.len() > 0 => {
                next_start = Instant::now() + STAGGER;
                if let Some(addr) = waiting.next() {
                    lock().note_attempt(addr);
                    attempts.spawn(connect_in_time(addr, Arc::clone(&options)));
                }
            }
        }
    }
    Err(error)
}

/// Returns the result of a task that nobody aborts. If it panicked, so does this.
pub(super) fn joined<T>(task: Result<T, JoinError>) -> T {
    task.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

async fn connect_in_time(
    addr: SocketAddr,
    options: Arc<ServerOptions>,
) -> Result<Transport, ConnectError> {
    let attempt = timeout(CONNECT_TIMEOUT, connect_to(addr, &options)).await;
    attempt.unwrap_or(Err(ConnectError::TimedOut))
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
    let has_headers = options.headers && info.headers;
    let connect = connect_op(&options.name, &options.login, &info, has_tls, has_headers)?;
    stream.write_all(&connect).await?;
    drop(connect);
    stream.write_all(encode::PING).await?;
    stream.flush().await?;
    loop {
        match next(&mut stream, &mut decoder).await? {
            ServerOp::Pong => {
                return Ok(Transport {
                    stream,
                    decoder,
                    has_headers,
                    addr,
                });
            }
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::nats::NatsOptions;

    /// Long enough that only a defect exceeds it.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn options() -> ServerOptions {
        let options = NatsOptions {
            urls: "nats://127.0.0.1:1".into(),
            ..NatsOptions::default()
        };
        let servers = options.servers().unwrap();
        options.to_server(&servers[0], &options.secrets().unwrap())
    }

    /// Listens, so that the system accepts connections, but does not read or answer.
    async fn mute() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// Returns the address of a server that greets with `info` and accepts every login.
    async fn server(info: &'static str) -> SocketAddr {
        let (listener, addr) = mute().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (input, mut output) = stream.split();
                    let _ = output.write_all(info.as_bytes()).await;
                    let mut lines = tokio::io::BufReader::new(input).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        if line == "PING" {
                            let _ = output.write_all(encode::PONG).await;
                        }
                    }
                });
            }
        });
        addr
    }

    /// Connects to the first of these addresses that works. Returns its address or the error.
    async fn connect_to_first(
        resolved: &[SocketAddr],
        addresses: &Mutex<Addresses>,
    ) -> Result<SocketAddr, ConnectError> {
        let connecting = connect_to_any(resolved.iter().copied(), options(), addresses);
        let connected = timeout(PATIENCE, connecting).await.expect("an end");
        connected.map(|transport| transport.addr)
    }

    #[tokio::test]
    async fn silent_addresses_do_not_hide_one_that_works() {
        let mut mutes = Vec::new();
        for _ in 0..ADDRESSES_MAX - 1 {
            mutes.push(mute().await);
        }
        let good = server("INFO {}\r\n").await;
        let resolved: Vec<_> = mutes.iter().map(|(_, addr)| *addr).chain([good]).collect();
        let addresses = Mutex::default();
        let began = Instant::now();
        let connected = connect_to_first(&resolved, &addresses).await;
        assert_eq!(connected.unwrap(), good);
        let one_by_one = CONNECT_TIMEOUT * u32::try_from(mutes.len()).unwrap();
        assert!(began.elapsed() < one_by_one, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn addresses_that_do_not_fit_into_one_attempt_are_tried_by_the_next_one() {
        let mut mutes = Vec::new();
        for _ in 0..ADDRESSES_MAX + 2 {
            mutes.push(mute().await);
        }
        let good = server("INFO {}\r\n").await;
        let resolved: Vec<_> = mutes.iter().map(|(_, addr)| *addr).chain([good]).collect();
        let addresses = Mutex::default();
        let first = connect_to_first(&resolved, &addresses).await;
        assert!(matches!(first, Err(ConnectError::TimedOut)), "{first:?}");
        let second = connect_to_first(&resolved, &addresses).await;
        assert_eq!(second.unwrap(), good);
    }

    #[tokio::test]
    async fn an_address_that_refuses_makes_way_at_once_and_is_what_the_error_tells() {
        let (mute, silent) = mute().await;
        let strange = server("INFO strange\r\n").await;
        let closed = {
            let (_listener, addr) = self::mute().await;
            addr
        };
        let good = server("INFO {}\r\n").await;
        let addresses = Mutex::default();
        let connected = connect_to_first(&[closed, strange, good], &addresses).await;
        assert_eq!(connected.unwrap(), good);
        let failed = connect_to_first(&[strange, silent], &addresses).await;
        assert!(matches!(failed, Err(ConnectError::Info)), "{failed:?}");
        drop(mute);
        let none = connect_to_first(&[], &addresses).await;
        assert!(matches!(none, Err(ConnectError::NoAddress)), "{none:?}");
    }
}
