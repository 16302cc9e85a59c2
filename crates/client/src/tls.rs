//! [`TlsOptions`]: how to reach an edge over TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
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

    /// Returns the name that the certificate of the edge at `address` must have.
    ///
    /// # Errors
    /// The name, or the host of the address, is not one that a certificate can have.
    pub fn expected_name(&self, address: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned())
    }

    /// Returns the configuration of rustls for these options, for a program that drives TLS itself.
    ///
    /// # Errors
    /// A file can't be read, or the options can't be used.
    pub fn client_config(&self, provider: CryptoProvider) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Config)?
            .with_root_certificates(self.roots()?);
        let Some((certificate, key)) = &self.own else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| pem_error(key, error))?;
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
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("cannot read {}", path.display())]
    #[non_exhaustive]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file is not valid PEM.
    #[error("{} is not a valid file in PEM format", path.display())]
    #[non_exhaustive]
    NotPem {
        /// The file.
        path: PathBuf,
    },
    /// The file for the private key has none in PEM format.
    #[error("{} contains no private key in PEM format", path.display())]
    #[non_exhaustive]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A file has no certificate in PEM format.
    #[error("{} contains no certificate in PEM format", path.display())]
    #[non_exhaustive]
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
    let read = read.map_err(|error| pem_error(path, error))?;
    if read.is_empty() {
        let path = path.to_owned();
        return Err(TlsError::NoCertificate { path });
    }
    Ok(read)
}

/// Returns the error for a file. That of the parser would show the line that it could not parse,
/// which may be a whole private key.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other errors mean that the file is not valid"
)]
fn pem_error(path: &Path, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::File { path, source },
        pem::Error::NoItemsFound => TlsError::NoKey { path },
        _ => TlsError::NotPem { path },
    }
}

/// Dials over TCP and TLS. The race between a name's IP addresses is one of TCP connections: if the
/// handshake then fails, the next attempt begins at the next address.
pub(crate) struct Tls {
    connector: TlsConnector,
    options: TlsOptions,
    tcp: Tcp,
}

impl Tls {
    pub(crate) fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        let config = options.client_config(aws_lc_rs::default_provider())?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            options: options.clone(),
            tcp: Tcp::default(),
        })
    }

    fn name(&self, address: &str) -> io::Result<ServerName<'static>> {
        self.options
            .expected_name(address)
            .map_err(io::Error::other)
    }

    async fn secure(
        &self,
        name: ServerName<'static>,
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        match timeout(HANDSHAKE_TIMEOUT, self.connector.connect(name, socket)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Dial for Tls {
    type Socket = TlsStream<TcpStream>;

    async fn dial(&mut self, address: &str) -> io::Result<Self::Socket> {
        let name = self.name(address)?;
        let socket = self.tcp.dial(address).await?;
        self.secure(name, socket).await
    }

    /// The limit does not include the handshake, since an edge that came up a moment ago, or has
    /// taken over the clients of another one, has many of them to make.
    async fn dial_within(&mut self, address: &str, limit: Duration) -> io::Result<Self::Socket> {
        let name = self.name(address)?;
        let socket = self.tcp.dial_within(address, limit).await?;
        self.secure(name, socket).await
    }

    fn ip_addresses(&self, address: &str) -> usize {
        self.tcp.ip_addresses(address)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn no_error_shows_anything_of_a_key() {
        let secret = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQ==";
        let [begin, end] = ["BEGIN", "END"].map(|word| format!("-----{word} PRIVATE KEY-----"));
        let on_lines = |separator: &str| [begin.as_str(), secret, &end].join(separator);
        assert!(PrivateKeyDer::from_pem_slice(on_lines("\n").as_bytes()).is_ok());
        for (damaged, expected) in [
            (on_lines(""), "not a valid file in PEM format"),
            (on_lines(" "), "not a valid file in PEM format"),
            (on_lines("\\n") + " ", "not a valid file in PEM format"),
            (on_lines("\n*"), "not a valid file in PEM format"),
            (
                format!("{begin}\n{secret}\n"),
                "not a valid file in PEM format",
            ),
            (format!("{begin}{secret}"), "not a valid file in PEM format"),
            (secret.to_owned(), "no private key in PEM format"),
        ] {
            let error = PrivateKeyDer::from_pem_slice(damaged.as_bytes()).unwrap_err();
            let error = pem_error(Path::new("client.key"), error);
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.source().is_none(), "{error}");
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(shown.contains("client.key"), "{shown}");
                assert!(!shown.contains(&secret[..8]), "{shown}");
                let bytes = format!("{:?}", &secret.as_bytes()[..8]);
                assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
            }
        }
    }
}
