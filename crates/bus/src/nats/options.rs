//! The servers and credentials of a NATS connection. Files are read again for each connection, so
//! that certificates and credentials can be renewed while the process runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use rand::seq::SliceRandom;
use secrecy::{ExposeSecret, SecretString};

/// The interval between pings. async-nats gives up a connection when a third ping is due and two
/// are unanswered, that is after three intervals without a sign of life. A lost connection must be
/// detected within three seconds.
const PING_INTERVAL: Duration = Duration::from_millis(900);

/// The time limit for connecting to one address of a server, including TLS: ten round trips around
/// the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum number of messages that wait to be read from a subscription of async-nats: as many
/// as a subscription of this crate holds.
const SUBSCRIPTION_CAPACITY: usize = 4_096;

/// The servers and credentials of a NATS connection.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// The servers' URLs, `nats://` or `tls://`, separated by commas. A user and password, or a
    /// token, in a URL applies to that server and takes precedence over the fields below.
    pub urls: String,
    /// The user, together with `password`.
    pub user: Option<String>,
    /// The password of `user`.
    pub password: Option<SecretString>,
    /// The token, if the server expects no user.
    pub token: Option<SecretString>,
    /// The file with a user's JWT and key.
    pub credentials_file: Option<PathBuf>,
    /// The file with the certificate authorities that sign servers' certificates (PEM). If set,
    /// every connection uses TLS.
    pub ca_file: Option<PathBuf>,
    /// The file with the certificate to present to servers (PEM). If set, every connection uses
    /// TLS.
    pub certificate_file: Option<PathBuf>,
    /// The file with the private key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// The prefix of all subjects.
    pub subject_prefix: String,
    /// The name of this connection in servers' reports.
    pub name: String,
}

impl fmt::Debug for NatsOptions {
    /// Omits everything that may be or contain a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("subject_prefix", &self.subject_prefix)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The reason why the options can never lead to a connection.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A server's URL is invalid.
    #[error(
        "entry {number} in the list of servers is invalid: expected a URL such as \
         nats://127.0.0.1:4222 or tls://nats.example.com"
    )]
    Url {
        /// Its position in the list, from 1. The URL itself may contain a password.
        number: usize,
    },
    /// There is a user without a password, or a password without a user.
    #[error("a user and a password must be given together, but only one of them is")]
    HalfLogin,
    /// There is a certificate without a key, or a key without a certificate.
    #[error("a certificate and its key must be given together, but only one of them is")]
    HalfCertificate,
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file does not have the expected content.
    #[error("{} does not contain {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
    },
    /// The system cannot start a thread.
    #[error("cannot start the thread of the bus: {0}")]
    Thread(#[source] std::io::Error),
}

/// One server, and the credentials in its URL.
pub(super) struct NatsServer {
    pub(super) addr: ServerAddr,
    login: UrlLogin,
}

/// The credentials in a server's URL.
enum UrlLogin {
    Absent,
    Password(String, SecretString),
    Token(SecretString),
}

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.addr.host(), self.addr.port())
    }
}

impl NatsServer {
    fn parse(number: usize, url: &str) -> Result<Self, NatsError> {
        let addr: Option<ServerAddr> = url.trim().parse().ok();
        let addr = addr
            .filter(|addr| ["nats", "tls"].contains(&addr.scheme()) && !addr.host().is_empty())
            .ok_or(NatsError::Url { number })?;
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = match (addr.username().map(decoded), addr.password().map(decoded)) {
            (None, _) => UrlLogin::Absent,
            (Some(user), Some(password)) => UrlLogin::Password(user, password.into()),
            (Some(token), None) => UrlLogin::Token(token.into()),
        };
        Ok(Self { addr, login })
    }
}

impl NatsOptions {
    /// Returns the servers in random order, so that processes spread over them.
    pub(super) fn servers(&self) -> Result<Vec<NatsServer>, NatsError> {
        let urls = self.urls.split(',').enumerate();
        let servers: Result<Vec<_>, _> = urls
            .map(|(index, url)| NatsServer::parse(index + 1, url))
            .collect();
        let mut servers = servers?;
        servers.shuffle(&mut rand::rng());
        Ok(servers)
    }

    /// Returns the options with which async-nats connects to `server`.
    pub(super) fn to_server(&self, server: &NatsServer) -> Result<ConnectOptions, NatsError> {
        let options = ConnectOptions::new()
            .name(&self.name)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .ignore_discovered_servers()
            .require_tls(self.ca_file.is_some() || self.certificate_file.is_some());
        self.with_tls(self.with_login(server, options)?)
    }

    fn with_login(
        &self,
        server: &NatsServer,
        mut options: ConnectOptions,
    ) -> Result<ConnectOptions, NatsError> {
        match &server.login {
            UrlLogin::Token(token) => return Ok(options.token(plain(token))),
            UrlLogin::Password(user, password) => {
                return Ok(options.user_and_password(user.clone(), plain(password)));
            }
            UrlLogin::Absent => {}
        }
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                options = options.user_and_password(user.clone(), plain(password));
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(NatsError::HalfLogin),
        }
        if let Some(token) = &self.token {
            options = options.token(plain(token));
        }
        if let Some(path) = &self.credentials_file {
            let content = SecretString::from(String::from_utf8_lossy(&read(path)?).into_owned());
            options = options
                .credentials(content.expose_secret())
                .map_err(|_| content_error(path, "a user's JWT and key"))?;
        }
        Ok(options)
    }

    fn with_tls(&self, mut options: ConnectOptions) -> Result<ConnectOptions, NatsError> {
        if let Some(path) = &self.ca_file {
            check_certificates(path)?;
            options = options.add_root_certificates(path.clone());
        }
        match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                check_certificates(certificate)?;
                PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|_| content_error(key, "a private key (PEM)"))?;
                options = options.add_client_certificate(certificate.clone(), key.clone());
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(NatsError::HalfCertificate),
        }
        Ok(options)
    }
}

/// Returns a secret in plain text for async-nats, which has no type for secrets.
fn plain(secret: &SecretString) -> String {
    secret.expose_secret().to_owned()
}

fn check_certificates(path: &Path) -> Result<(), NatsError> {
    let content = read(path)?;
    let mut certificates = CertificateDer::pem_slice_iter(&content).peekable();
    let valid = certificates.peek().is_some() && certificates.all(|found| found.is_ok());
    if valid {
        Ok(())
    } else {
        Err(content_error(path, "one or more certificates (PEM)"))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, NatsError> {
    std::fs::read(path).map_err(|source| NatsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn content_error(path: &Path, expected: &'static str) -> NatsError {
    NatsError::Content {
        path: path.to_owned(),
        expected,
    }
}
