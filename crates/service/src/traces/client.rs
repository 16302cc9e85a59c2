//! [`Client`]: sends requests to a collector over HTTP/1.1 or HTTPS, one at a time, over one
//! connection as long as it lasts. It has no timeout; the caller has one.

use std::{io, sync::Arc};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsConnector;

use super::{
    files::Secrets,
    values::{Endpoint, HeaderPairs},
};
use crate::VERSION;

/// The largest answer that is read, in bytes. A collector answers with an empty one, or with the
/// reason for which it rejects spans.
const ANSWER_BYTES_MAX: usize = 65_536;

/// The most connections over which one request is tried. The collector may have closed the one that
/// was kept, which is no fault.
const ATTEMPTS_MAX: u32 = 2;

/// A connection to a collector, which is made when it is needed.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    secrets: watch::Receiver<Secrets>,
    connection: Option<SendRequest<Body>>,
}

/// The reason that a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("could not connect")]
    Connect(#[source] io::Error),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("the collector's host can't be in a certificate")]
    Name,
    #[error("the connection was lost")]
    Lost(#[from] hyper::Error),
    #[error("the request can't be made")]
    Request(#[from] hyper::http::Error),
    #[error("the answer can't be read")]
    Answer(#[source] axum::Error),
    #[error("the collector answered with the status {0}")]
    Status(StatusCode),
}

impl Client {
    pub(super) const fn new(endpoint: Endpoint, secrets: watch::Receiver<Secrets>) -> Self {
        Self {
            endpoint,
            secrets,
            connection: None,
        }
    }

    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a request with this body and returns the body of the answer. If the call is cancelled,
    /// the next one uses another connection.
    ///
    /// # Errors
    /// Returns an error if the collector can't be reached or does not accept the request.
    pub(super) async fn send(&mut self, body: Vec<u8>) -> Result<Bytes, SendError> {
        let body = Bytes::from(body);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let kept = self.connection.take().filter(|kept| !kept.is_closed());
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(kept) => kept,
                // Boxed, because TLS makes it large.
                None => Box::pin(self.connect()).await?,
            };
            let answer = async {
                connection.ready().await?;
                let answer = connection.send_request(self.request(body.clone())?).await?;
                Ok::<_, SendError>(answer)
            };
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(SendError::Lost(_)) if !is_new && attempts < ATTEMPTS_MAX => continue,
                Err(error) => return Err(error),
            };
            let status = answer.status();
            let answer = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await;
            let answer = answer.map_err(SendError::Answer)?;
            self.connection = Some(connection);
            return if status.is_success() {
                Ok(answer)
            } else {
                Err(SendError::Status(status))
            };
        }
    }

    fn request(&self, body: Bytes) -> Result<Request<Body>, hyper::http::Error> {
        let mut request = Request::post(self.endpoint.path())
            .header(HOST, self.endpoint.authority())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, format!("tickstorm/{VERSION}"));
        let secrets = self.secrets.borrow();
        for (name, value) in secrets.headers.iter().flat_map(HeaderPairs::iter) {
            request = request.header(name, value);
        }
        request.body(Body::from(body))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, SendError> {
        let addr = (self.endpoint.host(), self.endpoint.port());
        let stream = TcpStream::connect(addr).await.map_err(SendError::Connect)?;
        stream.set_nodelay(true).map_err(SendError::Connect)?;
        if !self.endpoint.has_tls() {
            return converse(stream).await;
        }
        let name = ServerName::try_from(self.endpoint.host().to_owned());
        let connector = TlsConnector::from(Arc::new(self.tls()));
        let stream = connector.connect(name.map_err(|_| SendError::Name)?, stream);
        converse(stream.await.map_err(SendError::Tls)?).await
    }

    /// Returns the configuration of TLS.
    fn tls(&self) -> ClientConfig {
        let authorities = self.secrets.borrow().authorities.clone();
        let authorities = authorities.unwrap_or_else(|| {
            // Without any of them, no collector is trusted, and connecting fails.
            let mut authorities = RootCertStore::empty();
            let system = rustls_native_certs::load_native_certs();
            authorities.add_parsable_certificates(system.certs);
            Arc::new(authorities)
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .with_root_certificates(authorities)
            .with_no_client_auth()
    }
}

impl Clone for Client {
    /// Returns a client for the same collector, without a connection.
    fn clone(&self) -> Self {
        Self::new(self.endpoint.clone(), self.secrets.clone())
    }
}

/// Starts HTTP on a connection. A task reads and writes until the connection ends.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Body>, SendError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The request that it concerns gets the error.
        let _ = connection.await;
    });
    Ok(sender)
}
