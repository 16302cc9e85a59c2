//! The baseline for connecting: a listener and a bare loop per shard. The loop accepts connections
//! and keeps them open, without a protocol or any state.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

use crate::machine::{self, CpuTime};
use crate::orders::LoopUsage;

/// The backlog of the edge's own listener.
pub(super) const BACKLOG: i32 = 4_096;
/// The interval at which a loop checks whether it must stop, in milliseconds.
const STOP_POLL_MS: u16 = 20;

/// The reason why a bare loop could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the listener has no IP address")]
    NoAddress,
    #[error("a bare loop has ended before it listened")]
    LoopEnded,
}

/// Bare accept loops, each on its own thread, that share one port.
pub(super) struct AcceptLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<LoopUsage>>,
}

impl AcceptLoops {
    /// Starts `threads` loops, as many as the edge has shards. If the shards have their own tables
    /// of open files, so do the loops.
    pub(super) fn start(
        threads: usize,
        own_files: bool,
    ) -> Result<(Self, SocketAddr), ListenError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut accepting = Self {
            stop,
            threads: Vec::new(),
        };
        let mut addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for _ in 0..threads {
            let stop = Arc::clone(&accepting.stop);
            let (addr_sender, listening) = mpsc::sync_channel(1);
            let thread = std::thread::Builder::new()
                .name("bare-accept".into())
                .spawn(move || match open(addr, own_files) {
                    Ok((listener, addr)) => {
                        let _ = addr_sender.send(Ok(addr));
                        accept(&listener, &stop).unwrap_or_default()
                    }
                    Err(error) => {
                        let _ = addr_sender.send(Err(error));
                        LoopUsage::default()
                    }
                })?;
            accepting.threads.push(thread);
            let outcome = listening.recv();
            addr = outcome.map_err(|_| ListenError::LoopEnded)??;
        }
        Ok((accepting, addr))
    }

    /// Stops the loops and returns what they used. They then close the connections that they
    /// accepted, and that work is not counted.
    pub(super) fn stop(mut self) -> LoopUsage {
        let threads = std::mem::take(&mut self.threads);
        drop(self);
        let ended = threads.into_iter();
        ended.map(|thread| thread.join().unwrap_or_default()).fold(
            LoopUsage::default(),
            |all, one| LoopUsage {
                cpu_us: all.cpu_us + one.cpu_us,
                accepted: all.accepted + one.accepted,
                answered: all.answered + one.answered,
            },
        )
    }
}

impl Drop for AcceptLoops {
    /// Signals the loops to stop, including those already running when a later one fails to start.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Opens this thread's listener. The thread gets its own table of files first: a socket opened
/// before would be open in both tables.
fn open(addr: SocketAddr, own_files: bool) -> Result<(Socket, SocketAddr), ListenError> {
    if own_files {
        machine::own_files()?;
    }
    listen(addr)
}

/// Opens a listener at `addr`, which other listeners may share, with the edge's own backlog.
pub(super) fn listen(addr: SocketAddr) -> Result<(Socket, SocketAddr), ListenError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let addr = socket.local_addr()?.as_socket();
    Ok((socket, addr.ok_or(ListenError::NoAddress)?))
}

/// Accepts one connection. Returns `None` if none is waiting.
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

fn accept(listener: &Socket, stop: &AtomicBool) -> io::Result<LoopUsage> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut events = [EpollEvent::empty()];
    let mut kept = Vec::new();
    let before = CpuTime::of_thread();
    while !stop.load(Ordering::Relaxed) {
        epoll.wait(&mut events, STOP_POLL_MS)?;
        while let Some(socket) = next(listener)? {
            kept.push(socket);
        }
    }
    Ok(LoopUsage {
        cpu_us: CpuTime::of_thread().total_us - before.total_us,
        accepted: kept.len() as u64,
        answered: 0,
    })
}
