//! A scripted network in virtual time: each socket accepts as many bytes as the test allows, each
//! call takes time, and the calls between two clock readings are counted.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::{Clock, Mono};

use crate::sys::network::{Listen, Network, NetworkEvent, Readiness, Received, Token, WaitFor};
use crate::sys::socket_memory::SocketMemory;

/// The address that clients connect from, unless a test chooses another.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The scripted network, which a test and the shard share.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Scene>>);

#[derive(Default)]
pub(super) struct Scene {
    pub(super) now: Mono,
    /// For how long the machine has been suspended.
    pub(super) suspended: Duration,
    /// For how long the next wait that returns an event stalls.
    pub(super) wait_stalls: Duration,
    /// The latest time at which a wait ends, regardless of the timer.
    pub(super) horizon: Mono,
    timer: Mono,
    /// Whether the timer's clock runs a twelfth faster than the machine's time, as chrony may make
    /// it.
    pub(super) timer_is_fast: bool,
    /// The time that each call takes.
    pub(super) cost: Duration,
    pub(super) sockets: BTreeMap<RawFd, ScriptedSocket>,
    incoming: VecDeque<RawFd>,
    incoming_is_new: bool,
    /// What accepting fails with next.
    pub(super) accept_error: Option<Errno>,
    pub(super) is_listening: bool,
    /// Whether every client has an address of its own.
    pub(super) has_addresses: bool,
    woken: bool,
    /// The number of calls since the last clock reading.
    calls: usize,
    /// The highest value of `calls` so far.
    pub(super) calls_max: usize,
}

/// One socket, as the client sees it.
#[derive(Default)]
pub(super) struct ScriptedSocket {
    /// The client's address; `None` stands for [`CLIENT`].
    from: Option<IpAddr>,
    input: VecDeque<u8>,
    /// The maximum number of bytes per read, as urgent data would limit it.
    pub(super) read_max: Option<usize>,
    has_ended: bool,
    error: Option<Errno>,
    /// The bytes that the client has received.
    pub(super) sent: Vec<u8>,
    /// The number of calls that sent them.
    pub(super) sends: usize,
    /// The number of bytes that the socket accepts before it is full; `None` for no limit.
    pub(super) room: Option<usize>,
    pub(super) is_shut: bool,
    pub(super) is_closed: bool,
    /// Whether closing it resets the connection.
    pub(super) is_reset: bool,
    pub(super) memory: SocketMemory,
    /// The round-trip time to the client, if the kernel has measured it.
    pub(super) round_trip: Option<Duration>,
    token: Option<Token>,
    wants_output: bool,
    unreported: Readiness,
}

impl ScriptedSocket {
    fn report(&mut self, readiness: Readiness) {
        self.unreported.has_input |= readiness.has_input;
        self.unreported.until_empty |= readiness.until_empty;
        self.unreported.takes_output |= readiness.takes_output && self.wants_output;
    }

    /// Adds input to the socket that no event reports.
    pub(super) fn hide_input(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    fn present(&self) -> Readiness {
        let has_ended = self.has_ended || self.error.is_some();
        Readiness {
            has_input: has_ended || !self.input.is_empty(),
            until_empty: has_ended || self.read_max.is_some(),
            takes_output: has_ended || self.room != Some(0),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(errno) = self.error {
            return Err(errno);
        }
        let taken = self.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if taken == 0 && !bytes.is_empty() {
            return Err(Errno::EAGAIN);
        }
        self.room = self.room.map(|room| room - taken);
        self.sent.extend_from_slice(&bytes[..taken]);
        self.sends += 1;
        Ok(taken)
    }
}

/// A connection's end of a scripted socket.
pub(super) struct Socket {
    fd: RawFd,
    script: Script,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.script.on(self.fd).is_closed = true;
    }
}

/// A guard that dereferences to one socket.
pub(super) struct On<'a> {
    scene: MutexGuard<'a, Scene>,
    fd: RawFd,
}

impl std::ops::Deref for On<'_> {
    type Target = ScriptedSocket;

    fn deref(&self) -> &ScriptedSocket {
        &self.scene.sockets[&self.fd]
    }
}

impl std::ops::DerefMut for On<'_> {
    fn deref_mut(&mut self) -> &mut ScriptedSocket {
        self.scene.sockets.get_mut(&self.fd).expect("a socket")
    }
}

impl Script {
    pub(super) fn scene(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap()
    }

    pub(super) fn on(&self, fd: RawFd) -> On<'_> {
        On {
            scene: self.scene(),
            fd,
        }
    }

    /// Connects a client, and returns its descriptor.
    pub(super) fn connect(&self) -> RawFd {
        self.connect_from(None)
    }

    /// Connects a client from an address.
    pub(super) fn connect_from(&self, from: Option<IpAddr>) -> RawFd {
        let mut scene = self.scene();
        let fd = RawFd::try_from(scene.sockets.len()).unwrap();
        let socket = ScriptedSocket {
            from,
            ..ScriptedSocket::default()
        };
        scene.sockets.insert(fd, socket);
        scene.incoming.push_back(fd);
        scene.incoming_is_new = true;
        fd
    }

    /// Returns the number of connections that wait to be accepted.
    pub(super) fn waiting(&self) -> usize {
        self.scene().incoming.len()
    }

    /// Makes a client send `bytes`.
    pub(super) fn client_sends(&self, fd: RawFd, bytes: &[u8]) {
        let mut socket = self.on(fd);
        socket.input.extend(bytes);
        let present = socket.present();
        socket.report(Readiness {
            takes_output: false,
            ..present
        });
    }

    /// Makes a client shut down its sending side.
    pub(super) fn client_ends(&self, fd: RawFd) {
        let mut socket = self.on(fd);
        socket.has_ended = true;
        let present = socket.present();
        socket.report(present);
    }

    /// Makes a connection fail with `errno`.
    pub(super) fn breaks(&self, fd: RawFd, errno: Errno) {
        let mut socket = self.on(fd);
        socket.error = Some(errno);
        let present = socket.present();
        socket.report(present);
    }

    /// Makes a client read, so that its socket accepts this many more bytes.
    pub(super) fn client_reads(&self, fd: RawFd, bytes: usize) {
        let mut socket = self.on(fd);
        socket.room = socket.room.map(|room| room + bytes);
        let present = socket.present();
        socket.report(Readiness {
            has_input: false,
            until_empty: false,
            ..present
        });
    }

    /// Accounts for one call by the shard, which takes time.
    fn call(&self) -> MutexGuard<'_, Scene> {
        let mut scene = self.scene();
        scene.now = scene.now + scene.cost;
        scene.calls += 1;
        scene.calls_max = scene.calls_max.max(scene.calls);
        scene
    }
}

impl Clock for Script {
    fn now(&self) -> Mono {
        let mut scene = self.scene();
        scene.calls = 0;
        // Advance the time, so that a loop that only reads the clock ends.
        scene.now = scene.now + Duration::from_nanos(25);
        scene.now
    }

    fn suspended(&self) -> Duration {
        self.scene().suspended
    }
}

impl Listen for Script {
    fn listen(&mut self, _listener: TcpListener) -> io::Result<()> {
        self.scene().is_listening = true;
        Ok(())
    }
}

impl Network for Script {
    type Socket = Socket;

    fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        let mut scene = self.call();
        if let Some(errno) = scene.accept_error.take() {
            return Err(errno.into());
        }
        let fd = scene.incoming.pop_front().filter(|_| scene.is_listening);
        let fd = fd.ok_or(io::ErrorKind::WouldBlock)?;
        let port = u16::try_from(fd % 60_000).unwrap();
        let ip = match scene.sockets[&fd].from {
            Some(ip) => ip,
            None if scene.has_addresses => {
                let [_, b, c, d] = fd.to_be_bytes();
                IpAddr::from([10, b, c, d])
            }
            None => CLIENT,
        };
        let socket = Socket {
            fd,
            script: self.clone(),
        };
        Ok((socket, SocketAddr::new(ip, port)))
    }

    fn stop_listening(&mut self) {
        self.call().is_listening = false;
    }

    fn receive(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
        drop(self.call());
        let mut socket = self.on(socket.fd);
        if let Some(errno) = socket.error {
            return Err(errno.into());
        }
        if socket.input.is_empty() {
            return if socket.has_ended {
                Ok(Received::End)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let most = socket.read_max.unwrap_or(usize::MAX).min(buffer.len());
        let taken = socket.input.len().min(most);
        for (to, from) in buffer.iter_mut().zip(socket.input.drain(..taken)) {
            *to = from;
        }
        Ok(Received::new(taken, buffer.len()))
    }

    fn send(&mut self, socket: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        drop(self.call());
        assert!(!self.on(socket).is_closed, "sent to a closed socket");
        self.on(socket).take(bytes)
    }

    fn send_parts(&mut self, socket: &Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        drop(self.call());
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        Ok(self.on(socket.fd).take(&bytes)?)
    }

    fn buffered(&self, _socket: &Socket) -> usize {
        0
    }

    fn socket_memory(&self, socket: &Socket) -> SocketMemory {
        drop(self.call());
        self.on(socket.fd).memory
    }

    fn round_trip(&self, socket: &Socket) -> Option<Duration> {
        drop(self.call());
        self.on(socket.fd).round_trip
    }

    fn reset_on_drop(&mut self, socket: &Socket) {
        drop(self.call());
        self.on(socket.fd).is_reset = true;
    }

    fn shut_down_sending(&mut self, socket: &Socket) {
        drop(self.call());
        self.on(socket.fd).is_shut = true;
    }

    fn take_error(&mut self, socket: &Socket) -> Option<io::Error> {
        drop(self.call());
        self.on(socket.fd).error.map(io::Error::from)
    }

    fn register(&mut self, socket: &Socket, token: Token) -> io::Result<()> {
        drop(self.call());
        let mut socket = self.on(socket.fd);
        socket.token = Some(token);
        let present = socket.present();
        socket.report(present);
        Ok(())
    }

    fn rearm(&mut self, socket: &Socket, token: Token) -> io::Result<()> {
        drop(self.call());
        let mut socket = self.on(socket.fd);
        assert_eq!(socket.token, Some(token), "re-armed with a different token");
        socket.wants_output = true;
        let present = socket.present();
        socket.report(present);
        Ok(())
    }

    fn deregister(&mut self, socket: &Socket) {
        drop(self.call());
        self.on(socket.fd).token = None;
    }

    fn wait(&mut self, wait_for: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()> {
        let mut scene = self.scene();
        if let WaitFor::For(duration) = wait_for {
            let slewed = if scene.timer_is_fast {
                duration * 11 / 12
            } else {
                duration
            };
            scene.timer = scene.now + slewed;
        }
        if std::mem::take(&mut scene.woken) {
            events.push(NetworkEvent::Woken);
        }
        if scene.is_listening && std::mem::take(&mut scene.incoming_is_new) {
            events.push(NetworkEvent::Incoming);
        }
        for socket in scene.sockets.values_mut() {
            let readiness = socket.unreported;
            if let Some(token) = socket.token
                && readiness != Readiness::default()
            {
                events.push(NetworkEvent::Socket(token, readiness));
                socket.unreported = Readiness::default();
            }
        }
        if !events.is_empty() {
            let stalled = std::mem::take(&mut scene.wait_stalls);
            scene.now = scene.now + stalled;
        }
        if events.is_empty() && wait_for != WaitFor::None {
            if scene.timer <= scene.horizon {
                events.push(NetworkEvent::Timer);
            }
            scene.now = scene.now.max(scene.timer.min(scene.horizon));
        }
        Ok(())
    }
}
