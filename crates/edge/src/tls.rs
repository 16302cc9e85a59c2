//! TLS for clients: certificate, key, client authorities and revocation list, read from their files
//! and reread when these change. A set of files that does not fit together never takes effect: the
//! files that are in use stay in use.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tickstorm_tls::{ConfigError, provider, server_config};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::file_watch;
use crate::metrics::TlsMetrics;

/// The largest file that is read. A bundle of certificate authorities takes some 200 KB.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients need no certificate.
    None,
    /// Clients must present a certificate of an authority in TLS_CA_FILE.
    RequireVerify,
}

tickstorm_service::choices!(
    ClientAuth: "none" => Self::None, "require_verify" => Self::RequireVerify
);

/// The files of TLS for clients.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// TLS_CERT_FILE.
    pub certificate: PathBuf,
    /// TLS_KEY_FILE.
    pub key: PathBuf,
    /// The files for checking clients' certificates, if they must present one.
    pub clients: Option<ClientAuthFiles>,
}

/// The files for checking clients' certificates.
#[derive(Clone, Debug)]
pub struct ClientAuthFiles {
    /// TLS_CA_FILE.
    pub authorities: PathBuf,
    /// TLS_CRL_FILE.
    pub revoked: Option<PathBuf>,
}

/// A file of TLS is not usable, or the files do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{setting}={}: the file can't be read", path.display())]
    File {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The error from the system.
        source: io::Error,
    },
    /// A file does not contain what it should.
    #[error("{setting}={}: the file contains no {expected} in PEM format", path.display())]
    Content {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the file should contain.
        expected: &'static str,
        /// The error of the parser, unless the file is merely empty.
        source: Option<pem::Error>,
    },
    /// Certificate and key can't be used, or do not belong together.
    #[error("TLS_CERT_FILE and TLS_KEY_FILE can't be used together")]
    CertificateAndKey(#[source] ConfigError),
    /// A certificate of TLS_CA_FILE can't be used.
    #[error("TLS_CA_FILE contains a certificate that can't be used")]
    Authority(#[source] rustls::Error),
    /// TLS_CA_FILE and TLS_CRL_FILE can't be used.
    #[error("TLS_CA_FILE and TLS_CRL_FILE can't be used")]
    Clients(#[source] VerifierBuilderError),
}

/// The contents of the files. There is no `Debug` implementation, so that the key can't be printed.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    authorities: Option<Vec<u8>>,
    revoked: Option<Vec<u8>>,
}

/// The files in use, and the configuration made of them.
pub(crate) struct TlsWatcher {
    files: TlsFiles,
    contents: Contents,
    configs: watch::Sender<Arc<ServerConfig>>,
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let clients = self.clients.as_ref();
        let revoked = clients.and_then(|clients| clients.revoked.as_ref());
        Ok(Contents {
            certificate: read("TLS_CERT_FILE", &self.certificate)?,
            key: Zeroizing::new(read("TLS_KEY_FILE", &self.key)?),
            authorities: clients
                .map(|clients| read("TLS_CA_FILE", &clients.authorities))
                .transpose()?,
            revoked: revoked.map(|path| read("TLS_CRL_FILE", path)).transpose()?,
        })
    }

    fn config(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let of_certificate = ("TLS_CERT_FILE", self.certificate.as_path());
        let chain = parse(of_certificate, "certificate", &contents.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|source| TlsError::Content {
            setting: "TLS_KEY_FILE",
            path: self.key.clone(),
            expected: "private key",
            source: Some(source),
        })?;
        let verifier = match (&self.clients, &contents.authorities) {
            (Some(files), Some(authorities)) => {
                let revoked = contents.revoked.as_deref();
                Some(files.verifier(authorities, revoked)?)
            }
            (_, _) => None,
        };
        server_config(chain, key, verifier).map_err(TlsError::CertificateAndKey)
    }
}

impl ClientAuthFiles {
    fn verifier(
        &self,
        authorities: &[u8],
        revoked: Option<&[u8]>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let of_authorities = ("TLS_CA_FILE", self.authorities.as_path());
        let mut roots = RootCertStore::empty();
        for authority in parse::<CertificateDer<'_>>(of_authorities, "certificate", authorities)? {
            roots.add(authority).map_err(TlsError::Authority)?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if let (Some(path), Some(revoked)) = (&self.revoked, revoked) {
            let lists: Vec<CertificateRevocationListDer<'_>> =
                parse(("TLS_CRL_FILE", path), "revocation list", revoked)?;
            builder = builder
                .with_crls(lists)
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration();
        }
        let verifier = builder.build().map_err(TlsError::Clients)?;
        Ok(verifier)
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut content = Vec::new();
    let reading = File::open(path).and_then(|file| {
        file.take(FILE_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > FILE_MAX {
            let what = format!("it is larger than {FILE_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        Ok(())
    });
    match reading {
        Ok(_) => Ok(content),
        Err(source) => Err(TlsError::File {
            setting,
            path: path.to_owned(),
            source,
        }),
    }
}

/// Parses all PEM blocks of a kind. A file without any is an error.
fn parse<T: PemObject>(
    (setting, path): (&'static str, &Path),
    expected: &'static str,
    content: &[u8],
) -> Result<Vec<T>, TlsError> {
    let error = |source| TlsError::Content {
        setting,
        path: path.to_owned(),
        expected,
        source,
    };
    let parsed: Result<Vec<T>, _> = T::pem_slice_iter(content).collect();
    let parsed = parsed.map_err(|source| error(Some(source)))?;
    if parsed.is_empty() {
        return Err(error(None));
    }
    Ok(parsed)
}

impl TlsWatcher {
    /// Reads the files and makes the configuration of new connections.
    ///
    /// # Errors
    /// Returns an error if a file can't be read or its contents can't be used.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let config = Arc::new(files.config(&contents)?);
        Ok(Self {
            files,
            contents,
            configs: watch::Sender::new(config),
        })
    }

    /// Returns the configuration of new connections, which changes with the files.
    pub(crate) fn configs(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.configs.subscribe()
    }

    /// Rereads the files every second and publishes a new configuration when their contents change.
    /// If the new contents can't be used, the configuration stays as it is and one error is logged.
    pub(crate) async fn run(self, metrics: TlsMetrics) {
        let Self {
            files,
            mut contents,
            configs,
        } = self;
        let reload = move || {
            let new = files.read()?;
            if new == contents {
                return Ok::<_, TlsError>(None);
            }
            let config = Arc::new(files.config(&new)?);
            contents = new;
            Ok(Some(config))
        };
        let publish = |changed| {
            if let Some(config) = changed {
                configs.send_replace(config);
                metrics.reloaded.inc();
                tracing::info!("TLS files changed: new connections use them");
            }
        };
        let refuse = |error: &str| {
            metrics.reload_failed.inc();
            tracing::error!(error, "TLS files can't be reread; the old ones stay in use");
        };
        file_watch::watch("TLS files", reload, publish, refuse).await;
    }
}
