//! [`Dial`]: a way to make connections, such as TCP, a tunnel, or pipes in a test.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// The time limit for each IP address of a name: long enough for a lost SYN and its retransmission,
/// short enough to try the next address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes connections, one after the other.
pub trait Dial: Send + 'static {
    /// The type of a connection.
    type Socket: AsyncRead + AsyncWrite + Send + 'static;

    /// Connects to `address`, one of the addresses in [`Options`](crate::Options). The
    /// implementation must enforce its own time limit.
    fn dial(&mut self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}

/// Dials over TCP, to the first IP address of a name that answers.
pub(crate) struct Tcp;

impl Dial for Tcp {
    type Socket = TcpStream;

    async fn dial(&mut self, address: &str) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
        for candidate in lookup_host(address).await? {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// Hands out one connection that already exists. Any further attempt to dial fails.
pub(crate) struct Once<S>(pub(crate) Option<S>);

impl<S: AsyncRead + AsyncWrite + Send + 'static> Dial for Once<S> {
    type Socket = S;

    async fn dial(&mut self, _address: &str) -> io::Result<S> {
        self.0
            .take()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}
