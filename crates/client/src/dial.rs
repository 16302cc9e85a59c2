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

    /// Connects as [`Dial::dial`] does, but within `limit`, because the client has other addresses
    /// left to try. By default, this drops the future of [`Dial::dial`] after that time.
    fn dial_within(
        &mut self,
        address: &str,
        limit: Duration,
    ) -> impl Future<Output = io::Result<Self::Socket>> + Send {
        async move {
            match timeout(limit, self.dial(address)).await {
                Ok(dialled) => dialled,
                Err(_) => Err(cut_off(limit)),
            }
        }
    }

    /// Returns the number of IP addresses that `address` had at the last attempt, if each attempt
    /// leads to another one of them. If an edge refuses the client, so many attempts in a row are
    /// made before the client leaves `address` alone. By default, this is 1.
    fn ip_addresses(&self, address: &str) -> usize {
        let _ = address;
        1
    }
}

/// An attempt to connect was cut off, so that another address could be tried.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {0:?}, and other addresses are left to try")]
struct CutOff(Duration);

fn cut_off(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, CutOff(limit))
}

/// Returns whether `error` is that of an attempt that was cut off after the limit of
/// [`Dial::dial_within`].
pub(crate) fn is_cut_off(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<CutOff>())
}

/// Dials over TCP. The IP addresses of a name are tried side by side, and the next attempt for the
/// same name continues after the one that was used, in case its edge refuses or is silent.
#[derive(Debug, Default)]
pub(crate) struct Tcp {
    resolved_by_name: HashMap<String, Resolved>,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Resolved {
    /// The IP address that the last attempt used, or tried last.
    last: Option<SocketAddr>,
    /// The number of IP addresses at the last attempt.
    count: usize,
}

impl Dial for Tcp {
    type Socket = TcpStream;

    async fn dial(&mut self, address: &str) -> io::Result<TcpStream> {
        let found = timeout(LOOKUP_TIMEOUT, lookup_host(address));
        let found = found.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let resolved = self.resolved_by_name.entry(address.to_owned()).or_default();
        let candidates = in_turn(found, resolved.last);
        resolved.count = candidates.len();
        // This attempt may be dropped at any time, and the next one continues nevertheless.
        let won = race(&candidates, &mut resolved.last, |candidate| async move {
            timeout(CONNECT_TIMEOUT, TcpStream::connect(candidate)).await?
        });
        let won = timeout(RACE_TIMEOUT, won).await;
        let stream = won??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn ip_addresses(&self, address: &str) -> usize {
        self.resolved_by_name
            .get(address)
            .map_or(1, |resolved| resolved.count)
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
