//! [`FileWatchers`]: everything that an edge reads from files while it runs.

use prometheus::Registry;
use tickstorm_service::file_watch::FileWatch;

use crate::auth::CredentialWatcher;
use crate::config::Config;
use crate::ip_lists::IpListWatcher;
use crate::start_error::StartError;
use crate::tls::{TlsFileMetrics, TlsWatcher};

/// The files, which are not watched yet.
pub(crate) struct FileWatchers {
    pub(crate) credentials: CredentialWatcher,
    pub(crate) ip_lists: IpListWatcher,
    /// `None` if clients connect without TLS.
    pub(crate) tls: Option<TlsWatcher>,
}

impl FileWatchers {
    /// Loads the files, and registers the metrics of TLS if it is on.
    ///
    /// # Errors
    /// Returns an error if a file can't be used.
    pub(crate) fn load(config: &Config, registry: &Registry) -> Result<Self, StartError> {
        let tls = config.tls.clone().map(TlsWatcher::load).transpose()?;
        if let Some(tls) = &tls {
            TlsFileMetrics::register(registry, tls.state())?;
        }
        Ok(Self {
            credentials: CredentialWatcher::load(config.credentials.clone())?,
            ip_lists: IpListWatcher::load(config.ip_lists.clone())?,
            tls,
        })
    }

    /// Returns access to all files.
    pub(crate) fn access(&self) -> Vec<FileWatch> {
        let tls = self.tls.as_ref().map(TlsWatcher::access);
        let others = [self.credentials.access(), self.ip_lists.access()];
        others.into_iter().chain(tls).collect()
    }
}
