//! Code that the commands of `tickstorm` share: exit codes, the credentials of their clients, their
//! logs, and a clock and an edge in one process. Each command has its own crate or module; nothing
//! here depends on which commands there are.

pub mod credentials;
mod failure;
pub mod logs;
mod mode;
mod pair;

pub use failure::{Failure, OUTPUT};
pub use mode::ModeName;
pub use pair::Pair;
