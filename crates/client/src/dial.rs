//! [`Dial`]: a way to make connections, such as TCP, a tunnel, or pipes in a test.

mod race;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use self::race::{in_turn, race};

/// The time limit for looking up a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for each IP address of a name: long enough for a lost SYN and its retransmission
/// a second later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time limit for all IP addresses of a name together. The next attempt continues with those
/// that were not tried.
const RACE_TIMEOUT: Duration = Duration::from_secs(6);

/// Makes connections, one after the other. Earlier connections may still be in use meanwhile.
pub trait Dial: Send + 'static {
    /// The type of a connection.
    type Socket: AsyncRead + AsyncWrite + Send + 'static;

    /// Connects to `address`, one of the addresses in [`Options`](crate::Options). The
    /// implementation must enforce its own time limit.
    fn dial(&mut self, address: &str) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}

/// Dials over TCP. The IP addresses of a name are tried side by side, and the next attempt for the
/// same name continues after the one that was used, in case its edge refuses or is silent.
#[derive(Debug, Default)]
pub(crate) struct Tcp {
    /// The IP address that the last attempt for each name used, or tried last.
    last_by_name: HashMap<String, SocketAddr>,
}

impl Dial for Tcp {
    type Socket = TcpStream;

    async fn dial(&mut self, address: &str) -> io::Result<TcpStream> {
        let found = timeout(LOOKUP_TIMEOUT, lookup_host(address));
        let found = found.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let candidates = in_turn(found, self.last_by_name.get(address).copied());
        let mut last = None;
        let won = timeout(
            RACE_TIMEOUT,
            race(&candidates, &mut last, |candidate| async move {
                timeout(CONNECT_TIMEOUT, TcpStream::connect(candidate)).await?
            }),
        );
        let won = won.await;
        if let Some(last) = last {
            self.last_by_name.insert(address.to_owned(), last);
        }
        let stream = won??;
        stream.set_nodelay(true)?;
        Ok(stream)
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
