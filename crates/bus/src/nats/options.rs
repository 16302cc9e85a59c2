//! The servers and credentials of a NATS connection. What may come from files is [`NatsSecrets`],
//! which can be replaced while the process runs, so that certificates and credentials can be
//! renewed.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rand::seq::SliceRandom;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use secrecy::SecretString;
use url::Url;
use zeroize::Zeroizing;

use super::login::{Login, UserCredentials};

/// The port of a server whose URL has none.
const PORT: u16 = 4_222;

/// The servers and credentials of a NATS connection.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// The servers' URLs, `nats://` or `tls://`, separated by commas. A user and password, or a
    /// token, in a URL applies to that server and takes precedence over the fields below.
    pub urls: String,
    /// The user, together with `password`.
    pub user: Credential,
    /// The password of `user`.
    pub password: Credential,
    /// The token, if the server expects no user.
    pub token: Credential,
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
    /// Whether to send and to read the headers of messages. Without them, the server removes those
    /// of other clients.
    pub headers: bool,
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

/// A user, password or token, which may be absent.
#[derive(Clone, Default)]
pub struct Credential(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Absent,
    Fixed(SecretString),
    File {
        path: PathBuf,
        read: ReadCredential,
    },
}

/// A function that reads a credential from its file.
type ReadCredential = Arc<dyn Fn(&Path) -> CredentialResult + Send + Sync>;

/// The credential in a file, if the file contains one.
pub type CredentialResult = Result<Option<SecretString>, CredentialError>;

/// The reason why a file contains no valid credential. Its text must not contain the file's.
pub type CredentialError = Box<dyn Error + Send + Sync>;

impl Credential {
    /// Creates a credential that `read` reads from `path`. It is absent if `read` returns `None`.
    /// The rules for such files are the caller's.
    pub fn from_file(
        path: PathBuf,
        read: impl Fn(&Path) -> CredentialResult + Send + Sync + 'static,
    ) -> Self {
        let read = Arc::new(read);
        Self(Source::File { path, read })
    }

    /// Returns the current value.
    ///
    /// # Errors
    /// Returns an error if its file cannot be read or contains no valid credential.
    pub fn current(&self) -> Result<Option<SecretString>, NatsError> {
        match &self.0 {
            Source::Absent => Ok(None),
            Source::Fixed(value) => Ok(Some(value.clone())),
            Source::File { path, read } => read(path).map_err(|source| NatsError::Credential {
                path: path.clone(),
                source,
            }),
        }
    }
}

impl From<SecretString> for Credential {
    fn from(value: SecretString) -> Self {
        Self(Source::Fixed(value))
    }
}

impl From<&str> for Credential {
    fn from(value: &str) -> Self {
        SecretString::from(value).into()
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
    /// A server's host is neither a valid name nor an IP address.
    #[error("the host {0:?} in the list of servers is neither a valid name nor an IP address")]
    Host(String),
    /// There is a user without a password, or a password without a user.
    #[error("a user and a password must be given together, but only one of them is")]
    HalfLogin,
    /// There is more than one login.
    #[error("user and password, token and credentials file are alternatives, but several are set")]
    SeveralLogins,
    /// There is a certificate without a key, or a key without a certificate.
    #[error("a certificate and its key must be given together, but only one of them is")]
    HalfCertificate,
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file with a user, password or token cannot be used.
    #[error("{}: {source}", path.display())]
    Credential {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: CredentialError,
    },
    /// A file starts with a byte-order mark, so that its first line would not be recognised.
    #[error("{} starts with a byte-order mark: save it without one", path.display())]
    ByteOrderMark {
        /// The file.
        path: PathBuf,
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
    Thread(#[source] io::Error),
}

/// One server, and the credentials in its URL.
pub(super) struct NatsServer {
    /// The host name or IP address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The host as a certificate names it.
    tls_name: ServerName<'static>,
    /// Whether its URL demands TLS.
    has_tls_url: bool,
    login: UrlLogin,
}

/// The credentials in a server's URL.
enum UrlLogin {
    Absent,
    Password(SecretString, SecretString),
    Token(SecretString),
}

/// What a connection to one server needs.
pub(super) struct ServerOptions {
    pub(super) name: String,
    pub(super) login: Login,
    /// The configuration of TLS, in case that the server demands it.
    pub(super) tls: Arc<ClientConfig>,
    pub(super) tls_name: ServerName<'static>,
    /// Whether this side demands TLS.
    pub(super) requires_tls: bool,
    /// Whether to send and to read headers, if the server passes them on.
    pub(super) headers: bool,
}

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl NatsServer {
    fn parse(number: usize, url: &str) -> Result<Self, NatsError> {
        let url = Url::parse(url.trim())
            .ok()
            .filter(|url| ["nats", "tls"].contains(&url.scheme()))
            .ok_or(NatsError::Url { number })?;
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(NatsError::Url { number });
        }
        let tls_name = ServerName::try_from(host.to_owned());
        let decoded = |text| {
            let text = percent_decode_str(text).decode_utf8_lossy();
            SecretString::from(text.into_owned())
        };
        let login = match (url.username(), url.password()) {
            ("", _) => UrlLogin::Absent,
            (user, Some(password)) => UrlLogin::Password(decoded(user), decoded(password)),
            (token, None) => UrlLogin::Token(decoded(token)),
        };
        Ok(Self {
            host: host.to_owned(),
            tls_name: tls_name.map_err(|_| NatsError::Host(host.to_owned()))?,
            port: url.port().unwrap_or(PORT),
            has_tls_url: url.scheme() == "tls",
            login,
        })
    }
}

impl NatsOptions {
    /// Reads all files, and returns what connections need of them.
    ///
    /// # Errors
    /// Returns an error if no connection can be made with them: a file is unreadable or has the
    /// wrong content, or a credential is incomplete.
    pub fn secrets(&self) -> Result<NatsSecrets, NatsError> {
        Ok(NatsSecrets {
            login: self.login()?,
            authorities: self.authorities()?.map(Arc::new),
            certificate: self.certificate()?.map(Arc::new),
        })
    }

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

    /// Returns the options for a connection to `server`.
    pub(super) fn to_server(&self, server: &NatsServer, secrets: &NatsSecrets) -> ServerOptions {
        ServerOptions {
            name: self.name.clone(),
            headers: self.headers,
            login: secrets.login_to(server),
            tls: Arc::new(secrets.tls_config()),
            tls_name: server.tls_name.clone(),
            requires_tls: server.has_tls_url
                || self.ca_file.is_some()
                || self.certificate_file.is_some(),
        }
    }

    fn login(&self) -> Result<Login, NatsError> {
        let login = Login {
            user: match (self.user.current()?, self.password.current()?) {
                (Some(user), Some(password)) => Some((user, password)),
                (None, None) => None,
                (Some(_), None) | (None, Some(_)) => return Err(NatsError::HalfLogin),
            },
            token: self.token.current()?,
            credentials: self.credentials()?,
        };
        let logins = [
            login.user.is_some(),
            login.token.is_some(),
            login.credentials.is_some(),
        ];
        if logins.into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err(NatsError::SeveralLogins);
        }
        Ok(login)
    }

    fn credentials(&self) -> Result<Option<UserCredentials>, NatsError> {
        let Some(path) = &self.credentials_file else {
            return Ok(None);
        };
        let content = Zeroizing::new(read(path)?);
        UserCredentials::parse(&String::from_utf8_lossy(&content))
            .map(Some)
            .map_err(|_| content_error(path, "a user's JWT and key"))
    }

    fn authorities(&self) -> Result<Option<RootCertStore>, NatsError> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(path)? {
            let added = authorities.add(certificate);
            added.map_err(|_| content_error(path, CERTIFICATES))?;
        }
        Ok(Some(authorities))
    }

    fn certificate(&self) -> Result<Option<CertifiedKey>, NatsError> {
        match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                let private_key = PrivateKeyDer::from_pem_slice(&Zeroizing::new(read(key)?))
                    .map_err(|_| content_error(key, "a private key (PEM)"))?;
                let chain = certificates(certificate)?;
                CertifiedKey::from_der(chain, private_key, &default_provider())
                    .map(Some)
                    .map_err(|_| content_error(key, "the private key of the certificate"))
            }
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(NatsError::HalfCertificate),
        }
    }
}

/// What connections present to servers, and by which certificates they know them.
#[derive(Clone)]
pub struct NatsSecrets {
    /// The login for servers whose URL has none.
    login: Login,
    /// The certificate authorities; those of the system if absent.
    authorities: Option<Arc<RootCertStore>>,
    certificate: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for NatsSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSecrets").finish_non_exhaustive()
    }
}

impl NatsSecrets {
    fn login_to(&self, server: &NatsServer) -> Login {
        match &server.login {
            UrlLogin::Token(token) => Login {
                token: Some(token.clone()),
                ..Login::default()
            },
            UrlLogin::Password(user, password) => Login {
                user: Some((user.clone(), password.clone())),
                ..Login::default()
            },
            UrlLogin::Absent => self.login.clone(),
        }
    }

    fn tls_config(&self) -> ClientConfig {
        let authorities = self.authorities.clone().unwrap_or_else(|| {
            // Without any of them, no server with TLS is trusted, and connecting fails.
            let mut authorities = RootCertStore::empty();
            let system = rustls_native_certs::load_native_certs();
            authorities.add_parsable_certificates(system.certs);
            Arc::new(authorities)
        });
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .with_root_certificates(authorities);
        match &self.certificate {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(
                SingleCertAndKey::from(Arc::clone(certificate)),
            )),
            None => builder.with_no_client_auth(),
        }
    }
}

/// The largest file that is read. A bundle of certificate authorities takes some 200 KB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

const CERTIFICATES: &str = "one or more certificates (PEM)";

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NatsError> {
    let content = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| content_error(path, CERTIFICATES))
}

fn read(path: &Path) -> Result<Vec<u8>, NatsError> {
    let content = read_bounded(path).map_err(|source| NatsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    if content.starts_with("\u{feff}".as_bytes()) {
        let path = path.to_owned();
        return Err(NatsError::ByteOrderMark { path });
    }
    Ok(content)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // The buffer has room from the start: growing it would leave copies of a key in memory.
    let expected = file.metadata()?.len().min(FILE_BYTES_MAX);
    let mut content = Vec::with_capacity(usize::try_from(expected).unwrap_or(0) + 1);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        let what = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(content)
}

fn content_error(path: &Path, expected: &'static str) -> NatsError {
    NatsError::Content {
        path: path.to_owned(),
        expected,
    }
}
