//! A shard: the part of an edge's connections that one thread owns outright, so that nothing here is locked or atomic. What
//! belongs to it lies in [`Shard`]; the files beside this one each hold one way through it.
//!
//! All tasks of a shard run on its one thread. A `RefCell` is borrowed for a few lines and never across an await or a call that
//! may close a connection.

mod accept;
mod authentication;
mod closing;
mod connection;
mod deadlines;
mod drain;
mod listing;
mod outbox;
mod release;
mod separate;
mod subscription;
mod thread;
mod time;
mod weight;
mod wheel;
mod writing;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use slab::Slab;
use tickstorm_protocol::session::server::Limits;
use tickstorm_timebase::{Authority, Mode, Mono, SystemClock, Tick};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Attempts, Evicted};
use crate::auth::Credentials;
use crate::feed::{Feed, FeedLimits, Leftovers};
use crate::metrics::Metrics;
use crate::sys::fd_table::Table;
use crate::sys::socket::SocketOptions;
use crate::sys::sockets::Sockets;
use connection::Connection;
pub(crate) use drain::TIME_OF_LAST;
pub(crate) use listing::{Listed, Order};
pub(crate) use thread::spawn;
use time::ShardTime;
pub use weight::FanOut;
use wheel::{Key, Wheel};

/// One read's bytes at most. A connection has no buffer of its own: all of a shard read into this one.
const SCRATCH: usize = 16 * 1024;

/// What the settings say to a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardSettings {
    pub(crate) limits: Limits,
    pub(crate) feeds: FeedLimits,
    pub(crate) ahead: Duration,
    pub(crate) write_deadline: Duration,
    pub(crate) sockets: SocketOptions,
    /// Whether the last microseconds before a tick are spun away: not where shards would spin against each other.
    pub(crate) spin: bool,
}

/// What all shards share: touched at accept, AUTH and close only, or watched for changes.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<ShardSettings>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) metrics: Metrics,
    pub(crate) authority: watch::Receiver<Option<Authority>>,
    pub(crate) credentials: watch::Receiver<Credentials>,
}

/// What a shard shows of itself, for health: moments of timebase's `Mono` in nanoseconds.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// When it last turned its wheel.
    pub(crate) turned: AtomicU64,
    /// When it last released a SECOND tick at its time; 0: never.
    pub(crate) released: AtomicU64,
    /// Whether it accepts connections: not while the system has no descriptor or memory for them.
    pub(crate) accepting: AtomicBool,
}

/// What [`crate::Edge::on_shards`] runs.
pub type Work = Arc<dyn Fn(&[RawFd]) + Send + Sync>;

/// What control and other shards may tell a shard.
pub(crate) enum Command {
    /// Have a table of open files of its own from now on, of at most so many, and say where it is to be seen.
    Separate(u64, oneshot::Sender<std::io::Result<Table>>),
    /// Listen on this address and say on which it really is.
    Listen(SocketAddr, oneshot::Sender<std::io::Result<SocketAddr>>),
    /// These are the other shards, in the order of their numbers.
    Peers(Vec<mpsc::UnboundedSender<Command>>),
    /// Close this handshake: its place is needed.
    Evict(Evicted),
    /// Send these ticks to the feed of the mode, at its time, as if they had been released now.
    Burst(Mode, Vec<Tick>),
    /// Run this with the descriptors of all subscribers that have everything, and answer when it is done.
    Run(Work, oneshot::Sender<()>),
    /// Accept nobody any more, and close all connections within this time; answer when they are closed.
    Drain(Duration, oneshot::Sender<()>),
    /// Say which connections come first, and no more than so many of them.
    List(Order, usize, oneshot::Sender<Vec<Listed>>),
    /// Close the connection of this id, and say whether there was one.
    Close(u64, oneshot::Sender<bool>),
    /// Close everything and end.
    Stop,
}

/// Which of the four feeds; at-time feeds go before ahead feeds where both are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FeedIndex(u8);

impl FeedIndex {
    const ALL: [Self; 4] = [Self(0), Self(1), Self(2), Self(3)];

    fn of(mode: Mode, ahead: bool) -> Self {
        let mode = match mode {
            Mode::Second => 0,
            Mode::Minute => 1,
        };
        Self(mode + if ahead { 2 } else { 0 })
    }

    fn mode(self) -> Mode {
        if self.0.is_multiple_of(2) {
            Mode::Second
        } else {
            Mode::Minute
        }
    }

    fn is_ahead(self) -> bool {
        self.0 >= 2
    }
}

/// Everything that one shard owns.
struct Shard {
    index: usize,
    shared: Shared,
    time: ShardTime<SystemClock>,
    vitals: Arc<Vitals>,
    authority: Cell<Option<Authority>>,
    /// Of the last authority known: another one means that time was stepped back.
    generation: Cell<Option<u32>>,
    feeds: RefCell<[Feed; 4]>,
    connections: RefCell<Slab<Rc<Connection>>>,
    /// Which of them are ready, by their place in the slab.
    sockets: Rc<Sockets>,
    /// How many of them count, those told SERVER_FULL left out, and how many its own table of open files has places for.
    inside: Cell<usize>,
    places: Cell<usize>,
    wheel: RefCell<Wheel>,
    scratch: RefCell<Box<[u8]>>,
    /// A buffer for control frames in the making.
    frames: RefCell<Vec<u8>>,
    /// Whose control frames stay in it for now.
    corked: Cell<Option<Key>>,
    leftovers: RefCell<Leftovers>,
    /// Whether a SUBSCRIBE waits until the time is known.
    has_askers: Cell<bool>,
    /// Something is to be released or sent that the release task does not know of.
    woken: Notify,
    peers: RefCell<Vec<mpsc::UnboundedSender<Command>>>,
    /// Cancelled once nobody is to be accepted any more.
    draining: CancellationToken,
    /// The tasks that accept.
    accepting: TaskTracker,
}

impl Shard {
    fn new(index: usize, shared: Shared, vitals: Arc<Vitals>, sockets: Rc<Sockets>) -> Rc<Self> {
        let settings = Arc::clone(&shared.settings);
        let time = ShardTime::new(SystemClock);
        let feeds = FeedIndex::ALL.map(|index| {
            let lead = if index.is_ahead() {
                settings.ahead
            } else {
                Duration::ZERO
            };
            Feed::new(index.mode(), lead, settings.feeds)
        });
        let wheel = RefCell::new(Wheel::new(time.now()));
        Rc::new(Self {
            index,
            time,
            vitals,
            authority: Cell::new(None),
            generation: Cell::new(None),
            feeds: RefCell::new(feeds),
            connections: RefCell::default(),
            sockets,
            inside: Cell::new(0),
            places: Cell::new(usize::MAX),
            wheel,
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            frames: RefCell::default(),
            corked: Cell::new(None),
            leftovers: RefCell::default(),
            has_askers: Cell::new(false),
            shared,
            woken: Notify::new(),
            peers: RefCell::default(),
            draining: CancellationToken::new(),
            accepting: TaskTracker::new(),
        })
    }

    fn settings(&self) -> &ShardSettings {
        &self.shared.settings
    }

    fn limits(&self) -> &Limits {
        &self.shared.settings.limits
    }

    /// Authority time's source at `mono`; none while the edge does not know the time.
    fn authority(&self, mono: Mono) -> Option<Authority> {
        self.authority
            .get()
            .filter(|authority| authority.is_valid(mono))
    }

    /// All connections, held so that each may be closed.
    fn all(&self) -> Vec<Rc<Connection>> {
        self.connections
            .borrow()
            .iter()
            .map(|(_, connection)| Rc::clone(connection))
            .collect()
    }

    /// The descriptors of all subscribers that have everything, in the feeds' own order.
    fn caught_up(&self) -> Vec<RawFd> {
        let mut feeds = self.feeds.borrow_mut();
        feeds.iter_mut().flat_map(Feed::caught_up).collect()
    }

    /// The connection at `slot` of the slab.
    fn at(&self, slot: u32) -> Option<Rc<Connection>> {
        self.connections.borrow().get(slot as usize).map(Rc::clone)
    }
}
