//! [`Dial`]: how connections come about. TCP is one way; a tunnel, or pipes in a test, are others.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// For each address that a name stands for: longer than a lost SYN and its repetition take, short enough to try the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Brings connections about, one after the other.
pub trait Dial: Send + 'static {
    /// A connection.
    type Socket: AsyncRead + AsyncWrite + Send + 'static;

    /// Connects to `address`, one of [`Options`](crate::Options). Has to give up by itself.
    fn dial(&mut self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}

/// TCP, to the first address that answers of all that a name stands for.
pub(crate) struct Tcp;

impl Dial for Tcp {
    type Socket = TcpStream;

    async fn dial(&mut self, address: &str) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
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

/// A connection that exists already. There is no second one.
pub(crate) struct Once<S>(pub(crate) Option<S>);

impl<S: AsyncRead + AsyncWrite + Send + 'static> Dial for Once<S> {
    type Socket = S;

    async fn dial(&mut self, _address: &str) -> io::Result<S> {
        self.0
            .take()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}
