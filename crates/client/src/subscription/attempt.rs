//! One attempt to reach an edge, as futures that own everything they need. An attempt to move runs
//! beside the connection that is in use.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use crate::connection::{Connection, Subscribed, Terms};
use crate::dial::Dial;
use crate::error::Error;

type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;
/// An attempt to connect.
pub(super) type Dialling<S> = Attempt<S>;
/// An attempt to authenticate and subscribe over a connection.
pub(super) type Subscribing<S> = Attempt<Box<Subscribed<S>>>;

/// The means to connect. Attempts use it one after the other.
pub(super) struct SharedDial<D>(Arc<Mutex<D>>);

impl<D: Dial> SharedDial<D> {
    pub(super) fn new(dial: D) -> Self {
        Self(Arc::new(Mutex::new(dial)))
    }

    /// Starts to connect to `address`.
    pub(super) fn dial(&self, address: String) -> Dialling<D::Socket> {
        let dial = Arc::clone(&self.0);
        Box::pin(async move {
            let dialled = dial.lock().await.dial(&address).await;
            dialled.map_err(|source| Error::Connect { address, source })
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
