//! One attempt to reach an edge, as futures that own everything they need. An attempt to move runs
//! beside the connection that is in use.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use crate::connection::{Connection, Subscribed, Terms};
use crate::dial::Dial;
use crate::error::Error;

type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;
/// An attempt to connect.
pub(super) type Dialling<S> = Attempt<Dialled<S>>;
/// An attempt to authenticate and subscribe over a connection.
pub(super) type Subscribing<S> = Attempt<Box<Subscribed<S>>>;

/// A connection, on which nothing was sent yet.
pub(super) struct Dialled<S> {
    pub(super) socket: S,
    /// The number of IP addresses to which an attempt for the same name may lead.
    pub(super) ip_addresses: usize,
}

/// The means to connect. Attempts use it one after the other.
pub(super) struct SharedDial<D>(Arc<Mutex<D>>);

impl<D: Dial> SharedDial<D> {
    pub(super) fn new(dial: D) -> Self {
        Self(Arc::new(Mutex::new(dial)))
    }

    /// Starts to connect to `address`, within a limit if there is one.
    pub(super) fn dial(&self, address: String, limit: Option<Duration>) -> Dialling<D::Socket> {
        let dial = Arc::clone(&self.0);
        Box::pin(async move {
            let mut dial = dial.lock().await;
            let dialled = match limit {
                Some(limit) => dial.dial_within(&address, limit).await,
                None => dial.dial(&address).await,
            };
            let ip_addresses = dial.ip_addresses(&address);
            match dialled {
                Ok(socket) => Ok(Dialled {
                    socket,
                    ip_addresses,
                }),
                Err(source) => Err(Error::Connect { address, source }),
            }
        })
    }
}

/// Starts to authenticate and subscribe over `socket`.
pub(super) fn subscribe<S>(socket: S, terms: Terms) -> Subscribing<S>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    Box::pin(async { Connection::subscribe(socket, terms).await.map(Box::new) })
}
