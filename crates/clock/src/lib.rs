//! One clock replica as a library: announces every tick ahead of its time and tells edges the time, whatever other clocks do.
//! What to say and when is timebase's [`Announcer`](tickstorm_timebase::Announcer); this drives it by the bus and the host's clock.

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
