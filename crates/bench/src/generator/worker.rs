//! A thread of the generator: an epoll, the clients that it owns, and one loop over both. It does
//! as little as possible for each message, since it shares the machine with what it measures.

mod connecting;
mod heartbeats;
mod reading;
mod secured;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};

use self::heartbeats::HeartbeatPacer;
use super::client::{LoadReader, Pace};
use super::clients::LoadClients;
use super::command::{ArrivingClients, GeneratorCommand};
use super::connection_end::ConnectionEnd;
use super::harvest::Harvest;
use super::known::{KnownFrame, KnownFrames};
use super::meter::Meter;
use super::setup::{ClientSetup, GeneratorShared};
use crate::machine::now_ns;

/// The largest number of events per wait.
const EVENTS: usize = 512;
/// The longest wait for an event, in milliseconds. None of the loop's chores is more urgent.
const WAIT_MS: u16 = 2;
/// The minimum interval between chores while events keep coming.
const CHORE_INTERVAL: Duration = Duration::from_millis(1);
/// A frame that has not arrived at any client for this long counts as delivered, and its arrivals
/// are evaluated.
const QUIET: Duration = Duration::from_millis(200);

/// The state of the thread.
pub(super) struct Worker {
    setup: Arc<ClientSetup>,
    shared: Arc<GeneratorShared>,
    commands: Receiver<GeneratorCommand>,
    epoll: Epoll,
    clients: LoadClients,
    arriving: VecDeque<ArrivingClients>,
    /// The number of connections whose handshake is not complete.
    in_handshake: u32,
    /// The device cookies of clients that have left, for those that connect next.
    cookies: Vec<Vec<u8>>,
    greetings: connecting::Greetings,
    /// The bytes of frames that have arrived only in part, by slot.
    partial_frames: HashMap<u32, Vec<u8>>,
    /// The same for TLS records.
    partial_records: HashMap<u32, Vec<u8>>,
    frames: KnownFrames,
    retired: Vec<KnownFrame>,
    scratch: Vec<u8>,
    /// The contents of TLS records that have been opened.
    plaintext: Vec<u8>,
    /// A TLS record to send.
    sealed: Vec<u8>,
    heartbeats: HeartbeatPacer,
    /// When the clients that read one byte per second last read.
    trickled_ns: u64,
    /// The last clock reading.
    now_ns: u64,
    meter: Meter,
    harvest: Harvest,
}

impl Worker {
    pub(super) fn new(
        setup: Arc<ClientSetup>,
        shared: Arc<GeneratorShared>,
        commands: Receiver<GeneratorCommand>,
        learns_time: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: LoadClients::default(),
            arriving: VecDeque::new(),
            in_handshake: 0,
            cookies: Vec::new(),
            greetings: connecting::Greetings::new(&setup),
            partial_frames: HashMap::new(),
            partial_records: HashMap::new(),
            frames: KnownFrames::new(setup.mode),
            retired: Vec::new(),
            scratch: reading::scratch(),
            plaintext: Vec::new(),
            sealed: Vec::new(),
            heartbeats: HeartbeatPacer::new(setup.heartbeat, learns_time, now_ns()),
            trickled_ns: 0,
            now_ns: 0,
            meter: Meter::default(),
            harvest: Harvest::default(),
            setup,
            shared,
            commands,
        })
    }

    /// Runs until its command channel has no sender.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut chores_ns = 0;
        loop {
            if self.now_ns >= chores_ns {
                chores_ns = self.now_ns + nanos(CHORE_INTERVAL);
                loop {
                    match self.commands.try_recv() {
                        Ok(command) => self.handle_command(command),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return Ok(()),
                    }
                }
                self.connect_more();
                self.send_heartbeats();
                self.trickle();
            }
            let ready = match self.epoll.wait(&mut events, WAIT_MS) {
                Err(Errno::EINTR) => 0,
                outcome => outcome?,
            };
            // While clients connect, there might be no read that updates the clock reading, on
            // which the start of further connects depends.
            if ready == 0 || !self.arriving.is_empty() {
                self.now_ns = now_ns();
            }
            if ready == 0 {
                self.handle_quiet();
            }
            self.meter.begin_turn();
            let ready = &events[..ready];
            for (at, event) in ready.iter().enumerate() {
                if let Some(next) = ready.get(at + 1) {
                    self.clients.prefetch(slot(next));
                }
                self.handle(slot(event), event.events());
            }
            self.meter.end_turn();
        }
    }

    fn handle_command(&mut self, command: GeneratorCommand) {
        match command {
            GeneratorCommand::Connect(group) => self.arriving.push_back(group),
            GeneratorCommand::Disconnect { count, reset } => {
                for slot in self.clients.oldest(count as usize) {
                    self.disconnect(slot, reset);
                }
            }
            GeneratorCommand::SetPace { pace, count } => {
                for slot in self.clients.oldest(count as usize) {
                    if let Some(reader) = self.clients.reader(slot) {
                        reader.pace = pace;
                    }
                }
            }
            GeneratorCommand::CountMissing { until_ms, reply } => {
                // The receiver may have given up waiting.
                let _ = reply.send(self.missing_ticks(until_ms));
            }
            GeneratorCommand::Harvest { until_ms, reply } => {
                let harvest = self.harvest(until_ms);
                // The receiver may have given up waiting.
                let _ = reply.send(harvest);
            }
        }
    }

    fn harvest(&mut self, until_ms: Option<i64>) -> Harvest {
        self.frames.retire(u64::MAX, &mut self.retired);
        self.count_retired();
        self.harvest.spent = self.meter.take();
        self.harvest.clients = self.clients.len() as u64;
        if let Some(until_ms) = until_ms {
            self.harvest.faults.lost += self.missing_ticks(until_ms);
        }
        std::mem::take(&mut self.harvest)
    }

    /// Returns the number of ticks up to `until_ms` that are missing at clients that read.
    fn missing_ticks(&self, until_ms: i64) -> u64 {
        let period_ms = self.setup.mode.period_ms();
        let readers = self.clients.readers();
        let eager = readers.filter(|reader| reader.pace == Pace::Eager);
        let accounts = eager.filter_map(|reader| reader.account.as_ref());
        accounts
            .map(|account| account.lost(Some(until_ms), period_ms))
            .sum()
    }

    /// Uses a pause between frames to count the frames that have arrived.
    fn handle_quiet(&mut self) {
        self.meter.end();
        let before = now_ns().saturating_sub(nanos(QUIET));
        self.frames.retire(before, &mut self.retired);
        self.count_retired();
    }

    fn count_retired(&mut self) {
        let (offset_ns, error_ns) = (self.shared.offset_ns(), self.shared.error_ns());
        for known in self.retired.drain(..) {
            let latencies = &mut self.harvest.latencies;
            let seen = known
                .arrivals
                .finish(known.ticks, offset_ns, error_ns, latencies);
            if let Some(seen) = seen {
                self.harvest.faults.early += seen.early;
                self.harvest.seen.push(seen);
            }
        }
    }

    /// Disconnects a client on purpose.
    fn disconnect(&mut self, slot: u32, reset: bool) {
        if !reset && let Some(parts) = self.clients.parts_of(slot) {
            parts.channel.close_notify(parts.socket, &mut self.sealed);
        }
        if let Some(reader) = self.remove(slot)
            && reset
        {
            reader.reset();
        }
    }

    /// Handles the unexpected end of a connection.
    fn end(&mut self, slot: u32, why: &ConnectionEnd) {
        let Some(reader) = self.remove(slot) else {
            return;
        };
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        if reader.pace == Pace::Eager {
            self.harvest.faults.disconnected += 1;
            *self.harvest.ends.entry(why.into()).or_default() += 1;
        } else {
            self.harvest.slow_ended += 1;
        }
    }

    fn remove(&mut self, slot: u32) -> Option<LoadReader> {
        let (mut client, reader) = self.clients.remove(slot)?;
        self.partial_frames.remove(&slot);
        self.partial_records.remove(&slot);
        if !client.is_served() {
            self.in_handshake -= 1;
        }
        if !client.cookie.is_empty() {
            self.cookies.push(std::mem::take(&mut client.cookie));
        }
        let account = reader.account.as_ref();
        if let Some(account) = account.filter(|_| reader.pace == Pace::Eager) {
            self.harvest.faults.lost += account.lost(None, self.setup.mode.period_ms());
        }
        Some(reader)
    }
}

/// Returns the slot that was registered with the event's descriptor.
fn slot(event: &EpollEvent) -> u32 {
    u32::try_from(event.data()).unwrap_or(u32::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
