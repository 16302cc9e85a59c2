//! The bus on NATS. async-nats keeps what it is given while there is no connection and sends it on the next one; here nothing may
//! leave late. So each connection is a client of its own, on a runtime of its own that ends with it, and with the runtime goes
//! all that was not sent. Connecting again is therefore this module's business, on one thread.

mod options;
mod session;

pub use options::{NatsError, NatsOptions};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use async_nats::{Client, ConnectError};
use bytes::Bytes;
use futures_util::FutureExt;
use rand::RngExt;
use tickstorm_timebase::{Announcement, Reply};
use tokio::runtime;
use tokio::sync::{Notify, watch};
use tokio::task::unconstrained;
use tracing::{Dispatch, dispatcher};

use self::options::Server;
use self::session::Session;
use crate::arrival::Arrival;
use crate::events::{Outlet, deliver_to_all};
use crate::message::{self, DropReason};
use crate::subject::Subjects;
use crate::{Bus, ClockEvent, EdgeEvent, Events, ReplyTo, Unavailable};

/// The mean pause between two attempts to connect. Each is between half and one and a half of it, so that the edges that a
/// server's end cut off don't all come back in the same instant.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Until a server's name is resolved and one of its addresses has taken the connection.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// One process's connection to NATS: there as often and as long as a server can be reached.
#[derive(Debug)]
pub struct NatsBus {
    shared: Arc<Shared>,
    /// Dropping it ends the thread.
    running: watch::Sender<bool>,
}

impl NatsBus {
    /// Connects in the background, for as long as this lives, whether or not a server is there yet. Logs to the subscriber that
    /// is the caller's.
    ///
    /// # Errors
    /// Where no server could ever be connected to: what the options say is no URL, unreadable, or incomplete.
    pub fn start(options: NatsOptions) -> Result<Self, NatsError> {
        let servers = options.servers()?;
        for server in &servers {
            options.to_server(server)?;
        }
        let shared = Arc::new(Shared {
            subjects: Subjects::new(&options.subject_prefix),
            state: Mutex::default(),
            wanted: Notify::new(),
        });
        let (running, stopped) = watch::channel(true);
        let keeper = Keeper {
            options,
            servers,
            shared: Arc::clone(&shared),
            stopped,
            log: dispatcher::get_default(Clone::clone),
            complaint_by_server: BTreeMap::new(),
        };
        thread::Builder::new()
            .name("bus".into())
            .spawn(move || keeper.keep_connected())
            .map_err(NatsError::Thread)?;
        Ok(Self { shared, running })
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.lock().link.is_some()
    }

    /// The subjects that this bus's messages travel on.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.shared.subjects
    }

    /// Ends the connection, for good; returns when it has ended.
    pub async fn stop(&self) {
        self.running.send_replace(false);
        self.running.closed().await;
    }
}

impl Bus for NatsBus {
    fn announce(&self, announcement: &Announcement) -> Result<(), Unavailable> {
        let subject = self.shared.subjects.tick(announcement.mode);
        let payload = message::encode_announcement(announcement);
        self.shared.publish(subject, false, payload)
    }

    fn ask(&self, nonce: u64) -> Result<(), Unavailable> {
        let subject = self.shared.subjects.time();
        self.shared
            .publish(subject, true, message::encode_request(nonce))
    }

    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable> {
        self.shared
            .publish(&to.0, false, message::encode_reply(reply))
    }

    fn clock_events(&self) -> Events<ClockEvent> {
        let (outlet, events) = Outlet::new(false);
        self.shared.lock().clocks.push(outlet);
        self.shared.wanted.notify_one();
        events
    }

    fn edge_events(&self) -> Events<EdgeEvent> {
        let (outlet, events) = Outlet::new(false);
        self.shared.lock().edges.push(outlet);
        self.shared.wanted.notify_one();
        events
    }
}

/// What senders and subscribers share with the thread that keeps the connection.
#[derive(Debug)]
struct Shared {
    subjects: Subjects,
    state: Mutex<State>,
    /// There is a new subscriber.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// There only while there is a connection.
    link: Option<Link>,
    clocks: Vec<Outlet<ClockEvent>>,
    edges: Vec<Outlet<EdgeEvent>>,
}

/// What sends on a connection.
#[derive(Debug)]
struct Link {
    client: Client,
    /// The subject of this connection's answers.
    inbox: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, subject: &str, asks: bool, payload: Vec<u8>) -> Result<(), Unavailable> {
        let state = self.lock();
        let link = state.link.as_ref().ok_or(Unavailable)?;
        let (subject, payload) = (subject.to_owned(), Bytes::from(payload));
        // A client whose queue is full has a connection that takes nothing: to wait for it would make the message stale.
        let sent = if asks {
            let inbox = link.inbox.clone();
            unconstrained(link.client.publish_with_reply(subject, inbox, payload)).now_or_never()
        } else {
            unconstrained(link.client.publish(subject, payload)).now_or_never()
        };
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(Unavailable),
        }
    }

    fn deliver(&self, arrival: &Arrival) {
        let mut state = self.lock();
        match arrival {
            Arrival::Clock(event) => deliver_to_all(&mut state.clocks, event),
            Arrival::Edge(event) => deliver_to_all(&mut state.edges, event),
        }
    }

    /// async-nats dropped a message before this module saw it; it does not tell which subscription's. A daemon has one kind.
    fn count_overrun(&self) {
        self.deliver(&Arrival::Clock(Err(DropReason::Full)));
        self.deliver(&Arrival::Edge(Err(DropReason::Full)));
    }

    fn set_disconnected(&self) {
        let mut state = self.lock();
        state.link = None;
        state
            .clocks
            .iter()
            .for_each(|outlet| outlet.set_connected(false));
        state
            .edges
            .iter()
            .for_each(|outlet| outlet.set_connected(false));
    }
}

/// What the thread does: one connection after the other.
struct Keeper {
    options: NatsOptions,
    servers: Vec<Server>,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    log: Dispatch,
    /// The last failure that was logged of each server: attempts are many, and alike.
    complaint_by_server: BTreeMap<String, String>,
}

impl Keeper {
    fn keep_connected(mut self) {
        // async-nats logs each attempt, and at some levels whole URLs, which may hold passwords. What matters is said here.
        let _quiet = dispatcher::set_default(&Dispatch::none());
        let servers = std::mem::take(&mut self.servers);
        for server in servers.iter().cycle() {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    self.complain(server, &error.to_string());
                    thread::sleep(RETRY_PAUSE);
                    continue;
                }
            };
            let mut stopped = self.stopped.clone();
            let ended = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = stopped.wait_for(|running| !running) => true,
                    () = self.connect_once(server) => false,
                }
            });
            self.shared.set_disconnected();
            // A name that is still being resolved must not hold up the next attempt.
            runtime.shutdown_background();
            if ended {
                return;
            }
        }
    }

    async fn connect_once(&mut self, server: &Server) {
        match self.open(server).await {
            Ok(session) => {
                self.complaint_by_server.clear();
                self.say(|| tracing::info!(%server, "connected to NATS"));
                session.carry(&self.shared, &self.log).await;
                self.shared.set_disconnected();
                self.say(|| tracing::warn!(%server, "the connection to NATS is lost"));
            }
            Err(error) => self.complain(server, &error),
        }
        tokio::time::sleep(RETRY_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5))).await;
    }

    async fn open(&self, server: &Server) -> Result<Session, String> {
        let options = self
            .options
            .to_server(server)
            .map_err(|error| error.to_string())?;
        let attempt = Session::open(options, server.addr.clone(), Arc::clone(&self.shared));
        match tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await {
            Ok(opened) => opened.map_err(|error: ConnectError| error.to_string()),
            Err(_) => Err("timed out".into()),
        }
    }

    fn complain(&mut self, server: &Server, error: &str) {
        let last = self.complaint_by_server.get(&server.to_string());
        if last.is_none_or(|last| last != error) {
            self.say(|| {
                tracing::warn!(%server, error, "cannot connect to NATS; trying again until it works");
            });
            self.complaint_by_server
                .insert(server.to_string(), error.to_owned());
        }
    }

    fn say(&self, event: impl FnOnce()) {
        dispatcher::with_default(&self.log, event);
    }
}
