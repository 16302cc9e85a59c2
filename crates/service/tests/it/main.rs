//! Tests of this crate as a daemon uses it: settings from an environment, the admin port over a
//! real socket, signals and limits of a real process.
#![expect(
    clippy::unwrap_used,
    reason = "in tests and their helpers, a panic fails the test"
)]

mod admin;
mod admin_guard;
mod admin_slow;
mod admin_tls;
mod fd_limit;
mod logging;
mod nats;
mod settings;
mod signals;
mod temp_file;
