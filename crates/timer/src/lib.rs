//! Waiting for a moment to within microseconds. A timer of the system sleeps until just before it, and the rest is spun away.
//!
//! [`Wait`] decides what to do next and runs on any system. [`TimerFd`] is the timer it was made for; a thread that waits in its
//! own epoll uses the two directly. `AsyncTimer` (feature `tokio`) puts them together for a task.

#[cfg(target_os = "linux")]
mod timerfd;
mod wait;

#[cfg(target_os = "linux")]
pub use timerfd::TimerFd;
pub use wait::{SPIN, Wait};
