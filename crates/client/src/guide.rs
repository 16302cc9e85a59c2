//! How to use this crate, in five chapters. Each is about one program, which is an example of this
//! crate and can be run.
//!
//! | chapter | you want to |
//! |---|---|
//! | [`receiving_ticks`] | do something at each second or minute |
//! | [`configuring`] | take edges and credentials from the environment, and log what happens |
//! | [`following_events`] | know about gaps and lost connections, and continue after a restart |
//! | [`acting_at_the_instant`] | act as exactly as possible, on one machine or on many at once |
//! | [`changing_the_mode`] | switch between seconds and minutes |
//!
//! The programs need an edge. `cargo run --release -- dev` in the root of the repository starts
//! one, and a clock, on this machine. Then, in a second terminal:
//!
//! ```text
//! export TICKSTORM_URL=tickstorm://stream_user:stream_pass@127.0.0.1:8080
//! cargo run -p tickstorm-client --example configured
//! ```
//!
//! Four longer examples do whole jobs: `candles` closes candles on the minute, `rounds` starts game
//! rounds on many servers at once, `scheduler` runs jobs without missing or repeating a minute
//! across restarts, and `fleet` wakes devices with jitter. They are in `examples/rust` of the
//! repository.

/// # Receiving ticks
/// [`connect`](crate::connect) returns when the edge has accepted the credentials and the
/// subscription, and fails if it does not. The client then does what is necessary: it
/// reconnects, resumes after the last tick, and leaves an edge that is of no use.
/// [`into_tick_stream`](crate::Ticks::into_tick_stream) makes this a plain `Stream<Item = Tick>`,
/// with which `StreamExt` of the `futures` crates works.
///
#[doc = "```no_run"]
#[doc = include_str!("../examples/ticks.rs")]
#[doc = "```"]
///
/// A tick says which second has begun, by [`Tick::epoch`](crate::Tick::epoch). It is the same for
/// every client, so it may serve as a key, such as the number of a game round. It converts to
/// [`SystemTime`](std::time::SystemTime) and, with the feature `jiff`, to `jiff::Timestamp`:
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tickstorm_client::Epoch;
///
/// let time = SystemTime::from(Epoch::from_ms(1_800_000_001_000));
/// assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_001));
/// ```
///
/// Ticks of quality [`Replay`](crate::Quality::Replay) are late: they were missed while there was
/// no connection. A program that only cares about the present skips them.
///
/// Read ticks soon. For a slow reader, a thousand events are kept. After that the client stops
/// reading, and the edge closes a connection that is not read for long. The client then resumes, so
/// nothing is lost unless the reader is later than the edge can replay (10 minutes by default).
pub mod receiving_ticks {}

/// # Configuring a client
/// [`Options::from_env`](crate::Options::from_env) takes everything from the environment: where to
/// connect from `TICKSTORM_URL`, and credentials from variables that may name files. So an
/// operator, and not the program, decides about addresses, TLS and passwords.
///
#[doc = "```no_run"]
#[doc = include_str!("../examples/configured.rs")]
#[doc = "```"]
///
/// | to | set |
/// |---|---|
/// | use the edge of `dev` | `TICKSTORM_URL=tickstorm://stream_user:stream_pass@127.0.0.1:8080` |
/// | use either of two edges | `TICKSTORM_URL=tickstorm://ada@edge-0:8080,edge-1:8080` |
/// | keep the password in a file | `STREAM_PASS_FILE=/run/secrets/pass` |
/// | use TLS | `TICKSTORM_URL=tickstorms://ada@edge.example:8443?ca_file=/etc/ca.pem` |
/// | receive minutes | `TICKSTORM_URL=…?mode=minute` |
///
/// A file with a password is read again before each login, so a password can be rotated while the
/// program runs. [`Options::from_url`](crate::Options::from_url) lists all parameters.
///
/// The client logs by `tracing`: a subscription, its moves and changes of mode as information, and
/// gaps and lost connections as warnings. Each line names the connection as the edge's log does.
/// The program decides where the log goes.
pub mod configuring {}

/// # Following events
/// [`Ticks`](crate::Ticks) is a stream of [`Event`](crate::Event)s: ticks, and everything that
/// happens between them. Use it if you must know that ticks are missing for good, or if you keep
/// the position of your work across restarts.
///
#[doc = "```no_run"]
#[doc = include_str!("../examples/events.rs")]
#[doc = "```"]
///
/// To continue after a restart, save the epoch of the last tick whose work is done, and give it to
/// [`resume_after`](crate::Options::resume_after). If none was done, save
/// [`start_epoch`](crate::Ticks::start_epoch). The ticks in between come first, as REPLAY.
///
/// Save it together with the work if you can, as the example `scheduler` does. If the work is done
/// first and saved later, a crash in between repeats a tick; the other way round, it loses one.
pub mod following_events {}

/// # Acting at the instant
/// A tick that is sent at its time arrives a little later: by the network's delay, and after the
/// ticks of other clients. With [`ahead`](crate::Options::ahead), ticks arrive before their time,
/// and the client hands each one on when its own estimate of the cluster's time reaches it. Many
/// machines then act at the same instant, whatever their own clocks show.
///
#[doc = "```no_run"]
#[doc = include_str!("../examples/ahead.rs")]
#[doc = "```"]
///
/// [`late_us`](crate::Tick::late_us) says how long after its time the tick was handed on, and the
/// estimate [`read`](crate::Tick::read) has the error bound of that. No tick is handed on early by
/// more than that bound. The introduction of [this crate](crate) says how exact timers are on each
/// system.
///
/// [`authority_time`](crate::Ticks::authority_time) is the cluster's time at any moment, for
/// programs that put it on records of their own.
pub mod acting_at_the_instant {}

/// # Changing the mode
/// A subscription has one mode at a time. [`set_mode`](crate::Ticks::set_mode) changes it on the
/// same connection. The ticks of the old mode end, and those of the new one begin, with
/// [`Event::ModeChanged`](crate::Event::ModeChanged).
///
#[doc = "```no_run"]
#[doc = include_str!("../examples/modes.rs")]
#[doc = "```"]
///
/// After seconds, the minutes after the last second follow. After minutes, the seconds from the
/// present on follow. A program that needs both modes all the time makes two subscriptions, or
/// counts the seconds itself: the second whose epoch is a multiple of 60,000 begins a minute.
pub mod changing_the_mode {}
