//! The baseline for idle clients: a listener and a bare loop of epoll, recv and send that answers
//! each message with as many bytes as an edge's PONG has. It does not inspect what it receives.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::Socket;

use super::accept::{ListenError, listen, next};
use crate::machine::{self, CpuTime};
use crate::orders::LoopUsage;

/// The largest number of events per wait.
const EVENTS: usize = 1_024;
/// The event data of the listener.
const LISTENER: u64 = u64::MAX;

/// A bare echo loop on its own thread, which runs until the process ends.
pub(super) struct EchoLoop(Arc<EchoCounts>);

#[derive(Default)]
struct EchoCounts {
    cpu_us: AtomicU64,
    accepted: AtomicU64,
    answered: AtomicU64,
}

impl EchoLoop {
    pub(super) fn start(pong_len: usize) -> Result<(Self, SocketAddr), ListenError> {
        let (listener, addr) = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let counts = Arc::new(EchoCounts::default());
        let counting = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("bare-echo".into())
            .spawn(move || {
                // If this is refused, both sets of clients must fit into one table.
                let _ = machine::own_files();
                if let Err(error) = echo(&listener, &vec![0; pong_len], &counting) {
                    tracing::error!(%error, "echo loop failed");
                }
            })?;
        Ok((Self(counts), addr))
    }

    pub(super) fn usage(&self) -> LoopUsage {
        LoopUsage {
            cpu_us: self.0.cpu_us.load(Ordering::Relaxed),
            accepted: self.0.accepted.load(Ordering::Relaxed),
            answered: self.0.answered.load(Ordering::Relaxed),
        }
    }
}

fn echo(listener: &Socket, answer: &[u8], counts: &EchoCounts) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut sockets: Vec<Option<Socket>> = Vec::new();
    let mut events = vec![EpollEvent::empty(); EVENTS];
    let mut scratch = [0; 4_096];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            outcome => outcome?,
        };
        for event in &events[..ready] {
            if event.data() == LISTENER {
                while let Some(socket) = next(listener)? {
                    let index = sockets.len() as u64;
                    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
                    sockets.push(Some(socket));
                    counts.accepted.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
            let Some(Some(socket)) = sockets.get(index) else {
                continue;
            };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match recv(socket.as_raw_fd(), &mut scratch, flags) {
                Ok(1..) => {
                    // A client whose socket is full misses this answer and counts one answer fewer.
                    let _ = send(socket.as_raw_fd(), answer, flags);
                    counts.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Ok(0) | Err(_) => sockets[index] = None,
            }
        }
        counts
            .cpu_us
            .store(CpuTime::of_thread().total_us, Ordering::Relaxed);
    }
}
