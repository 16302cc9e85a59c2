//! A scripted network in virtual time: sockets with as much room as a test gives them, costs for
//! each call, and an account of how much is done between two looks at the clock.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use tickstorm_timebase::{Clock, Mono};

use crate::sys::network::{Network, NetworkEvent, Readiness, Token, WaitFor};

/// What a test and the shard both hold.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Scene>>);

#[derive(Default)]
pub(super) struct Scene {
    pub(super) now: Mono,
    /// Where waiting ends, whatever the timer is set for.
    pub(super) horizon: Mono,
    timer: Mono,
    /// The timer's clock runs a twelfth faster than the machine's time, as chrony may let it.
    pub(super) timer_is_fast: bool,
    /// What each call takes.
    pub(super) cost: Duration,
    pub(super) sockets: BTreeMap<RawFd, ScriptedSocket>,
    incoming: VecDeque<RawFd>,
    incoming_is_new: bool,
    pub(super) is_listening: bool,
    woken: bool,
    /// Calls since the last look at the clock, and the most there were.
    calls: usize,
    pub(super) calls_max: usize,
}

/// One socket, seen from the client's side.
#[derive(Default)]
pub(super) struct ScriptedSocket {
    input: VecDeque<u8>,
    /// Reads end after so many bytes, as urgent data makes them.
    pub(super) read_max: Option<usize>,
    has_ended: bool,
    error: Option<Errno>,
    /// What the client got.
    pub(super) sent: Vec<u8>,
    /// How many calls it got that by.
    pub(super) sends: usize,
    /// Bytes that it takes before it is full; none: everything.
    pub(super) room: Option<usize>,
    pub(super) is_shut: bool,
    pub(super) is_closed: bool,
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

    /// Lets input lie in the socket that no event tells of.
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

/// A guard that looks like one socket.
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

    /// Lets a client connect.
    pub(super) fn connect(&self) -> RawFd {
        let mut scene = self.scene();
        let fd = RawFd::try_from(scene.sockets.len()).unwrap();
        scene.sockets.insert(fd, ScriptedSocket::default());
        scene.incoming.push_back(fd);
        scene.incoming_is_new = true;
        fd
    }

    /// Lets a client send.
    pub(super) fn client_sends(&self, fd: RawFd, bytes: &[u8]) {
        let mut socket = self.on(fd);
        socket.input.extend(bytes);
        let present = socket.present();
        socket.report(Readiness {
            takes_output: false,
            ..present
        });
    }

    /// Lets a client end its side.
    pub(super) fn client_ends(&self, fd: RawFd) {
        let mut socket = self.on(fd);
        socket.has_ended = true;
        let present = socket.present();
        socket.report(present);
    }

    /// Lets a connection break.
    pub(super) fn breaks(&self, fd: RawFd, errno: Errno) {
        let mut socket = self.on(fd);
        socket.error = Some(errno);
        let present = socket.present();
        socket.report(present);
    }

    /// Lets a client take so many more bytes.
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

    /// One call of the shard's, which takes its time.
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
        // So that a loop that only looks at the clock comes to an end.
        scene.now = scene.now + Duration::from_nanos(25);
        scene.now
    }
}

impl Network for Script {
    type Socket = Socket;

    fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        let mut scene = self.call();
        let fd = scene.incoming.pop_front().filter(|_| scene.is_listening);
        let fd = fd.ok_or(io::ErrorKind::WouldBlock)?;
        let port = u16::try_from(fd % 60_000).unwrap();
        let socket = Socket {
            fd,
            script: self.clone(),
        };
        Ok((socket, SocketAddr::from(([192, 0, 2, 1], port))))
    }

    fn stop_listening(&mut self) {
        self.call().is_listening = false;
    }

    fn receive(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        drop(self.call());
        let mut socket = self.on(socket.fd);
        if let Some(errno) = socket.error {
            return Err(errno.into());
        }
        if socket.input.is_empty() {
            return if socket.has_ended {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let most = socket.read_max.unwrap_or(usize::MAX).min(buffer.len());
        let taken = socket.input.len().min(most);
        for (to, from) in buffer.iter_mut().zip(socket.input.drain(..taken)) {
            *to = from;
        }
        Ok(taken)
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
        assert_eq!(socket.token, Some(token), "re-armed as another one");
        socket.wants_output = true;
        let present = socket.present();
        socket.report(present);
        Ok(())
    }

    fn deregister(&mut self, socket: &Socket) {
        drop(self.call());
        self.on(socket.fd).token = None;
    }

    fn wait(&mut self, rest: WaitFor, events: &mut Vec<NetworkEvent>) -> io::Result<()> {
        let mut scene = self.scene();
        if let WaitFor::For(duration) = rest {
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
        if events.is_empty() && rest != WaitFor::None {
            if scene.timer <= scene.horizon {
                events.push(NetworkEvent::Timer);
            }
            scene.now = scene.now.max(scene.timer.min(scene.horizon));
        }
        Ok(())
    }
}
