//! The machinery that every TickStorm daemon needs: settings, logs, metrics, the admin port, the
//! connection to NATS, and orderly start and shutdown. Of TickStorm's other crates it depends on
//! the bus, for the connection to NATS, and on tls, for the admin port's.

pub mod admin;
pub mod admin_client;
pub mod bus_metrics;
pub mod byte_size;
pub mod daemon;
pub mod duration;
pub mod env;
pub mod error_chain;
pub mod excerpt;
pub mod exit;
pub mod fd_limit;
pub mod file_watch;
mod healthcheck;
pub mod lifecycle;
pub mod logging;
pub mod low_priority;
pub mod metrics;
pub mod nats;
pub mod nats_link;
pub mod open_files;
pub mod private_memory;
mod process_metrics;
pub mod settings;
pub mod signals;
pub mod stderr;
pub mod tls_expiry;
pub mod tls_file;
pub mod traces;

/// The version of TickStorm.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The source revision that this program was built from, if the build was told.
pub const REVISION: &str = match option_env!("TICKSTORM_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    Some(_) | None => "unknown",
};
