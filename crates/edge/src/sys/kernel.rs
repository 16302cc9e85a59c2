//! [`Kernel`]: a shard's [`Network`] on the real kernel, with one epoll for its sockets, listener,
//! timer and waker.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno as RustixErrno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg, sockopt};
use socket2::SockRef;
use tickstorm_timebase::{Clock, Mono, SystemClock};
use tickstorm_timer::TimerFd;

use super::network::{Listen, Network, NetworkEvent, Readiness, Received, Token, WaitFor};
use super::round_trip::round_trip;
use super::socket::transmit;
use super::socket_memory::SocketMemory;
use super::traffic::Traffic;
use super::waker::Waker;

/// The events for which a socket is registered at first: input, urgent data, and the end of input.
/// Errors are always reported.
const INPUT: EventFlags = EventFlags::IN
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);
/// Flags which mean that no further input will arrive.
const ENDED: EventFlags = EventFlags::RDHUP
    .union(EventFlags::HUP)
    .union(EventFlags::ERR);
/// The most events that one wait returns.
const EVENTS: usize = 128;

/// Slots for the descriptors that are not connections. Connections' slots count up from 0, and
/// there are fewer of them than descriptors, so they never reach these numbers.
const TIMER: u32 = u32::MAX;
const WAKER: u32 = u32::MAX - 1;
const LISTENER: u32 = u32::MAX - 2;

/// One shard's kernel resources.
#[derive(Debug)]
pub(crate) struct Kernel {
    epoll: OwnedFd,
    timer: TimerFd,
    waker: Waker,
    listener: Option<TcpListener>,
}

impl Kernel {
    pub(crate) fn new() -> io::Result<Self> {
        let this = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            timer: TimerFd::new()?,
            waker: Waker::new()?,
            listener: None,
        };
        // Edge-triggered: setting the timer or waking again causes a new event without either
        // descriptor having been read.
        this.watch(&this.timer, TIMER)?;
        this.watch(&this.waker, WAKER)?;
        Ok(this)
    }

    /// Returns a waker that ends this shard's wait from another thread.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn watch(&self, fd: &impl AsFd, slot: u32) -> io::Result<()> {
        let token = Token {
            slot,
            generation: u32::MAX,
        };
        Ok(epoll::add(&self.epoll, fd, data(token), INPUT)?)
    }
}

impl Clock for Kernel {
    fn now(&self) -> Mono {
        SystemClock.now()
    }

    fn suspended(&self) -> Duration {
        SystemClock.suspended()
    }
}

impl Listen for Kernel {
    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        self.watch(&listener, LISTENER)?;
        self.listener = Some(listener);
        Ok(())
    }
}

impl Network for Kernel {
    type Socket = TcpStream;

    fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.listener {
            Some(listener) => listener.accept(),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn stop_listening(&mut self) {
        self.listener = None;
    }

    fn receive(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<Received> {
        let room = buffer.len();
        let (taken, _) = recv(socket, buffer, RecvFlags::DONTWAIT)?;
        Ok(Received::new(taken, room))
    }

    fn send(&mut self, socket: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        transmit(socket, bytes)
    }

    fn send_parts(&mut self, socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(sendmsg(
            socket,
            parts,
            &mut SendAncillaryBuffer::default(),
            flags,
        )?)
    }

    fn buffered(&self, _socket: &TcpStream) -> usize {
        0
    }

    fn socket_memory(&self, socket: &TcpStream) -> SocketMemory {
        SocketMemory::of(socket.as_raw_fd())
    }

    fn round_trip(&self, socket: &TcpStream) -> Option<Duration> {
        round_trip(socket.as_raw_fd())
    }

    fn traffic(&self, socket: &TcpStream) -> Traffic {
        Traffic::of(socket.as_raw_fd())
    }

    fn reset_on_drop(&mut self, socket: &TcpStream) {
        // If this fails, the kernel keeps the memory until TCP_USER_TIMEOUT.
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    fn shut_down_sending(&mut self, socket: &TcpStream) {
        let _ = socket.shutdown(Shutdown::Write);
    }

    fn take_error(&mut self, socket: &TcpStream) -> Option<io::Error> {
        match sockopt::socket_error(socket) {
            Ok(Ok(())) => None,
            Ok(Err(errno)) | Err(errno) => Some(errno.into()),
        }
    }

    fn register(&mut self, socket: &TcpStream, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, data(token), INPUT)?)
    }

    fn rearm(&mut self, socket: &TcpStream, token: Token) -> io::Result<()> {
        let flags = INPUT | EventFlags::OUT;
        Ok(epoll::modify(&self.epoll, socket, data(token), flags)?)
    }

    fn deregister(&mut self, socket: &TcpStream) {
        // Closing the socket would also deregister it, but older kernels take a host-wide lock to
        // do that.
        let _ = epoll::delete(&self.epoll, socket);
    }

    fn wait(&mut self, limit: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()> {
        const NO_TIME: rustix::event::Timespec = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = match limit {
            WaitFor::None => Some(&NO_TIME),
            WaitFor::AsSet => None,
            WaitFor::For(duration) => {
                self.timer.set(duration)?;
                None
            }
        };
        let mut reported = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        match epoll::wait(&self.epoll, &mut reported, timeout) {
            Ok((reported, _)) => events.extend(reported.iter().map(event)),
            Err(RustixErrno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

fn data(token: Token) -> EventData {
    EventData::new_u64(u64::from(token.generation) << 32 | u64::from(token.slot))
}

fn event(reported: &epoll::Event) -> NetworkEvent {
    let epoll::Event { flags, data } = *reported;
    let [a, b, c, d, e, f, g, h] = data.u64().to_be_bytes();
    let token = Token {
        generation: u32::from_be_bytes([a, b, c, d]),
        slot: u32::from_be_bytes([e, f, g, h]),
    };
    match token.slot {
        TIMER => NetworkEvent::Timer,
        WAKER => NetworkEvent::Woken,
        LISTENER => NetworkEvent::Incoming,
        _ => {
            let has_ended = flags.intersects(ENDED);
            let readiness = Readiness {
                has_input: has_ended || flags.intersects(EventFlags::IN | EventFlags::PRI),
                until_empty: has_ended || flags.contains(EventFlags::PRI),
                takes_output: has_ended || flags.contains(EventFlags::OUT),
            };
            NetworkEvent::Socket(token, readiness)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mine, _) = listener.accept().unwrap();
        (mine, theirs)
    }

    fn token(slot: u32) -> Token {
        Token {
            slot,
            generation: 1,
        }
    }

    fn events(kernel: &mut Kernel) -> Vec<NetworkEvent> {
        let mut events = Vec::new();
        kernel.wait(WaitFor::None, &mut events).unwrap();
        events
    }

    /// Returns the slots of the sockets that are reported within one second, the time allowed for
    /// the kernel to deliver written bytes.
    fn reported(kernel: &mut Kernel) -> Vec<u32> {
        let mut events = Vec::new();
        kernel
            .wait(WaitFor::For(Duration::from_secs(1)), &mut events)
            .unwrap();
        let sockets = events.iter().filter_map(|event| match event {
            NetworkEvent::Socket(token, _) => Some(token.slot),
            NetworkEvent::Timer | NetworkEvent::Woken | NetworkEvent::Incoming => None,
        });
        sockets.collect()
    }

    #[test]
    fn input_is_reported_once_and_again_after_rearming() {
        let mut kernel = Kernel::new().unwrap();
        let (mine, mut theirs) = pair();
        kernel.register(&mine, token(7)).unwrap();
        assert_eq!(events(&mut kernel), [], "not registered for output");
        theirs.write_all(b"x").unwrap();
        assert_eq!(reported(&mut kernel), [7]);
        assert_eq!(events(&mut kernel), []);
        kernel.rearm(&mine, token(7)).unwrap();
        assert_eq!(reported(&mut kernel), [7]);
        theirs.write_all(b"y").unwrap();
        drop(theirs);
        while {
            let mut events = Vec::new();
            kernel
                .wait(WaitFor::For(Duration::from_secs(1)), &mut events)
                .unwrap();
            // The input and its end are reported by one event or by two.
            !events.iter().any(must_be_emptied)
        } {}
    }

    #[test]
    fn a_deregistered_socket_is_not_reported_although_it_is_open() {
        let mut kernel = Kernel::new().unwrap();
        let (mine, mut theirs) = pair();
        kernel.register(&mine, token(7)).unwrap();
        theirs.write_all(b"x").unwrap();
        kernel.deregister(&mine);
        assert_eq!(events(&mut kernel), []);
        kernel.register(&mine, token(8)).unwrap();
        assert_eq!(reported(&mut kernel), [8]);
    }

    #[test]
    fn a_full_socket_is_reported_each_time_it_becomes_writable_again() {
        let mut kernel = Kernel::new().unwrap();
        let (mine, mut theirs) = pair();
        theirs.set_nonblocking(true).unwrap();
        kernel.register(&mine, token(0)).unwrap();
        let fill = |kernel: &mut Kernel| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&mine);
            let full = (0..).find_map(|_| kernel.send(fd, &[0; 65_536]).err());
            assert_eq!(full, Some(Errno::EAGAIN));
        };
        fill(&mut kernel);
        kernel.rearm(&mine, token(0)).unwrap();
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..3 {
            let mut events = Vec::new();
            while !events.iter().any(takes_output) {
                events.clear();
                while theirs.read(&mut buffer).is_ok() {}
                kernel
                    .wait(WaitFor::For(Duration::from_millis(1)), &mut events)
                    .unwrap();
            }
            fill(&mut kernel);
        }
    }

    fn must_be_emptied(event: &NetworkEvent) -> bool {
        matches!(event, NetworkEvent::Socket(_, readiness) if readiness.until_empty)
    }

    fn takes_output(event: &NetworkEvent) -> bool {
        matches!(event, NetworkEvent::Socket(_, readiness) if readiness.takes_output)
    }

    #[test]
    fn more_ready_sockets_than_one_wait_returns_are_reported_by_later_waits() {
        let mut kernel = Kernel::new().unwrap();
        let pairs: Vec<_> = (0..EVENTS + 40).map(|_| pair()).collect();
        for (slot, (mine, theirs)) in (0..).zip(&pairs) {
            kernel.register(mine, token(slot)).unwrap();
            (&mut &*theirs).write_all(b"x").unwrap();
        }
        let mut all = Vec::new();
        while all.len() < pairs.len() {
            let some = reported(&mut kernel);
            assert!(!some.is_empty() && some.len() <= EVENTS, "{}", all.len());
            all.extend(some);
        }
        all.sort_unstable();
        assert!(all.into_iter().map(|slot| slot as usize).eq(0..pairs.len()));
        assert_eq!(events(&mut kernel), []);
    }

    #[test]
    fn each_timer_expiry_and_each_wake_ends_a_wait() {
        let mut kernel = Kernel::new().unwrap();
        let waker = kernel.waker();
        for _ in 0..3 {
            let mut events = Vec::new();
            let wakes = std::thread::spawn({
                let waker = waker.clone();
                move || waker.wake()
            });
            while !events.contains(&NetworkEvent::Woken) {
                kernel
                    .wait(WaitFor::For(Duration::from_secs(60)), &mut events)
                    .unwrap();
            }
            wakes.join().unwrap();
            events.clear();
            while !events.contains(&NetworkEvent::Timer) {
                kernel
                    .wait(WaitFor::For(Duration::from_micros(100)), &mut events)
                    .unwrap();
            }
            events.clear();
            kernel.wait(WaitFor::None, &mut events).unwrap();
            assert_eq!(events, [], "each event is reported once");
        }
    }

    #[test]
    fn urgent_data_cuts_a_read_short_and_its_event_indicates_that() {
        let mut kernel = Kernel::new().unwrap();
        let (mine, mut theirs) = pair();
        theirs.write_all(b"before").unwrap();
        SockRef::from(&theirs).send_out_of_band(b"!").unwrap();
        theirs.write_all(b"after").unwrap();
        kernel.register(&mine, token(0)).unwrap();
        let mut events = Vec::new();
        while !events.iter().any(must_be_emptied) {
            kernel
                .wait(WaitFor::For(Duration::from_secs(1)), &mut events)
                .unwrap();
        }
        let mut buffer = [0; 64];
        let mut all = Vec::new();
        while all.len() < b"beforeafter".len() {
            // A read returns no bytes beyond the urgent mark.
            if let Ok(Received::Bytes { len, .. }) = kernel.receive(&mine, &mut buffer) {
                all.extend_from_slice(&buffer[..len]);
            }
        }
        assert_eq!(all, b"beforeafter");
    }

    #[test]
    fn an_interrupted_wait_succeeds_without_events() {
        let mut kernel = Kernel::new().unwrap();
        // SIGSTOP and SIGCONT interrupt epoll_wait, regardless of how the process handles signals.
        let pid = std::process::id();
        let script = format!(
            "for n in 1 2 3; do sleep 0.1; kill -STOP {pid}; sleep 0.1; kill -CONT {pid}; done"
        );
        let mut other = std::process::Command::new("sh")
            .args(["-c", &script])
            .spawn()
            .unwrap();
        while other.try_wait().unwrap().is_none() {
            let mut events = Vec::new();
            kernel
                .wait(WaitFor::For(Duration::from_secs(1)), &mut events)
                .unwrap();
            assert!(events.is_empty() || events == [NetworkEvent::Timer]);
        }
    }

    #[test]
    fn stop_listening_closes_the_listener() {
        let mut kernel = Kernel::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        kernel.listen(listener).unwrap();
        let _theirs = TcpStream::connect(addr).unwrap();
        let mut events = Vec::new();
        while !events.contains(&NetworkEvent::Incoming) {
            kernel
                .wait(WaitFor::For(Duration::from_secs(1)), &mut events)
                .unwrap();
        }
        assert!(kernel.accept().is_ok());
        let error = kernel.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        kernel.stop_listening();
        assert!(TcpStream::connect(addr).is_err());
    }
}
