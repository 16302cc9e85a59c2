//! The driver: connects a [`Play`] to sockets, the machine's clock and standard output.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use tickstorm_command::Failure;
use tickstorm_service::exit;
use tickstorm_timebase::{Clock as _, HostClock as _, Mono, SystemClock, SystemHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::connection::ConnectionId;
use super::judge::Login;
use super::outbox::Write;
use super::play::{Effect, Outcome, Play};
use super::report::Report;
use super::script::Scenario;

/// How long to wait for the first client.
const FIRST_CLIENT_MAX: Duration = Duration::from_secs(60);
/// The most writes that a connection may leave undone. A client that reads never has so many.
const WRITES_MAX: usize = 8_192;
/// The most events that wait to be handled.
const EVENTS_MAX: usize = 256;
/// The space for bytes from a client.
const READ_LEN: usize = 4_096;
/// For how long a connection is read after its end, so that what the client sent causes no reset.
const LINGER: Duration = Duration::from_secs(1);
/// A timer that is later than this shows that the machine stalled.
const STALL: Duration = Duration::from_millis(200);

/// Something that happened on a connection.
enum Event {
    Bytes(ConnectionId, Vec<u8>, Mono),
    Closed(ConnectionId, Mono),
}

/// Plays scenarios to the clients of one listener.
pub(super) struct Driver {
    listener: TcpListener,
    play: Play,
    writers: BTreeMap<ConnectionId, mpsc::Sender<Write>>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
}

impl Driver {
    /// Listens on `addr`.
    pub(super) async fn listen(addr: SocketAddr, login: Login) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let (now, unix) = (SystemClock.now(), SystemHost::new(0).read().unix);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        Ok(Self {
            listener,
            play: Play::new(login, unix, now, now.as_nanos()),
            writers: BTreeMap::new(),
            events,
            sender,
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Plays the scenarios in turn, up to one that the client does not come back in.
    pub(super) async fn run(
        mut self,
        scenarios: &[Scenario],
        report: &mut Report,
    ) -> Result<(), Failure> {
        for &scenario in scenarios {
            self.play.begin(scenario, SystemClock.now());
            let outcome = self.play_one(scenario, report).await?;
            report.end()?;
            if outcome == Outcome::ClientGone {
                break;
            }
        }
        Ok(())
    }

    async fn play_one(
        &mut self,
        scenario: Scenario,
        report: &mut Report,
    ) -> Result<Outcome, Failure> {
        report.begin(scenario)?;
        let first_client_by = SystemClock.now() + FIRST_CLIENT_MAX;
        loop {
            let now = SystemClock.now();
            self.play.poll(now);
            self.perform_effects(report, now)?;
            if let Some(outcome) = self.play.outcome() {
                return Ok(outcome);
            }
            let mut wake = self.play.next_wake(now);
            if !self.play.has_client() {
                if now >= first_client_by {
                    let text = "no client came within 60 s";
                    return Err(Failure::message(exit::UNAVAILABLE, text.into()));
                }
                wake = wake.min(first_client_by);
            }
            self.wait(wake, now).await;
        }
    }

    /// Waits for the next event, but not beyond `wake`, and hands it to the play.
    async fn wait(&mut self, wake: Mono, now: Mono) {
        tokio::select! {
            accepted = self.listener.accept() => match accepted {
                Ok((socket, _)) => self.handle_accepted(socket),
                // For instance if no descriptor is left.
                Err(_) => sleep(STALL).await,
            },
            Some(event) = self.events.recv() => match event {
                Event::Bytes(id, bytes, at) => self.play.handle_bytes(id, &bytes, at),
                Event::Closed(id, at) => {
                    self.writers.remove(&id);
                    self.play.handle_closed(id, at);
                }
            },
            () = sleep(wake.since(now)) => {
                let late = SystemClock.now().since(wake);
                if late > STALL {
                    self.play.handle_stall(late);
                }
            }
        }
    }

    fn handle_accepted(&mut self, socket: TcpStream) {
        let Some(id) = self.play.handle_connected(SystemClock.now()) else {
            return;
        };
        let (writer, writes) = mpsc::channel(WRITES_MAX);
        self.writers.insert(id, writer);
        tokio::spawn(serve(socket, id, writes, self.sender.clone()));
    }

    fn perform_effects(&mut self, report: &mut Report, now: Mono) -> Result<(), Failure> {
        while let Some(effect) = self.play.next_effect() {
            match effect {
                Effect::Write(id, write) => {
                    let Some(writer) = self.writers.get(&id) else {
                        continue;
                    };
                    if let Err(mpsc::error::TrySendError::Full(_)) = writer.try_send(write) {
                        self.writers.remove(&id);
                        self.play.handle_full(id, now);
                    }
                }
                Effect::Note(text) => report.note(&text)?,
                Effect::Fault(fault) => report.fault(&fault)?,
            }
        }
        Ok(())
    }
}

/// Moves bytes between a socket and the play, until either side ends it.
async fn serve(
    mut socket: TcpStream,
    id: ConnectionId,
    mut writes: mpsc::Receiver<Write>,
    events: mpsc::Sender<Event>,
) {
    // Without it, bytes that are written one by one would wait for each other.
    let _ = socket.set_nodelay(true);
    let mut buffer = vec![0; READ_LEN];
    loop {
        let flow = tokio::select! {
            write = writes.recv() => perform(write, &mut socket).await,
            read = socket.read(&mut buffer) => match read {
                Ok(0) | Err(_) => ControlFlow::Break(()),
                Ok(len) => {
                    let bytes = buffer[..len].to_vec();
                    let event = Event::Bytes(id, bytes, SystemClock.now());
                    match events.send(event).await {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                }
            },
        };
        if flow.is_break() {
            break;
        }
    }
    // If the play is over, nobody is interested.
    let _ = events.send(Event::Closed(id, SystemClock.now())).await;
}

/// Performs a write. Nothing is left to be done after an end of file, a reset, or an error.
async fn perform(write: Option<Write>, socket: &mut TcpStream) -> ControlFlow<()> {
    match write {
        Some(Write::Bytes(bytes)) => match socket.write_all(&bytes).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        },
        Some(Write::Finish) => {
            let _ = socket.shutdown().await;
            let mut buffer = [0; READ_LEN / 8];
            let rest = async { while matches!(socket.read(&mut buffer).await, Ok(1..)) {} };
            let _ = timeout(LINGER, rest).await;
            ControlFlow::Break(())
        }
        Some(Write::Reset) => {
            let _ = socket.set_zero_linger();
            ControlFlow::Break(())
        }
        None => ControlFlow::Break(()),
    }
}
