//! TLS for clients: certificate, key, client authorities and revocation list, read from their files
//! and reread when these change. A set of files that does not fit together never takes effect: the
//! files that are in use stay in use.

mod file_metrics;
mod refusals;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::ParsedCertificate;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tickstorm_service::file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile};
use tickstorm_service::tls_expiry::{ExpiringFile, ExpiryLog, FileContent, FileSummary};
use tickstorm_service::tls_file::{TlsFile, TlsFileError};
use tickstorm_timebase::{HostClock as _, SystemHost};
use tickstorm_tls::{ConfigError, provider, server_config};
use tokio::sync::watch;

pub(crate) use self::file_metrics::TlsFileMetrics;
pub(crate) use self::refusals::Refusals;
pub(crate) use self::state::TlsState;

const CERTIFICATE: ExpiringFile = ExpiringFile {
    setting: "TLS_CERT_FILE",
    content: FileContent::Chain,
    before_expiry: "replace it before clients refuse to connect",
    after_expiry: "clients refuse to connect until it is replaced",
};

const AUTHORITIES: ExpiringFile = ExpiringFile {
    setting: "TLS_CA_FILE",
    content: FileContent::Authorities,
    // webpki takes an authority as given and checks only the certificates below it.
    before_expiry: "replace it, and the clients' certificates that it has signed",
    after_expiry: "the edge still accepts certificates that it has signed; replace it, or remove \
        it from the file",
};

const REVOKED: ExpiringFile = ExpiringFile {
    setting: "TLS_CRL_FILE",
    content: FileContent::RevocationLists,
    before_expiry: "replace it before the edge refuses the clients with certificates of its \
        authority",
    after_expiry: "the edge refuses every client with a certificate of its authority until the \
        list is replaced",
};

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
    /// A file can't be read, or does not contain what it should.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// A certificate of the edge's own chain can't be parsed.
    #[error(
        "TLS_CERT_FILE={}: certificate number {number} in the file can't be parsed",
        path.display()
    )]
    Unparsable {
        /// The file.
        path: PathBuf,
        /// The certificate's number in the file, from 1.
        number: usize,
    },
    /// Certificate and key can't be used, or do not belong together.
    #[error("TLS_CERT_FILE and TLS_KEY_FILE can't be used together")]
    CertificateAndKey(#[source] ConfigError),
    /// A certificate of TLS_CA_FILE can't be used.
    #[error(
        "TLS_CA_FILE={}: certificate number {number} in the file can't be used",
        path.display()
    )]
    Authority {
        /// The file.
        path: PathBuf,
        /// The certificate's number in the file, from 1.
        number: usize,
        /// The error of rustls.
        source: rustls::Error,
    },
    /// TLS_CA_FILE and TLS_CRL_FILE can't be used.
    #[error("TLS_CA_FILE and TLS_CRL_FILE can't be used")]
    Clients(#[source] VerifierBuilderError),
}

/// The files, as they are reread.
struct WatchedFiles(TlsFiles);

/// What was made of the contents of the files.
struct Loaded {
    config: Arc<ServerConfig>,
    summaries: Vec<FileSummary>,
}

/// The configuration of new connections.
#[derive(Clone)]
pub(crate) struct TlsConfigs {
    pub(crate) current: watch::Receiver<Arc<ServerConfig>>,
    /// Whether the configurations request client certificates. This never changes.
    pub(crate) client_auth: ClientAuth,
}

/// The files in use, and the configuration made of them.
pub(crate) struct TlsWatcher {
    files: FilesInUse<WatchedFiles>,
    configs: watch::Sender<Arc<ServerConfig>>,
    state: watch::Sender<TlsState>,
    client_auth: ClientAuth,
}

impl TlsFiles {
    fn certificate(&self) -> TlsFile<'_> {
        TlsFile::new("TLS_CERT_FILE", &self.certificate)
    }

    fn key(&self) -> TlsFile<'_> {
        TlsFile::new("TLS_KEY_FILE", &self.key)
    }

    const fn client_auth(&self) -> ClientAuth {
        match self.clients {
            Some(_) => ClientAuth::RequireVerify,
            None => ClientAuth::None,
        }
    }
}

impl FileSet for WatchedFiles {
    const NAME: &'static str = "TLS files";
    const EFFECT: &'static str = "new connections use them";
    type Loaded = Loaded;
    type Error = TlsError;

    fn files(&self) -> Vec<WatchedFile> {
        let Self(files) = self;
        let fewer_certificates =
            "clients that need a missing intermediate certificate refuse to connect";
        let fewer_authorities = "clients with certificates of these authorities are refused";
        let mut watched = vec![
            WatchedFile::certificates("TLS_CERT_FILE", &files.certificate, fewer_certificates),
            WatchedFile::value("TLS_KEY_FILE", &files.key, "no client can connect"),
        ];
        if let Some(ClientAuthFiles {
            authorities,
            revoked,
        }) = &files.clients
        {
            let file = WatchedFile::certificates("TLS_CA_FILE", authorities, fewer_authorities);
            watched.push(file);
            watched.extend(revoked.as_deref().map(|revoked| {
                WatchedFile::revocation_lists("TLS_CRL_FILE", revoked, fewer_authorities)
            }));
        }
        watched
    }

    fn load(&self) -> Result<Loaded, TlsError> {
        let Self(files) = self;
        let (certificate, key) = (files.certificate(), files.key());
        let chain = certificate.certificates(&certificate.read()?)?;
        let mut summaries = vec![summary_of_chain(&files.certificate, &chain)?];
        let key = key.private_key(&key.read()?)?;
        let clients = files.clients.as_ref();
        let verifier = clients.map(|files| files.verifier(&mut summaries));
        let verifier = verifier.transpose()?;
        let config =
            server_config(chain.clone(), key, verifier).map_err(TlsError::CertificateAndKey)?;
        certificate.warn_of_slow_key(&chain);
        Ok(Loaded {
            config: Arc::new(config),
            summaries,
        })
    }
}

/// Summarises the edge's certificate chain.
///
/// # Errors
/// Returns an error if the file contains something that is not a certificate: rustls, which passes
/// a chain on as it is, would not notice.
fn summary_of_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Result<FileSummary, TlsError> {
    let summary = FileSummary::of_certificates(CERTIFICATE, path, chain);
    for number in summary.unknown() {
        if ParsedCertificate::try_from(&chain[number - 1]).is_err() {
            let (path, number) = (path.to_owned(), *number);
            return Err(TlsError::Unparsable { path, number });
        }
    }
    Ok(summary)
}

impl ClientAuthFiles {
    fn authorities(&self) -> TlsFile<'_> {
        TlsFile::new("TLS_CA_FILE", &self.authorities)
    }

    fn revoked(&self) -> Option<TlsFile<'_>> {
        let path = self.revoked.as_deref()?;
        Some(TlsFile::new("TLS_CRL_FILE", path))
    }

    /// Reads the files, makes the verifier of clients' certificates, and adds the summaries of the
    /// files.
    fn verifier(
        &self,
        summaries: &mut Vec<FileSummary>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let authorities = self.authorities();
        let authorities = authorities.certificates(&authorities.read()?)?;
        let summary = FileSummary::of_certificates(AUTHORITIES, &self.authorities, &authorities);
        summaries.push(summary);
        let mut roots = RootCertStore::empty();
        for (number, authority) in (1..).zip(authorities) {
            roots.add(authority).map_err(|source| TlsError::Authority {
                path: self.authorities.clone(),
                number,
                source,
            })?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if let (Some(path), Some(file)) = (&self.revoked, self.revoked()) {
            let lists: Vec<CertificateRevocationListDer<'_>> =
                file.parse(&file.read()?, "revocation list")?;
            summaries.push(FileSummary::of_lists(REVOKED, path, &lists));
            builder = builder
                .with_crls(lists)
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration();
        }
        let verifier = builder.build().map_err(TlsError::Clients)?;
        Ok(verifier)
    }
}

impl TlsWatcher {
    /// Reads the files and makes the configuration of new connections.
    ///
    /// # Errors
    /// Returns an error if a file can't be read or its contents can't be used.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let client_auth = files.client_auth();
        let (files, Loaded { config, summaries }) = FilesInUse::load(WatchedFiles(files))?;
        let now = SystemHost::new(0).read().unix;
        let state = TlsState::new(client_auth, summaries, now);
        Ok(Self {
            files,
            configs: watch::Sender::new(config),
            state: watch::Sender::new(state),
            client_auth,
        })
    }

    /// Returns the configuration of new connections, which changes with the files.
    pub(crate) fn configs(&self) -> TlsConfigs {
        TlsConfigs {
            current: self.configs.subscribe(),
            client_auth: self.client_auth,
        }
    }

    /// Returns access to the files.
    pub(crate) fn access(&self) -> FileWatch {
        self.files.access()
    }

    /// Returns the state of the files, for operators.
    pub(crate) fn state(&self) -> watch::Receiver<TlsState> {
        self.state.subscribe()
    }

    /// Watches the files and publishes a new configuration when they have changed. Certificates and
    /// lists that have expired or soon will are logged too.
    pub(crate) async fn run(self, counters: ReloadCounters) {
        let Self {
            files,
            configs,
            state,
            client_auth: _,
        } = self;
        let expiry_log = ExpiryLog::default().run(state.subscribe());
        let publish = |changed| match changed {
            Some(Loaded { config, summaries }) => {
                configs.send_replace(config);
                let now = SystemHost::new(0).read().unix;
                state.send_modify(|state| state.reloaded(summaries, now));
            }
            None => state.send_modify(|state| state.set_reload_error(None)),
        };
        let refuse = |error: &str| {
            state.send_modify(|state| state.set_reload_error(Some(error.to_owned())));
        };
        tokio::join!(files.watch(counters, publish, refuse), expiry_log);
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;
    use tickstorm_testkit::CertificateAuthority;

    use super::*;

    #[test]
    fn what_is_not_a_certificate_is_named_by_its_number() {
        let issued = CertificateAuthority::new().issue("edge.test");
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let chain = [certificate, vec![1, 2, 3].into()];
        let error = summary_of_chain(Path::new("edge.crt"), &chain).unwrap_err();
        let expected = "TLS_CERT_FILE=edge.crt: certificate number 2 in the file can't be parsed";
        assert_eq!(error.to_string(), expected);
    }
}
