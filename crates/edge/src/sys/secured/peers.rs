//! [`Peers`]: the state of each socket, found by the socket's number.

use std::os::fd::RawFd;

use nix::errno::Errno;

use super::channel::Channel;
use super::greeting::Greeting;

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
    /// TLS has failed, or this side has ended it. What still arrives is discarded.
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

    /// Lends the sealing keys of all sockets that have no unsent records.
    #[cfg(feature = "bench")]
    pub(super) fn bare_sealing(
        &mut self,
    ) -> impl Iterator<Item = (RawFd, tickstorm_tls::BareSealing<'_>)> {
        let peers = (0..).zip(&mut self.by_fd);
        peers.filter_map(|(fd, peer)| match peer {
            Peer::Open(channel) => Some((fd, channel.bare_sealing()?)),
            Peer::Absent | Peer::Silent | Peer::Handshake(_) | Peer::Failed => None,
        })
    }
}
