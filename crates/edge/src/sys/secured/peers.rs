//! [`Peers`]: the state of each socket, found by the socket's number.

use std::os::fd::RawFd;

use nix::errno::Errno;

use super::Greeting;
use super::channel::Channel;

/// The state of one socket.
#[derive(Default)]
pub(super) enum Peer {
    /// No socket has this number.
    #[default]
    Absent,
    /// No byte has arrived.
    Silent,
    Handshake(Box<Greeting>),
    Open(Box<Channel>),
    /// TLS has failed. What still arrives is discarded.
    Failed,
}

/// The states of all sockets of a shard.
#[derive(Default)]
pub(super) struct Peers {
    by_fd: Vec<Peer>,
}

impl Peers {
    pub(super) fn get(&self, fd: RawFd) -> Option<&Peer> {
        self.by_fd.get(usize::try_from(fd).ok()?)
    }

    /// Returns the state of a socket that was accepted.
    pub(super) fn of(&mut self, fd: RawFd) -> Result<&mut Peer, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.by_fd.get_mut(index).ok_or(Errno::ENOTCONN)
    }

    pub(super) fn set(&mut self, fd: RawFd, peer: Peer) {
        let Ok(index) = usize::try_from(fd) else {
            return;
        };
        if index >= self.by_fd.len() {
            self.by_fd.resize_with(index + 1, Peer::default);
        }
        self.by_fd[index] = peer;
    }
}
