//! TickStorm's edge: releases every tick at its authority time and fans it out to a very large
//! number of clients.
//!
//! The path of a tick: `timekeeper` (authority time, from the bus) → `shard/release` (the tick that
//! is due) → `feed` (batch, ring, fan-out) → socket.
//!
//! The path of a connection: `shard/accept` → `admission` → `shard/input` ⇄ the protocol's session
//! → `shard/subscription` → `feed/subscribers`.
//!
//! `control` sends commands to the shards; lower layers never call upper ones.

mod admission;
mod auth;
mod config;
mod control;
mod fd_budget;
mod fd_metrics;
mod feed;
mod file_watch;
mod health;
mod histogram;
mod metrics;
mod routes;
pub mod settings;
mod shard;
mod shards;
mod start_error;
mod sys;
mod timekeeper;
mod tls;

pub use auth::{CredentialSource, CredentialSources, CredentialsError, TokenLineError};
pub use config::Config;
pub use control::Edge;
pub use fd_budget::{FdTables, TooFewShards};
#[cfg(feature = "bench")]
pub use shard::Work;
pub use start_error::StartError;
pub use tls::{ClientAuth, ClientAuthFiles, TlsError, TlsFiles};

#[cfg(feature = "bench")]
/// The internals that `cargo xtask weight` measures; not part of the API.
#[doc(hidden)]
pub mod weight {
    pub use crate::shard::FanOut;
}
