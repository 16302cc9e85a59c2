//! The yardstick of connecting: a listener and a bare loop that accepts and keeps what comes. No protocol, no state.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

use crate::bench::machine::Cpu;
use crate::bench::orders::Loop;

/// As the edge's own listener has it.
pub(super) const BACKLOG: i32 = 4_096;
/// How soon the loop notices that it is to end, in milliseconds.
const LOOK_MS: u16 = 20;

/// A bare accept loop on a thread of its own.
pub(super) struct Accepting {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Loop>,
}

impl Accepting {
    pub(super) fn begin() -> io::Result<(Self, SocketAddr)> {
        let (listener, addr) = listen()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("bare-accept".into())
            .spawn(move || accept(&listener, &stopping).unwrap_or_default())?;
        Ok((Self { stop, thread }, addr))
    }

    /// Ends it and closes what it has accepted, which no longer counts.
    pub(super) fn end(self) -> Loop {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// A listener on any port of loopback, with the edge's own backlog.
pub(super) fn listen() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let addr = socket.local_addr()?.as_socket();
    let addr = addr.ok_or_else(|| io::Error::other("a listener without an address"))?;
    Ok((socket, addr))
}

/// Takes one connection off the listener; none where nobody waits.
pub(super) fn next(listener: &Socket) -> io::Result<Option<Socket>> {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    match listener.accept() {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(error) if [ConnectionAborted, Interrupted, WouldBlock].contains(&error.kind()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn accept(listener: &Socket, stop: &AtomicBool) -> io::Result<Loop> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut events = [EpollEvent::empty()];
    let mut kept = Vec::new();
    let begun = Cpu::of_thread();
    while !stop.load(Ordering::Relaxed) {
        epoll.wait(&mut events, LOOK_MS)?;
        while let Some(socket) = next(listener)? {
            kept.push(socket);
        }
    }
    Ok(Loop {
        cpu_us: Cpu::of_thread().total_us - begun.total_us,
        accepted: kept.len() as u64,
        answered: 0,
    })
}
