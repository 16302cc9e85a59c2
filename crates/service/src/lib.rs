//! The machinery that every TickStorm daemon needs: settings, logs, metrics, the admin port, the
//! connection to NATS, and orderly start and shutdown. Of TickStorm's other crates it depends on
//! the bus alone, for the connection to NATS.

pub mod admin;
pub mod daemon;
pub mod duration;
pub mod env;
pub mod error_chain;
pub mod exit;
pub mod fd_limit;
mod healthcheck;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod nats;
pub mod settings;
pub mod signals;

/// The version of TickStorm.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
