//! [`Swarm`]: many connections of one thread that follow scripts. Their number, the rate at which
//! they are opened, and their time are bounded, and all of them are closed when the swarm is
//! dropped.

mod conversation;
mod forging;
mod http;
mod plan;
mod socket;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tickstorm_timebase::{Clock as _, Mono, SystemClock};

use self::conversation::{Conversation, Next};
use self::http::Verdict;
use self::socket::{Received, SwarmSocket};
use crate::pacer::Pacer;
use crate::script::Script;

pub(crate) use self::conversation::Login;
pub(crate) use self::plan::{Reopen, Sources, SwarmPlan};

/// The most events per wait.
const EVENTS: usize = 512;
/// The longest wait for an event, so that the owner can stop the swarm.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// The most connections opened per turn, so that open connections get their share of time.
const OPENS_PER_TURN: u32 = 64;
/// The wait after a connection that could not even be opened, because no port or file was left.
const FAILED_WAIT: Duration = Duration::from_millis(100);
/// The upper bound of the first random wait of [`Reopen::WithBackoff`], as in docs/protocol.md.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The highest upper bound of a random wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a swarm has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwarmCounts {
    /// Connections that were established.
    pub(crate) connected: u64,
    /// Connections that could not be established.
    pub(crate) failed: u64,
    /// Connections that the edge has closed.
    pub(crate) closed_by_edge: u64,
    pub(crate) acks: u64,
    /// Answers of the admin port that granted what was asked for.
    pub(crate) granted: u64,
    /// Answers of the admin port that refused it.
    pub(crate) refused: u64,
    /// Steps that sent something.
    pub(crate) sends: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Connections that exist now.
    pub(crate) open: u64,
    /// Connections that exist now and were served.
    pub(crate) served_now: u64,
}

/// One connection, from its opening until it was served or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) opened: Mono,
    pub(crate) outcome: AttemptOutcome,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// The connection was served after this time.
    Served(Duration),
    /// The edge closed or refused the connection after this time.
    Refused(Duration),
    /// Nothing had happened when patience ended.
    Unanswered,
}

/// The connections.
pub(crate) struct Swarm {
    plan: SwarmPlan,
    scripts: Vec<Arc<Script>>,
    login: Arc<Login>,
    epoll: Epoll,
    slots: Vec<Slot>,
    /// Slots whose connection may be opened now.
    waiting: VecDeque<u32>,
    timers: BinaryHeap<Reverse<(Mono, u32, u32)>>,
    /// The number of connections opened so far, from which scripts and sources are derived.
    opened: u32,
    pacer: Pacer,
    counts: SwarmCounts,
    attempts: Vec<Attempt>,
    buffer: Vec<u8>,
}

/// A place for one connection at a time.
struct Slot {
    connection: Option<Connection>,
    /// Counts connections, so that events and timers of an earlier one are recognised.
    generation: u32,
    /// The device cookie that the last connection got.
    cookie: Vec<u8>,
    /// The upper bound of the next random wait.
    backoff: Duration,
}

struct Connection {
    socket: SwarmSocket,
    conversation: Conversation,
    opened: Mono,
    gives_up: Option<Mono>,
    /// When the timer expires that the script waits for.
    timer: Option<Mono>,
    is_established: bool,
    reads: bool,
    is_served: bool,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ByScript { reset: bool },
    ByEdge,
    GaveUp,
}

impl Swarm {
    pub(crate) fn new(plan: SwarmPlan) -> io::Result<Self> {
        let slots = (0..plan.connections).map(|_| Slot {
            connection: None,
            generation: 0,
            cookie: Vec::new(),
            backoff: BACKOFF_MIN,
        });
        Ok(Self {
            scripts: plan.scripts.iter().cloned().map(Arc::new).collect(),
            login: Arc::new(plan.login.clone()),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            slots: slots.collect(),
            waiting: (0..plan.connections).collect(),
            timers: BinaryHeap::new(),
            opened: 0,
            pacer: Pacer::new(plan.opens_per_second, SystemClock.now()),
            counts: SwarmCounts::default(),
            attempts: Vec::new(),
            buffer: vec![0; 64 * 1_024],
            plan,
        })
    }

    pub(crate) fn counts(&self) -> SwarmCounts {
        self.counts
    }

    /// Returns the attempts that have ended since the last call.
    pub(crate) fn take_attempts(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.attempts)
    }

    /// Opens connections if `may_open` is set, and handles everything that happens until a short
    /// time has passed.
    pub(crate) fn turn(&mut self, may_open: bool) -> io::Result<()> {
        let now = SystemClock.now();
        if may_open {
            self.open_more(now);
        }
        self.run_timers(now);
        let mut events = [EpollEvent::empty(); EVENTS];
        let ready = match self.epoll.wait(&mut events, self.wait_time(now, may_open)) {
            Err(Errno::EINTR) => 0,
            outcome => outcome?,
        };
        let now = SystemClock.now();
        for event in &events[..ready] {
            let [slot, generation] = unpack(event.data());
            if self.connection(slot, generation).is_some() {
                self.handle_event(slot, event.events(), now);
            }
        }
        Ok(())
    }

    fn wait_time(&self, now: Mono, may_open: bool) -> EpollTimeout {
        let timer = self.timers.peek().map(|Reverse((at, ..))| at.since(now));
        let open = (may_open && !self.waiting.is_empty()).then(|| self.pacer.wait(now));
        let wait = [timer, open]
            .into_iter()
            .flatten()
            .fold(WAIT_MAX, Duration::min);
        // Rounded up, so that a timer that is almost due does not cause a busy loop.
        let wait_ms = wait.as_micros().div_ceil(1_000);
        EpollTimeout::from(u16::try_from(wait_ms).unwrap_or(u16::MAX))
    }

    fn open_more(&mut self, now: Mono) {
        for _ in 0..OPENS_PER_TURN {
            if self.waiting.is_empty() || !self.pacer.take(now) {
                return;
            }
            if let Some(slot) = self.waiting.pop_front()
                && self.open(slot, now).is_err()
            {
                self.counts.failed += 1;
                self.reopen_at(slot, now + FAILED_WAIT);
            }
        }
    }

    fn open(&mut self, slot: u32, now: Mono) -> io::Result<()> {
        let number = self.opened;
        self.opened = self.opened.wrapping_add(1);
        let script = &self.scripts[number as usize % self.scripts.len()];
        let neighbours = u32::from(script.has_other_address);
        let source = self.plan.sources.of(number, neighbours);
        let socket = SwarmSocket::connect(self.plan.addr, source, script.receive_buffer)?;
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        let event = EpollEvent::new(flags, pack(slot, place.generation));
        self.epoll.add(&socket, event)?;
        let cookie = place.cookie.clone();
        let tls = self.plan.tls.as_ref();
        let conversation =
            Conversation::new(Arc::clone(script), Arc::clone(&self.login), tls, cookie);
        let gives_up = script.patience.map(|patience| now + patience);
        if let Some(at) = gives_up {
            self.timers.push(Reverse((at, slot, place.generation)));
        }
        place.connection = Some(Connection {
            socket,
            conversation,
            opened: now,
            gives_up,
            timer: None,
            is_established: false,
            reads: true,
            is_served: false,
        });
        self.counts.open += 1;
        Ok(())
    }

    fn run_timers(&mut self, now: Mono) {
        while let Some(Reverse((at, slot, generation))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let place = &mut self.slots[slot as usize];
            if place.generation != generation {
                continue;
            }
            let Some(connection) = &mut place.connection else {
                self.waiting.push_back(slot);
                continue;
            };
            if connection.gives_up.is_some_and(|at| at <= now) {
                self.end(slot, End::GaveUp, now);
            } else if connection.timer == Some(at) {
                connection.timer = None;
                self.converse(slot, now);
            }
        }
    }

    fn handle_event(&mut self, slot: u32, flags: EpollFlags, now: Mono) {
        let Some(connection) = &mut self.slots[slot as usize].connection else {
            return;
        };
        if !connection.is_established {
            if connection.socket.has_failed() {
                return self.end(slot, End::ByEdge, now);
            }
            connection.is_established = true;
            self.counts.connected += 1;
            // The first steps may say that the connection never reads.
            self.converse(slot, now);
        }
        let Some(connection) = &mut self.slots[slot as usize].connection else {
            return;
        };
        let over = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR | EpollFlags::EPOLLRDHUP;
        if connection.reads {
            if flags.intersects(over | EpollFlags::EPOLLIN) && self.read(slot).is_err() {
                return self.end(slot, End::ByEdge, now);
            }
        } else if flags.intersects(over) {
            return self.end(slot, End::ByEdge, now);
        }
        self.converse(slot, now);
    }

    /// Reads everything that has arrived. Fails if the connection has ended.
    fn read(&mut self, slot: u32) -> anyhow::Result<()> {
        let Some(connection) = &mut self.slots[slot as usize].connection else {
            return Ok(());
        };
        loop {
            match connection.socket.receive(&mut self.buffer)? {
                Received::Nothing => return Ok(()),
                Received::End => anyhow::bail!("the edge has closed the connection"),
                Received::Bytes(len) => {
                    self.counts.received_bytes += len as u64;
                    let conversation = &mut connection.conversation;
                    let acks = conversation.acks_total;
                    let outcome = conversation
                        .handle_input(&self.buffer[..len], &mut connection.socket.unsent);
                    self.counts.acks += conversation.acks_total - acks;
                    match conversation.take_verdict() {
                        None => {}
                        Some(Verdict::Granted) => self.counts.granted += 1,
                        Some(Verdict::Refused) => self.counts.refused += 1,
                    }
                    outcome?;
                }
            }
        }
    }

    /// Sends, and follows the script as far as possible.
    fn converse(&mut self, slot: u32, now: Mono) {
        if let Some(end) = self.follow_script(slot, now) {
            self.end(slot, end, now);
        }
    }

    fn follow_script(&mut self, slot: u32, now: Mono) -> Option<End> {
        let place = &mut self.slots[slot as usize];
        let connection = place.connection.as_mut()?;
        loop {
            let before = connection.socket.unsent.len();
            if connection.socket.flush().is_err() {
                return Some(End::ByEdge);
            }
            self.counts.sent_bytes += (before - connection.socket.unsent.len()) as u64;
            if !connection.socket.unsent.is_empty() {
                return None;
            }
            let sends = connection.conversation.sends;
            let next = connection
                .conversation
                .poll(now, &mut connection.socket.unsent);
            self.counts.sends += connection.conversation.sends - sends;
            match next {
                Ok(Next::Send) => {}
                Ok(Next::Wait) => return None,
                Ok(Next::WaitUntil(at)) => {
                    if connection.timer != Some(at) {
                        connection.timer = Some(at);
                        self.timers.push(Reverse((at, slot, place.generation)));
                    }
                    return None;
                }
                Ok(Next::Served) => {
                    connection.is_served = true;
                    place.backoff = BACKOFF_MIN;
                    self.counts.served_now += 1;
                    self.attempts.push(Attempt {
                        opened: connection.opened,
                        outcome: AttemptOutcome::Served(SystemClock.now().since(connection.opened)),
                    });
                }
                Ok(Next::StopReading) => connection.reads = false,
                Ok(Next::HalfClose) => connection.socket.half_close(),
                Ok(Next::Close) => return Some(End::ByScript { reset: false }),
                Ok(Next::Reset) => return Some(End::ByScript { reset: true }),
                Err(_) => return Some(End::ByEdge),
            }
        }
    }

    fn end(&mut self, slot: u32, end: End, now: Mono) {
        let place = &mut self.slots[slot as usize];
        let Some(connection) = place.connection.take() else {
            return;
        };
        place.generation = place.generation.wrapping_add(1);
        self.counts.open -= 1;
        self.counts.served_now -= u64::from(connection.is_served);
        if end == End::ByEdge && connection.is_established {
            self.counts.closed_by_edge += 1;
        } else if !connection.is_established {
            self.counts.failed += 1;
        }
        if !connection.is_served {
            self.attempts.push(Attempt {
                opened: connection.opened,
                outcome: match end {
                    End::GaveUp => AttemptOutcome::Unanswered,
                    End::ByEdge | End::ByScript { .. } => {
                        AttemptOutcome::Refused(now.since(connection.opened))
                    }
                },
            });
        }
        place.cookie = connection.conversation.cookie;
        connection
            .socket
            .close(end == End::ByScript { reset: true });
        let hint = connection
            .conversation
            .refusal
            .map_or(0, |refusal| refusal.retry_after_ms);
        match self.plan.reopen {
            Reopen::AtOnce => self.waiting.push_back(slot),
            Reopen::WithBackoff => {
                let random = place.backoff.mul_f64(rand::rng().random());
                place.backoff = (place.backoff * 2).min(BACKOFF_MAX);
                let wait = random.max(Duration::from_millis(hint.into()));
                self.reopen_at(slot, now + wait);
            }
        }
    }

    fn reopen_at(&mut self, slot: u32, at: Mono) {
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        self.timers.push(Reverse((at, slot, place.generation)));
    }

    fn connection(&self, slot: u32, generation: u32) -> Option<&Connection> {
        let place = self.slots.get(slot as usize)?;
        (place.generation == generation).then_some(())?;
        place.connection.as_ref()
    }
}

impl Drop for Swarm {
    /// Closes all connections by a reset, so that no port is left in TIME_WAIT.
    fn drop(&mut self) {
        for place in &mut self.slots {
            if let Some(connection) = place.connection.take() {
                connection.socket.close(true);
            }
        }
    }
}

fn pack(slot: u32, generation: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(generation)
}

fn unpack(data: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = data.to_be_bytes();
    [
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ]
}
