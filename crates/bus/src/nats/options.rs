//! Where NATS is and who this process is there. What is read from files is read again for each connection, so that certificates
//! and credentials can be renewed while the process runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use rand::seq::SliceRandom;
use secrecy::{ExposeSecret, SecretString};

/// async-nats gives a connection up when a third ping is due and two have no answer: three of these after the last sign of life,
/// which is to be within three seconds.
const PING_INTERVAL: Duration = Duration::from_millis(900);

/// Until one address of a server has taken the connection, TLS included: ten round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages that may wait for this process to look at them: as many as a subscription keeps.
const SUBSCRIPTION_CAPACITY: usize = 4_096;

/// Where NATS is and who this process is there.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// The servers' URLs, `nats://` or `tls://`, separated by commas. A user and password, or a token, in one of them is for
    /// that server and goes before those below.
    pub urls: String,
    /// User, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<SecretString>,
    /// Token, where there is no user.
    pub token: Option<SecretString>,
    /// File with a user's JWT and key.
    pub credentials_file: Option<PathBuf>,
    /// File with the authorities that sign servers' certificates (PEM). With it every connection is by TLS.
    pub ca_file: Option<PathBuf>,
    /// File with the certificate to show to servers (PEM). With it every connection is by TLS.
    pub certificate_file: Option<PathBuf>,
    /// File with the key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// What all subjects begin with.
    pub subject_prefix: String,
    /// What servers call this connection in their reports.
    pub name: String,
}

impl fmt::Debug for NatsOptions {
    /// Leaves out everything that may be or hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("subject_prefix", &self.subject_prefix)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why there can be no connection ever.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A server's URL is none.
    #[error(
        "server {number} of the list is no URL such as nats://127.0.0.1:4222 or tls://nats.example.com"
    )]
    Url {
        /// Its place in the list, from 1: the URL itself may hold a password.
        number: usize,
    },
    /// A user without a password or the other way round.
    #[error("a user and a password are needed, or neither")]
    HalfLogin,
    /// A certificate without a key or the other way round.
    #[error("a certificate and its key are needed, or neither")]
    HalfCertificate,
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {expected} is expected in it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What there should be.
        expected: &'static str,
    },
    /// The system gives no thread.
    #[error("no thread for the bus: {0}")]
    Thread(#[source] std::io::Error),
}

/// One server and who this process is there.
pub(super) struct NatsServer {
    pub(super) addr: ServerAddr,
    login: UrlLogin,
}

/// What a server's URL says about who this process is there.
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
    /// The servers, in an order by chance, so that processes spread over them.
    pub(super) fn servers(&self) -> Result<Vec<NatsServer>, NatsError> {
        let urls = self.urls.split(',').enumerate();
        let servers: Result<Vec<_>, _> = urls
            .map(|(index, url)| NatsServer::parse(index + 1, url))
            .collect();
        let mut servers = servers?;
        servers.shuffle(&mut rand::rng());
        Ok(servers)
    }

    /// What async-nats needs to connect to `server`.
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

/// What async-nats takes, which has no type for secrets.
fn plain(secret: &SecretString) -> String {
    secret.expose_secret().to_owned()
}

fn check_certificates(path: &Path) -> Result<(), NatsError> {
    let content = read(path)?;
    let mut certificates = CertificateDer::pem_slice_iter(&content).peekable();
    let sound = certificates.peek().is_some() && certificates.all(|found| found.is_ok());
    if sound {
        Ok(())
    } else {
        Err(content_error(path, "one certificate or more (PEM)"))
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
