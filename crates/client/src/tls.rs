//! [`TlsOptions`]: how to reach an edge over TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::dial::{Dial, Tcp};

/// The time limit for a handshake. An edge gives a client 5 s by default until it has
/// authenticated.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach an edge over TLS 1.3: which authorities to trust, which name to expect, and which
/// certificate to present. The default trusts the certificate authorities of the system, expects
/// the host of the edge's address, and presents no certificate.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    ca_file: Option<PathBuf>,
    server_name: Option<String>,
    own: Option<(PathBuf, PathBuf)>,
}

impl TlsOptions {
    /// Creates the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in this PEM file, instead of those of the system.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Expects this name, or IP address, in the edge's certificate, instead of the host of its
    /// address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Presents the certificate in the first PEM file, whose private key is in the second one.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.own = Some((certificate.into(), key.into()));
        self
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Config)?
            .with_root_certificates(self.roots()?);
        let Some((certificate, key)) = &self.own else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
        let with_certificate = builder.with_client_auth_cert(chain, key_der);
        with_certificate.map_err(TlsError::Config)
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                for authority in certificates(path)? {
                    roots.add(authority).map_err(TlsError::Config)?;
                }
            }
            None => {
                // A system's store may contain certificates that rustls can't use.
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(TlsError::NoSystemRoots);
                }
            }
        }
        Ok(roots)
    }
}

/// A reason why the [`TlsOptions`] can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or parsed, or the private key's file has no key in PEM format.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of reading or parsing it.
        source: pem::Error,
    },
    /// A file has no certificate in PEM format.
    #[error("{} contains no certificate in PEM format", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The system has no certificate authorities.
    #[error("this system has no certificate authorities; name a file with those to trust")]
    NoSystemRoots,
    /// A certificate or key can't be used, or the two do not belong together.
    #[error("the certificates or keys cannot be used")]
    Config(#[source] rustls::Error),
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| unreadable(path, error))?;
    if read.is_empty() {
        let path = path.to_owned();
        return Err(TlsError::NoCertificate { path });
    }
    Ok(read)
}

fn unreadable(path: &Path, source: pem::Error) -> TlsError {
    let path = path.to_owned();
    TlsError::File { path, source }
}

/// Dials over TCP and TLS.
pub(crate) struct Tls {
    connector: TlsConnector,
    server_name: Option<String>,
}

impl Tls {
    pub(crate) fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        Ok(Self {
            connector: TlsConnector::from(Arc::new(options.config()?)),
            server_name: options.server_name.clone(),
        })
    }

    fn name(&self, address: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned())
    }
}

impl Dial for Tls {
    type Socket = TlsStream<TcpStream>;

    async fn dial(&mut self, address: &str) -> io::Result<Self::Socket> {
        let name = self.name(address).map_err(io::Error::other)?;
        let socket = Tcp.dial(address).await?;
        match timeout(HANDSHAKE_TIMEOUT, self.connector.connect(name, socket)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
