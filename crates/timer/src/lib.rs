//! Waits for a moment to within microseconds: the thread sleeps on a timer of the operating system
//! until just before the moment, and spins for the rest.
//!
//! [`Wait`] decides what to do next and runs on any system. [`TimerFd`] is the timer that it was
//! designed for; a thread that waits in its own epoll uses these two directly. `AsyncTimer`
//! (feature `tokio`) combines them for a task and runs on any system: without a timerfd it uses the
//! runtime's own timer.

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
