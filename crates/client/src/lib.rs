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
//! When a connection ends, another is made, at the next of the [`Options`]' addresses, and ticks go on after the last one: the stream
//! has each tick once, and says where it has not. In between come [`Event::Reconnecting`], which says why and what is waited, and
//! [`Event::Reconnected`]; whoever only wants ticks passes over them. The first connection is different: [`connect`] fails where it
//! does, since a wrong address or password is better known at once.
//!
//! With [`Options::ahead`] ticks come before their time and are released when it has come by this client's own estimate, which on a
//! quiet machine takes tens of microseconds.
//!
//! Nothing here reads the wall clock: authority time comes from the edge, by way of [`estimate`].

mod ahead;
mod backoff;
mod connection;
mod dial;
pub mod error;
pub mod estimate;
mod options;
mod resume;
mod stream;
mod subscription;
mod timer;

pub use dial::Dial;
pub use error::Error;
pub use estimate::Estimate;
pub use options::Options;
pub use stream::{Event, Tick, Ticks, connect, connect_by, connect_over};
pub use tickstorm_timebase::{Epoch, Mode, Quality, UnixTime};
pub use timer::{Alarm, Timer};
