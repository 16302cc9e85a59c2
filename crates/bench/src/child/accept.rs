//! The yardstick of connecting: a listener and a bare loop for each shard, which accepts and keeps what comes. No protocol, no state.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

use crate::machine::{self, CpuTime};
use crate::orders::LoopUsage;

/// As the edge's own listener has it.
pub(super) const BACKLOG: i32 = 4_096;
/// How soon the loop notices that it is to end, in milliseconds.
const LOOK_MS: u16 = 20;

/// Why a bare loop does not listen.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a listener without an address")]
    NoAddress,
    #[error("a bare loop has ended")]
    LoopEnded,
}

/// Bare accept loops, each on a thread of its own, on one port.
pub(super) struct AcceptLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<LoopUsage>>,
}

impl AcceptLoops {
    /// As many loops as the edge has shards; where those have tables of open files of their own, so have these.
    pub(super) fn begin(
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
            let stopping = Arc::clone(&accepting.stop);
            let (said, listens) = mpsc::sync_channel(1);
            let thread = std::thread::Builder::new()
                .name("bare-accept".into())
                .spawn(move || match open(addr, own_files) {
                    Ok((listener, addr)) => {
                        let _ = said.send(Ok(addr));
                        accept(&listener, &stopping).unwrap_or_default()
                    }
                    Err(error) => {
                        let _ = said.send(Err(error));
                        LoopUsage::default()
                    }
                })?;
            accepting.threads.push(thread);
            let outcome = listens.recv();
            addr = outcome.map_err(|_| ListenError::LoopEnded)??;
        }
        Ok((accepting, addr))
    }

    /// Ends them and closes what they have accepted, which no longer counts.
    pub(super) fn end(mut self) -> LoopUsage {
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
    /// Tells them to end; where not all can begin, those that have.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A listener of this thread; what was opened before its table is its own would be open in both.
fn open(addr: SocketAddr, own_files: bool) -> Result<(Socket, SocketAddr), ListenError> {
    if own_files {
        machine::own_files()?;
    }
    listen(addr)
}

/// A listener at `addr`, which others may share, with the edge's own backlog.
pub(super) fn listen(addr: SocketAddr) -> Result<(Socket, SocketAddr), ListenError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let addr = socket.local_addr()?.as_socket();
    Ok((socket, addr.ok_or(ListenError::NoAddress)?))
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

fn accept(listener: &Socket, stop: &AtomicBool) -> io::Result<LoopUsage> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut events = [EpollEvent::empty()];
    let mut kept = Vec::new();
    let begun = CpuTime::of_thread();
    while !stop.load(Ordering::Relaxed) {
        epoll.wait(&mut events, LOOK_MS)?;
        while let Some(socket) = next(listener)? {
            kept.push(socket);
        }
    }
    Ok(LoopUsage {
        cpu_us: CpuTime::of_thread().total_us - begun.total_us,
        accepted: kept.len() as u64,
        answered: 0,
    })
}
