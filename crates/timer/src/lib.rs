//! Waiting for a moment to within microseconds. A timer of the system sleeps until just before it,
//! and the rest is spun away.
//!
//! [`Wait`] decides what to do next and runs on any system. [`TimerFd`] is the timer it was made
//! for; a thread that waits in its own epoll uses the two directly. `AsyncTimer` (feature `tokio`)
//! puts them together for a task, and runs on any system: without a timerfd the runtime's own timer
//! takes its place.

#[cfg(feature = "tokio")]
mod async_timer;
#[cfg(target_os = "linux")]
mod timerfd;
mod wait;

#[cfg(feature = "tokio")]
pub use async_timer::AsyncTimer;
#[cfg(target_os = "linux")]
pub use timerfd::TimerFd;
pub use wait::{SPIN, Wait};
