//! A descriptor of any kind that tokio waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A descriptor in the runtime's epoll, for reading.
pub(crate) struct Readable<T: AsFd>(AsyncFd<Source<T>>);

/// A descriptor as tokio wants to hold it.
struct Source<T>(T);

impl<T: AsFd> AsRawFd for Source<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T: AsFd> Readable<T> {
    /// Asks the runtime that it is called in.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; here the descriptor is owned and lives as long as its registration"
    )]
    pub(crate) fn new(source: T) -> io::Result<Self> {
        AsyncFd::with_interest(Source(source), Interest::READABLE).map(Self)
    }

    pub(crate) fn get(&self) -> &T {
        &self.0.get_ref().0
    }

    /// Waits until there is something to read, or was when tokio last heard of it: whoever finds nothing clears that.
    pub(crate) async fn readable(
        &self,
    ) -> io::Result<AsyncFdReadyGuard<'_, impl AsRawFd + use<T>>> {
        self.0.readable().await
    }

    /// Does what fails as long as there is nothing to read, once there is.
    pub(crate) async fn when_readable<R>(
        &self,
        mut work: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let work = |source: &Source<T>| work(&source.0);
        self.0.async_io(Interest::READABLE, work).await
    }

    /// Takes it out of the runtime.
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().0
    }
}
