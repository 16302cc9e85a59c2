//! TickStorm's decision logic about time, without I/O: what the grid is, whom to believe, when a tick is released.
//!
//! Everything here is a function of what it is told (`handle_*(…, now)`) and of `now` (`poll_*(now)`); nothing sleeps, sends or
//! looks at a clock by itself. The only exceptions are [`SystemClock`] and [`host`], which read the machine's clocks for the
//! drivers, so that every other crate can be forbidden to.

pub mod clock;
pub mod grid;
pub mod mono;
pub mod unix;

pub use clock::{Clock, ManualClock, SystemClock};
pub use grid::{Epoch, Mode, Quality, Tick};
pub use mono::Mono;
pub use unix::UnixTime;
