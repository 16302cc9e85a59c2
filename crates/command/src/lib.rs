//! Code that the commands of `tickstorm` share: their command line and exit codes, the credentials
//! and TLS of their clients, their logs, their temporary files, and a clock and an edge in one
//! process. Each command has its own crate or module; nothing here depends on which commands there
//! are.

pub mod command_line;
pub mod credentials;
mod failure;
pub mod logs;
mod mode;
mod pair;
pub mod private_dir;
pub mod throw_away_certificate;
mod tls_args;

pub use failure::{Failure, OUTPUT};
pub use mode::ModeName;
pub use pair::Pair;
pub use tls_args::TlsArgs;
