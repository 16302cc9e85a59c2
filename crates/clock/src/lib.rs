//! A clock replica as a library. It announces every tick ahead of its time and answers edges' time
//! requests, regardless of other clocks. timebase's [`Announcer`](tickstorm_timebase::Announcer)
//! decides what to send and when; this crate connects it to the bus and to the host's clock.

mod alarms;
mod config;
mod discipline;
mod health;
mod machine;
mod metrics;
mod replica;
pub mod settings;

pub use config::Config;
pub use discipline::Discipline;
pub use machine::Machine;
pub use replica::{Replica, StartError};
