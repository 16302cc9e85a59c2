//! [`Waker`]: ends the wait of a shard's thread from any other thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;

/// An eventfd that the shard's epoll watches. It is made before any thread has a table of open
/// files of its own, so that its number means the same in all of them.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    /// Ends the shard's wait, the present one or the next.
    pub(crate) fn wake(&self) {
        // It fails only when its counter is full, which means that it has been woken.
        let _ = write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
