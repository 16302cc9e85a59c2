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

mod accept_queue;
mod admission;
mod auth;
mod config;
mod control;
mod fd_budget;
mod fd_metrics;
mod feed;
mod file_watchers;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod heap;
mod histogram;
mod ip_lists;
mod log_limit;
mod memory;
mod metrics;
mod networks;
mod no_time;
mod proxy_fault_log;
mod routes;
pub mod settings;
mod shard;
mod shards;
mod start_error;
mod sys;
mod timekeeper;
mod tls;
mod traces;

pub use auth::{
    CookieKeyFileError, CredentialSource, CredentialSources, CredentialsError, TokenLineError,
};
pub use config::Config;
pub use control::Edge;
pub use fd_budget::{FdTables, TooFewShards};
pub use ip_lists::{IpListError, IpListSources};
pub use networks::{NetworkError, Networks};
#[cfg(feature = "bench")]
pub use shard::Work;
pub use start_error::StartError;
#[cfg(feature = "bench")]
pub use tickstorm_tls::BareSealing;
pub use tls::{ClientAuth, ClientAuthFiles, TlsError, TlsFiles};

#[cfg(feature = "bench")]
/// The internals that `cargo xtask weight` measures; not part of the API.
#[doc(hidden)]
pub mod weight {
    pub use crate::shard::FanOut;
}
