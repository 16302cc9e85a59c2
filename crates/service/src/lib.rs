//! What every TickStorm daemon needs, whatever it does: the machinery of its settings, its logs, its metrics, its admin port, its
//! connection to NATS, and an orderly start and stop. Of TickStorm's crates it knows the bus alone, for that connection.

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

/// This version of TickStorm.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
