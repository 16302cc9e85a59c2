//! TickStorm's edge: releases every tick at its authority time and fans it out to a very large
//! number of clients.
//!
//! A tick's way: `timekeeper` (what time it is, from the bus) → `shard/release` (which tick is due)
//! → `feed` (batch, ring, fan-out) → socket. A connection's way: `shard/accept` → `admission` →
//! `shard/input` ⇄ the protocol's session →
//! `shard/subscription` → `feed/subscribers`. Control tells shards; nobody calls upwards.

mod admission;
mod auth;
mod config;
mod control;
mod fd_budget;
mod fd_metrics;
mod feed;
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

pub use auth::{CredentialSource, CredentialSources, CredentialsError, TokenLineError};
pub use config::Config;
pub use control::Edge;
pub use fd_budget::{FdTables, TooFewShards};
#[cfg(feature = "bench")]
pub use shard::Work;
pub use start_error::StartError;

#[cfg(feature = "bench")]
/// What `cargo xtask weight` weighs of this crate's inside; no part of its API.
#[doc(hidden)]
pub mod weight {
    pub use crate::shard::FanOut;
}
