//! The logs of commands that run an edge in their own process.

use tickstorm_service::env::Settings;
use tickstorm_service::exit;
use tickstorm_service::logging::{self, Logs};
use tickstorm_service::settings::{LOG_FORMAT, LOG_LEVEL};

use crate::Failure;

/// Starts the logs according to the settings, and logs the settings' warnings first.
pub fn start(settings: &Settings) -> Result<Logs, Failure> {
    let levels = settings.get(&LOG_LEVEL);
    let logs = logging::init(levels, settings.get(&LOG_FORMAT))
        .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(logs)
}
