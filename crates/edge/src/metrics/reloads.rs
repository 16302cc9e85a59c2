//! The metrics of files that are read again when they change.

use prometheus::Registry;
use tickstorm_service::file_watch::ReloadCounters;
use tickstorm_service::metrics::RegisterError;

/// Counts what became of changed files, by their kind.
#[derive(Clone)]
pub(crate) struct ReloadMetrics {
    pub(crate) credentials: ReloadCounters,
    pub(crate) ip_lists: ReloadCounters,
    pub(crate) tls: ReloadCounters,
}

impl ReloadMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            credentials: ReloadCounters::register(
                registry,
                "tickstorm_credential_reloads_total",
                "Changes of the files with credentials and the key of device cookies, by result: \
                 loaded, or failed, after which the old credentials stay valid.",
            )?,
            ip_lists: ReloadCounters::register(
                registry,
                "tickstorm_ip_list_reloads_total",
                "Changes of the IP list files, by result: loaded, or failed, after which the old \
                 lists stay in force.",
            )?,
            tls: ReloadCounters::register(
                registry,
                "tickstorm_tls_reloads_total",
                "Changes of the TLS files, by result: loaded, or failed, after which the old files \
                 stay in use.",
            )?,
        })
    }
}
