//! What every TickStorm daemon needs, whatever it does: its settings, its logs, its metrics, its admin port, and an orderly
//! start and stop. It knows no other crate of TickStorm, so that each of them can use it.

pub mod admin;
pub mod daemon;
pub mod env;
mod healthcheck;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod open_files;

/// This version of TickStorm.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
