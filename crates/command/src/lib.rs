//! What the commands of `tickstorm` have in common: how they end, as whom their clients come, their logs, and a clock and an edge in one
//! process. What a command does, its own crate or module knows; nothing here knows which commands there are.

pub mod credentials;
mod failure;
pub mod logs;
mod mode;
mod pair;

pub use failure::{Failure, OUTPUT};
pub use mode::ModeName;
pub use pair::Pair;
