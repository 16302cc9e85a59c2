//! [`Waker`]: wakes a shard's thread from any other thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;

/// An eventfd that the shard's epoll watches. It is created before any thread gets its own file
/// descriptor table, so that it has the same number in all tables.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    /// Ends the shard's current wait, or its next one if it is not waiting.
    pub(crate) fn wake(&self) {
        // The write fails only if the counter is full, which means that a wake is already pending.
        let _ = write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
