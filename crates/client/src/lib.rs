//! TickStorm's client: connects to an edge, subscribes, and hands out ticks as a [`Stream`](futures_core::Stream), each with how
//! late it was by authority time.
//!
//! ```no_run
//! # async fn example() -> Result<(), tickstorm_client::Error> {
//! use tickstorm_client::{Event, Mode, Options};
//!
//! let options = Options::new("127.0.0.1:8080")
//!     .credentials("stream_user", "stream_pass")
//!     .mode(Mode::Second);
//! let mut ticks = tickstorm_client::connect(options).await?;
//! println!("{} sends ticks after {}", ticks.edge_id(), ticks.start_epoch().as_ms());
//! while let Some(event) = ticks.next().await {
//!     if let Event::Tick(tick) = event? {
//!         println!("{} was {:?} µs late", tick.epoch.as_ms(), tick.late_us());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A subscription ends with its connection, and its last item says why. Nothing here reads the wall clock: authority time comes from
//! the edge, by way of [`estimate`].

mod connection;
pub mod error;
pub mod estimate;
mod options;
mod stream;

pub use error::Error;
pub use estimate::Estimate;
pub use options::Options;
pub use stream::{Event, Tick, Ticks, connect, connect_over};
pub use tickstorm_timebase::{Epoch, Mode, Quality, UnixTime};
