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
//! With [`Options::ahead`] ticks come before their time and are released when it has come by this client's own estimate. How soon
//! after that depends on the system's timers:
//!
//! | system | a tick is released |
//! |---|---|
//! | Linux | within tens of microseconds: a timerfd, then spinning for at most 150 µs ([`AsyncTimer`]) |
//! | macOS and other Unix | within a few milliseconds: tokio's timer, which counts milliseconds |
//! | Windows | within some 20 ms: the same, and the system's clock ticks 64 times a second unless a program asks for more |
//!
//! Only Linux is measured and tested. No tick is released early on any of them. A busy machine adds its own delays, on Linux also if no descriptor is left for a timerfd.
//! A program that has a better timer brings it as an [`AlarmClock`], by way of [`connect_by`].
//! Without [`Options::ahead`] no timer is involved, and only the network and the edge decide when a tick comes.
//!
//! Nothing here reads the wall clock: authority time comes from the edge, by way of [`estimate`].

mod ahead;
mod alarm_clock;
mod backoff;
mod connection;
mod dial;
pub mod error;
pub mod estimate;
mod event;
mod options;
mod resume;
mod stream;
mod subscription;

pub use alarm_clock::AlarmClock;
pub use dial::Dial;
pub use error::Error;
pub use estimate::Estimate;
pub use event::{Event, Tick};
pub use options::Options;
pub use stream::{Ticks, connect, connect_by, connect_over};
pub use tickstorm_timebase::{Epoch, Mode, Quality, UnixTime};
pub use tickstorm_timer::AsyncTimer;
