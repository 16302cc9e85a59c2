//! TLS for the admin port: its certificate and key, read from their files and reread when these
//! change. Files that do not fit together never take effect: those in use stay in use.

use std::{path::PathBuf, sync::Arc};

use prometheus::{IntCounter, Registry};
use rustls::ServerConfig;
use tickstorm_tls::{ConfigError, server_config};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::AdminError;
use crate::{
    env::Settings,
    file_watch::{FileSet, FilesInUse},
    metrics::{self, RegisterError},
    settings::{ADMIN_TLS_CERT_FILE, ADMIN_TLS_KEY_FILE},
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

/// Counts what became of changed files.
struct ReloadMetrics {
    loaded: IntCounter,
    failed: IntCounter,
}

impl ReloadMetrics {
    fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let reloads = metrics::counters(
            registry,
            "tickstorm_admin_tls_reloads_total",
            "Changes of the admin port's TLS files, by result: loaded, or failed, after which the \
             old files stay in use.",
            &["result"],
        )?;
        Ok(Self {
            loaded: reloads.with_label_values(&["loaded"]),
            failed: reloads.with_label_values(&["failed"]),
        })
    }
}

struct AdminTlsFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// The contents of the files. There is no `Debug` implementation, so that the key can't be printed.
#[derive(PartialEq, Eq)]
struct AdminTlsContents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
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
    type Contents = AdminTlsContents;
    type Loaded = Arc<ServerConfig>;
    type Error = AdminTlsError;

    fn read(&self) -> Result<AdminTlsContents, AdminTlsError> {
        Ok(AdminTlsContents {
            certificate: self.certificate().read()?,
            key: Zeroizing::new(self.key().read()?),
        })
    }

    fn load(&self, contents: &AdminTlsContents) -> Result<Arc<ServerConfig>, AdminTlsError> {
        let chain = self.certificate().certificates(&contents.certificate)?;
        let key = self.key().private_key(&contents.key)?;
        let mut config =
            server_config(chain.clone(), key, None).map_err(AdminTlsError::CertificateAndKey)?;
        self.certificate().warn_of_slow_key(&chain);
        // Here rustls keeps the connections.
        config.enable_secret_extraction = false;
        Ok(Arc::new(config))
    }
}

/// The files in use, and the configuration made of them.
pub(super) struct AdminTls {
    files: FilesInUse<AdminTlsFiles>,
    configs: watch::Sender<Arc<ServerConfig>>,
    metrics: ReloadMetrics,
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
        let (files, config) = FilesInUse::load(files)?;
        Ok(Some(Self {
            files,
            configs: watch::Sender::new(config),
            metrics: ReloadMetrics::register(registry)?,
        }))
    }

    /// Returns the configuration of new connections, which changes with the files.
    pub(super) fn configs(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.configs.subscribe()
    }

    /// Rereads the files every second and publishes a new configuration when their contents change.
    /// If the new contents can't be used, the configuration stays as it is and one error is logged.
    pub(super) async fn run(self) {
        let Self {
            files,
            configs,
            metrics,
        } = self;
        let publish = |changed| {
            if let Some(config) = changed {
                configs.send_replace(config);
                metrics.loaded.inc();
                tracing::info!("the admin port's TLS files changed: new connections use them");
            }
        };
        let refuse = |error: &str| {
            metrics.failed.inc();
            tracing::error!(
                error,
                "the admin port's TLS files can't be reread; the old ones stay in use"
            );
        };
        files
            .watch("the admin port's TLS files", publish, refuse)
            .await;
    }
}
