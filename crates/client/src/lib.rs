//! TickStorm's client: connects to an edge, subscribes, and yields ticks as a
//! [`Stream`](futures_core::Stream), each with its lateness in authority time. The [`guide`]
//! explains how to use it, with examples that run.
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
//!         // The lateness is `None` until authority time is known, soon after connecting.
//!         println!("{}, lateness in µs: {:?}", tick.epoch.as_ms(), tick.late_us());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! When a connection ends, the client makes another one, to the next address in [`Options`], and
//! ticks continue after the last tick received: the stream has each tick once, and reports every
//! gap. Two events come in between: [`Event::Reconnecting`], which states why the connection ended
//! and how long the client waits, and [`Event::Reconnected`]. A program that only wants ticks can
//! ignore both. The first connection is different: [`connect`] returns an error if it fails,
//! because a wrong address or password should be noticed immediately.
//!
//! The client also leaves an edge that is connected and of no use: one that has lost the time, or
//! that is silent although a tick is overdue. If it knows a healthy edge, no tick is more than 6 s
//! late. An edge that is going to be shut down says so before, and the client then subscribes to
//! another one before it closes its connection, which delays no tick and is reported as
//! [`Event::Moved`]. An edge that refuses the client is not the end while another address works:
//! each address is tried, and one that refused is left alone for a minute; all IP addresses of a
//! name are tried before that. While other addresses are left to try, an attempt to connect has
//! only a second, so one address from which no answer comes is within the 6 s, and each further one
//! adds a second.
//!
//! An edge gives a client that has logged in a *device cookie*, which the client presents when it
//! connects again, to any of its edges. An edge that slows down logins from an address because
//! someone there guesses passwords does not slow down clients with a cookie. The cookie is kept in
//! memory for as long as the stream exists.
//!
//! An edge names each connection. [`Ticks::connection_id`], the events and the error of a refusal
//! have that name, by which the edge's operator finds the connection in the log: write it down when
//! a connection ends.
//!
//! With [`Options::ahead`], ticks arrive before their time, and the client releases each one when
//! its own estimate of authority time reaches it. How soon after that depends on the system's
//! timers:
//!
//! | system | a tick is released |
//! |---|---|
//! | Linux | within tens of microseconds: a timerfd, then up to 150 µs of spinning |
//! | macOS and other Unix | within a few milliseconds: tokio's timer, which counts milliseconds |
//! | Windows | within some 20 ms: tokio's timer, on a clock that advances every 1/64 s by default |
//!
//! Only Linux has been measured and tested. No tick is released early, by more than the estimate's
//! error bound, on any system. A busy machine adds its own delays. After a machine was suspended or
//! stalled for seconds, ticks are held until the client has learned the time again. If no file
//! descriptor is left for the timerfd on Linux, tokio's timer takes its place. On Windows, a
//! program can request a clock that advances more often. [`AsyncTimer`] is the default timer; a
//! program that has a better one can supply it as an [`AlarmClock`] to [`connect_by`]. Without
//! [`Options::ahead`], no timer is involved: only the network and the edge determine when a tick
//! arrives.
//!
//! With [`Options::tls`], connections use TLS 1.3. This needs the crate's feature `tls`, which is
//! on by default.
//!
//! Nothing in this crate reads the wall clock. Authority time comes from the edge, and
//! [`Estimate`]s of it state their error bounds; see [`estimate`].

mod addresses;
mod ahead;
mod alarm_clock;
mod backoff;
mod connection;
mod dial;
pub mod error;
pub mod estimate;
mod event;
pub mod guide;
mod moving;
mod options;
mod rate;
mod resume;
mod stream;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
mod trail;
mod vitals;

pub use alarm_clock::AlarmClock;
pub use dial::Dial;
pub use error::{ConnectionId, Error};
pub use estimate::Estimate;
pub use event::{Event, Tick};
pub use options::{Options, OptionsError};
pub use stream::{TickStream, Ticks, connect, connect_by, connect_over};
pub use tickstorm_timebase::{Epoch, Mode, Quality, UnixTime};
pub use tickstorm_timer::AsyncTimer;
#[cfg(feature = "tls")]
pub use tls::{TlsError, TlsOptions};
