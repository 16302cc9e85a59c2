//! TLS for the admin port: its certificate and key, read from their files and reread when these
//! change. Files that do not fit together never take effect: those in use stay in use.

use std::{path::PathBuf, sync::Arc};

use prometheus::Registry;
use rustls::ServerConfig;
use tickstorm_tls::{ConfigError, server_config};
use tokio::sync::watch;

use super::AdminError;
use crate::{
    env::{Setting, Settings},
    file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile},
    settings::{ADMIN_TLS_CERT_FILE, ADMIN_TLS_KEY_FILE},
    tls_expiry::{ExpiringFile, ExpiryLog, FileContent, FileSummary, register_expiry},
    tls_file::{TlsFile, TlsFileError},
};

/// The reason that the admin port's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminTlsError {
    /// A file can't be read, or does not contain what it should.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// Certificate and key can't be used, or do not belong together.
    #[error("ADMIN_TLS_CERT_FILE and ADMIN_TLS_KEY_FILE can't be used together")]
    CertificateAndKey(#[source] ConfigError),
}

const CERTIFICATE: ExpiringFile = ExpiringFile {
    setting: ADMIN_TLS_CERT_FILE.name(),
    content: FileContent::Chain,
    before_expiry: "replace it before programs that check it refuse to use the admin port",
    after_expiry: "programs that check it refuse to use the admin port until it is replaced",
};

struct AdminTlsFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl AdminTlsFiles {
    /// Returns the files that are set. The check of the settings makes sure that both are or none.
    fn from_settings(settings: &Settings) -> Option<Self> {
        Some(Self {
            certificate: settings.get(&ADMIN_TLS_CERT_FILE)?,
            key: settings.get(&ADMIN_TLS_KEY_FILE)?,
        })
    }

    fn certificate(&self) -> TlsFile<'_> {
        TlsFile::new(ADMIN_TLS_CERT_FILE.name(), &self.certificate)
    }

    fn key(&self) -> TlsFile<'_> {
        TlsFile::new(ADMIN_TLS_KEY_FILE.name(), &self.key)
    }
}

impl FileSet for AdminTlsFiles {
    const NAME: &'static str = "the admin port's TLS files";
    const EFFECT: &'static str = "new connections use them";
    type Loaded = Loaded;
    type Error = AdminTlsError;

    fn files(&self) -> Vec<WatchedFile> {
        let [certificate, key] = [&ADMIN_TLS_CERT_FILE, &ADMIN_TLS_KEY_FILE].map(Setting::name);
        let loss = "clients that need a missing intermediate certificate refuse to connect";
        vec![
            WatchedFile::certificates(certificate, &self.certificate, loss),
            WatchedFile::value(key, &self.key, "nothing can connect"),
        ]
    }

    fn load(&self) -> Result<Loaded, AdminTlsError> {
        let (certificate, key) = (self.certificate(), self.key());
        let chain = certificate.certificates(&certificate.read()?)?;
        let key = key.private_key(&key.read()?)?;
        let mut config =
            server_config(chain.clone(), key, None).map_err(AdminTlsError::CertificateAndKey)?;
        certificate.warn_of_slow_key(&chain);
        // Here rustls keeps the connections.
        config.enable_secret_extraction = false;
        let summary = FileSummary::of_certificates(CERTIFICATE, &self.certificate, &chain);
        Ok(Loaded {
            config: Arc::new(config),
            summaries: vec![summary],
        })
    }
}

/// What was made of the contents of the files.
struct Loaded {
    config: Arc<ServerConfig>,
    summaries: Vec<FileSummary>,
}

/// The files in use, and the configuration made of them.
pub(super) struct AdminTls {
    files: FilesInUse<AdminTlsFiles>,
    configs: watch::Sender<Arc<ServerConfig>>,
    summaries: watch::Sender<Vec<FileSummary>>,
    counters: ReloadCounters,
}

impl AdminTls {
    /// Reads the files that `settings` name, if they do, makes the configuration of new
    /// connections, and registers the metrics.
    pub(super) fn load(
        settings: &Settings,
        registry: &Registry,
    ) -> Result<Option<Self>, AdminError> {
        let Some(files) = AdminTlsFiles::from_settings(settings) else {
            return Ok(None);
        };
        let (files, Loaded { config, summaries }) = FilesInUse::load(files)?;
        let summaries = watch::Sender::new(summaries);
        register_expiry(registry, summaries.subscribe())?;
        Ok(Some(Self {
            files,
            configs: watch::Sender::new(config),
            summaries,
            counters: ReloadCounters::register(
                registry,
                "tickstorm_admin_tls_reloads_total",
                "Changes of the admin port's TLS files, by result: loaded, or failed, after which \
                 the old files stay in use.",
            )?,
        }))
    }

    /// Returns access to the files.
    pub(super) fn access(&self) -> FileWatch {
        self.files.access()
    }

    /// Returns the configuration of new connections, which changes with the files.
    pub(super) fn configs(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.configs.subscribe()
    }

    /// Watches the files and publishes a new configuration when they have changed. A certificate
    /// that has expired or soon will is logged.
    pub(super) async fn run(self) {
        let Self {
            files,
            configs,
            summaries,
            counters,
        } = self;
        let expiry_log = ExpiryLog::default().run(summaries.subscribe());
        let publish = |changed| {
            if let Some(Loaded {
                config,
                summaries: changed,
            }) = changed
            {
                configs.send_replace(config);
                summaries.send_replace(changed);
            }
        };
        tokio::join!(files.watch(counters, publish, |_| ()), expiry_log);
    }
}
