//! What a daemon sees of this crate: settings from an environment, the admin port over a real socket, signals and limits of a
//! real process.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by it, helpers of tests too"
)]

mod admin;
mod fd_limit;
mod logging;
mod nats;
mod settings;
mod signals;
