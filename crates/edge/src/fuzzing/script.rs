//! [`Script`]: a network with one connection, whose input arrives in given pieces.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::{Clock, Mono};

use crate::sys::network::{Network, NetworkEvent, Received, Token, WaitFor};
use crate::sys::socket_memory::SocketMemory;

/// A network with one connection. Its output is discarded.
pub(super) struct Script<'a> {
    peer: IpAddr,
    pieces: std::slice::Iter<'a, &'a [u8]>,
    /// The unread end of a piece.
    arrived: &'a [u8],
}

/// The connection's socket, which has no descriptor.
pub(super) struct NoSocket;

impl AsRawFd for NoSocket {
    fn as_raw_fd(&self) -> RawFd {
        -1
    }
}

impl<'a> Script<'a> {
    pub(super) fn new(peer: IpAddr, pieces: &'a [&'a [u8]]) -> Self {
        Self {
            peer,
            pieces: pieces.iter(),
            arrived: &[],
        }
    }
}

impl Clock for Script<'_> {
    fn now(&self) -> Mono {
        Mono::from_nanos(0)
    }

    fn suspended(&self) -> Duration {
        Duration::ZERO
    }
}

impl Network for Script<'_> {
    type Socket = NoSocket;

    fn accept(&mut self) -> io::Result<(NoSocket, SocketAddr)> {
        Ok((NoSocket, SocketAddr::new(self.peer, 50_000)))
    }

    fn stop_listening(&mut self) {}

    /// After each piece, the socket is empty until it is read again.
    fn receive(&mut self, _: &NoSocket, buffer: &mut [u8]) -> io::Result<Received> {
        if self.arrived.is_empty() {
            let Some(piece) = self.pieces.next() else {
                return Ok(Received::End);
            };
            self.arrived = piece;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (read, rest) = self.arrived.split_at(buffer.len().min(self.arrived.len()));
        buffer[..read.len()].copy_from_slice(read);
        self.arrived = rest;
        Ok(Received::new(read.len(), buffer.len()))
    }

    fn send(&mut self, _: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        Ok(bytes.len())
    }

    fn send_parts(&mut self, _: &NoSocket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(parts.iter().map(|part| part.len()).sum())
    }

    fn buffered(&self, _: &NoSocket) -> usize {
        0
    }

    fn socket_memory(&self, _: &NoSocket) -> SocketMemory {
        SocketMemory::default()
    }

    fn reset_on_drop(&mut self, _: &NoSocket) {}

    fn shut_down_sending(&mut self, _: &NoSocket) {}

    fn take_error(&mut self, _: &NoSocket) -> Option<io::Error> {
        None
    }

    fn register(&mut self, _: &NoSocket, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn rearm(&mut self, _: &NoSocket, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _: &NoSocket) {}

    fn wait(&mut self, _: WaitFor, _: &mut Vec<NetworkEvent>) -> io::Result<()> {
        Ok(())
    }
}
