//! TickStorm's time logic, without I/O: which moments are ticks, which clocks to accept, and when a
//! tick is released.
//!
//! Everything here depends only on its inputs (`handle_*(…, now)`) and on `now` (`poll_*(now)`);
//! nothing sleeps, sends or reads a clock by itself. The only exceptions are [`SystemClock`] and
//! [`SystemHost`], which read the machine's clocks for the drivers, so that every other crate can
//! be forbidden to.
//!
//! An edge drives a [`Timekeeper`] and passes its [`Authority`] to the [`Schedule`]s of its feeds;
//! a clock drives an [`Announcer`].

pub mod announcer;
pub mod authority;
mod choice;
pub mod clock;
pub mod clock_id;
mod convert;
pub mod grid;
mod heard_clock;
mod heard_clocks;
mod hearing;
pub mod host;
pub mod message;
pub mod mono;
mod own_time;
mod rate;
pub mod release;
mod round;
mod sample;
mod search;
pub mod status;
pub mod subscription;
mod system;
pub mod timekeeper;
pub mod unix;

pub use announcer::Announcer;
pub use authority::Authority;
pub use clock::{Clock, ManualClock, SUSPENSION_MIN, SystemClock, was_suspended};
pub use clock_id::{ClockId, InvalidClockId};
pub use grid::{Epoch, Mode, Quality, Tick};
pub use host::{HostClock, HostReading, ManualHost, SystemHost};
pub use message::{Announcement, Refused, Reply};
pub use mono::Mono;
pub use release::Schedule;
pub use status::{Alarm, ClockState, ClockStatus, RoundCounts, TimeStatus};
pub use subscription::{Plan, Request, ResumeTooFar, plan};
pub use timekeeper::{Timekeeper, TimekeeperConfig};
pub use unix::UnixTime;
