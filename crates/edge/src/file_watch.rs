//! Rereads files that may change while the edge runs.

use std::error::Error;
use std::time::Duration;

use tickstorm_service::error_chain::ErrorChain;

/// The interval at which files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Calls `load` every second, and passes what it returns to `publish`. If it fails, `refuse` is
/// called with the reason, once for each distinct reason in a row. `files` names the files in the
/// log.
pub(crate) async fn watch<T, E>(
    files: &'static str,
    mut load: impl FnMut() -> Result<T, E> + Send + 'static,
    mut publish: impl FnMut(T),
    mut refuse: impl FnMut(&str),
) where
    T: Send + 'static,
    E: Error + Send + 'static,
{
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    let mut complaint = String::new();
    loop {
        interval.tick().await;
        // Use a thread of the blocking pool, so that a file system that hangs delays only this
        // task.
        let loading = tokio::task::spawn_blocking(move || {
            let loaded = load();
            (load, loaded)
        });
        let loaded = match loading.await {
            Ok((returned, loaded)) => {
                load = returned;
                loaded
            }
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "{files} are no longer checked for changes");
                return;
            }
            // The runtime is shutting down.
            Err(_) => return,
        };
        match loaded {
            Ok(new) => {
                complaint.clear();
                publish(new);
            }
            Err(error) => {
                let text = ErrorChain(&error).to_string();
                if text != complaint {
                    refuse(&text);
                    complaint = text;
                }
            }
        }
    }
}
