//! A thread of the generator: an epoll, the clients that it owns, and one loop over both. It does as little as it can for each
//! message, since it shares the machine with what it measures.

mod beating;
mod connecting;
mod reading;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};
use rustix::net::SendFlags;

use self::beating::Beats;
use super::client::{LoadReader, Pace};
use super::clients::LoadClients;
use super::command::{ArrivingClients, GeneratorCommand};
use super::connection_end::ConnectionEnd;
use super::harvest::Harvest;
use super::known::{KnownFrame, KnownFrames};
use super::meter::Meter;
use super::setup::{ClientSetup, GeneratorShared};
use crate::machine::now_ns;

/// Events taken at once.
const EVENTS: usize = 512;
/// How long the loop waits for something to happen, in milliseconds: what else is to be done has no more haste.
const WAIT_MS: u16 = 2;
/// Nor is it looked after more often than this while something happens all the time.
const CHORES_EACH: Duration = Duration::from_millis(1);
/// A frame that came to nobody for so long comes no more, and is counted.
const QUIET: Duration = Duration::from_millis(200);

const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// The thread's own.
pub(super) struct Worker {
    setup: Arc<ClientSetup>,
    shared: Arc<GeneratorShared>,
    commands: Receiver<GeneratorCommand>,
    epoll: Epoll,
    clients: LoadClients,
    arriving: VecDeque<ArrivingClients>,
    /// Connections whose handshake is not done.
    on_their_way: u32,
    greetings: connecting::Greetings,
    /// Bytes of frames that have not come whole yet, by place.
    rests: HashMap<u32, Vec<u8>>,
    frames: KnownFrames,
    retired: Vec<KnownFrame>,
    scratch: Vec<u8>,
    beats: Beats,
    /// When those who read a byte a second last did.
    trickled_ns: u64,
    /// When the clock was last read.
    now_ns: u64,
    meter: Meter,
    harvest: Harvest,
}

impl Worker {
    pub(super) fn new(
        setup: Arc<ClientSetup>,
        shared: Arc<GeneratorShared>,
        commands: Receiver<GeneratorCommand>,
        tells_time: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: LoadClients::default(),
            arriving: VecDeque::new(),
            on_their_way: 0,
            greetings: connecting::Greetings::new(&setup),
            rests: HashMap::new(),
            frames: KnownFrames::new(setup.mode),
            retired: Vec::new(),
            scratch: reading::scratch(),
            beats: Beats::new(setup.heartbeat, tells_time, now_ns()),
            trickled_ns: 0,
            now_ns: 0,
            meter: Meter::default(),
            harvest: Harvest::default(),
            setup,
            shared,
            commands,
        })
    }

    /// Runs until nobody can tell it anything any more.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut chores_ns = 0;
        loop {
            if self.now_ns >= chores_ns {
                chores_ns = self.now_ns + nanos(CHORES_EACH);
                loop {
                    match self.commands.try_recv() {
                        Ok(command) => self.obey(command),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return Ok(()),
                    }
                }
                self.connect_more();
                self.beat();
                self.trickle();
            }
            let ready = match self.epoll.wait(&mut events, WAIT_MS) {
                Err(Errno::EINTR) => 0,
                outcome => outcome?,
            };
            // Those who connect need not read anything, and more are to follow them.
            if ready == 0 || !self.arriving.is_empty() {
                self.now_ns = now_ns();
            }
            if ready == 0 {
                self.be_quiet();
            }
            self.meter.begin_turn();
            let ready = &events[..ready];
            for (at, event) in ready.iter().enumerate() {
                if let Some(next) = ready.get(at + 1) {
                    self.clients.look_ahead(place(next));
                }
                self.handle(place(event), event.events());
            }
            self.meter.end_turn();
        }
    }

    fn obey(&mut self, command: GeneratorCommand) {
        match command {
            GeneratorCommand::Connect(arrive) => self.arriving.push_back(arrive),
            GeneratorCommand::Leave { count, reset } => {
                for place in self.clients.oldest(count as usize) {
                    self.leave(place, reset);
                }
            }
            GeneratorCommand::Read { pace, count } => {
                for place in self.clients.oldest(count as usize) {
                    if let Some(reader) = self.clients.reader(place) {
                        reader.pace = pace;
                    }
                }
            }
            GeneratorCommand::Lacking { until_ms, reply } => {
                // Who asked may have given up.
                let _ = reply.send(self.lacking(until_ms));
            }
            GeneratorCommand::Harvest { until_ms, reply } => {
                let harvest = self.harvest(until_ms);
                // Likewise.
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
            self.harvest.faults.lost += self.lacking(until_ms);
        }
        std::mem::take(&mut self.harvest)
    }

    /// Ticks up to `until_ms` that have not come to those who read.
    fn lacking(&self, until_ms: i64) -> u64 {
        let period_ms = self.setup.mode.period_ms();
        let readers = self.clients.readers();
        let eager = readers.filter(|reader| reader.pace == Pace::Eager);
        let accounts = eager.filter_map(|reader| reader.account.as_ref());
        accounts
            .map(|account| account.lost(Some(until_ms), period_ms))
            .sum()
    }

    /// Nothing is under way: time to count what came.
    fn be_quiet(&mut self) {
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

    /// Lets a client go that wanted to.
    fn leave(&mut self, place: u32, reset: bool) {
        if let Some(reader) = self.remove(place)
            && reset
        {
            reader.reset();
        }
    }

    /// A connection has ended that nobody ended.
    fn end(&mut self, place: u32, why: &ConnectionEnd) {
        let Some(reader) = self.remove(place) else {
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

    fn remove(&mut self, place: u32) -> Option<LoadReader> {
        let (client, reader) = self.clients.remove(place)?;
        self.rests.remove(&place);
        if !client.is_served() {
            self.on_their_way -= 1;
        }
        let account = reader.account.as_ref();
        if let Some(account) = account.filter(|_| reader.pace == Pace::Eager) {
            self.harvest.faults.lost += account.lost(None, self.setup.mode.period_ms());
        }
        Some(reader)
    }
}

/// The client's place that an event names, as it was told to.
fn place(event: &EpollEvent) -> u32 {
    u32::try_from(event.data()).unwrap_or(u32::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
