//! The bus on NATS. async-nats keeps what it is given while there is no connection and sends it on the next one; here nothing may
//! leave late. So each connection is a client of its own, on a runtime of its own that ends with it, and with the runtime goes
//! all that was not sent. Connecting again is therefore this module's business, on one thread.

mod connection;
mod keeper;
mod options;
mod retries;

pub use options::{NatsError, NatsOptions};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use async_nats::Client;
use bytes::Bytes;
use futures_util::FutureExt;
use tickstorm_timebase::{Announcement, Reply};
use tokio::runtime;
use tokio::sync::{Notify, watch};
use tokio::task::unconstrained;

use self::keeper::{BuildRuntime, ConnectionKeeper};
use crate::events::{Outlet, deliver_to_all};
use crate::inbound::Inbound;
use crate::message::{self, DropReason};
use crate::subject::Subjects;
use crate::{Bus, ClockEvent, EdgeEvent, Events, ReplyTo, Unavailable};

/// One process's connection to NATS: there as often and as long as a server can be reached.
#[derive(Debug)]
pub struct NatsBus {
    switchboard: Arc<Switchboard>,
    running: watch::Sender<bool>,
    thread: Thread,
}

impl NatsBus {
    /// Connects in the background, for as long as this lives, whether or not a server is there yet. Logs to the subscriber that
    /// is the caller's.
    ///
    /// # Errors
    /// Where no server could ever be connected to: what the options say is no URL, unreadable, or incomplete.
    pub fn start(options: NatsOptions) -> Result<Self, NatsError> {
        Self::start_on(options, || {
            runtime::Builder::new_current_thread().enable_all().build()
        })
    }

    fn start_on(options: NatsOptions, build_runtime: BuildRuntime) -> Result<Self, NatsError> {
        let servers = options.servers()?;
        for server in &servers {
            options.to_server(server)?;
        }
        let switchboard = Arc::new(Switchboard {
            subjects: Subjects::new(&options.subject_prefix),
            endpoints: Mutex::default(),
            wanted: Notify::new(),
        });
        let (running, watched) = watch::channel(true);
        let keeper = ConnectionKeeper::new(
            options,
            servers,
            Arc::clone(&switchboard),
            watched,
            build_runtime,
        );
        let started = thread::Builder::new()
            .name("bus".into())
            // The keeper itself tells how it ends.
            .spawn(move || keeper.run())
            .map_err(NatsError::Thread)?;
        Ok(Self {
            switchboard,
            running,
            thread: started.thread().clone(),
        })
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.switchboard.lock().link.is_some()
    }

    /// The subjects that this bus's messages travel on.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.switchboard.subjects
    }

    /// Ends the connection, for good; returns when it has ended.
    pub async fn stop(&self) {
        self.tell_to_stop();
        self.running.closed().await;
    }

    fn tell_to_stop(&self) {
        self.running.send_replace(false);
        // Between two attempts it is parked.
        self.thread.unpark();
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

impl Bus for NatsBus {
    fn announce(&self, announcement: &Announcement) -> Result<(), Unavailable> {
        let subject = self.switchboard.subjects.tick(announcement.mode);
        let payload = message::encode_announcement(announcement);
        self.switchboard.publish(subject, false, payload)
    }

    fn ask(&self, nonce: u64) -> Result<(), Unavailable> {
        let subject = self.switchboard.subjects.time();
        self.switchboard
            .publish(subject, true, message::encode_request(nonce))
    }

    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable> {
        self.switchboard
            .publish(&to.0, false, message::encode_reply(reply))
    }

    fn clock_events(&self) -> Events<ClockEvent> {
        let (outlet, events) = Outlet::new(false);
        self.switchboard
            .subscribe(|endpoints| endpoints.clocks.push(outlet));
        events
    }

    fn edge_events(&self) -> Events<EdgeEvent> {
        let (outlet, events) = Outlet::new(false);
        self.switchboard
            .subscribe(|endpoints| endpoints.edges.push(outlet));
        events
    }
}

/// Where senders and subscribers meet the thread that keeps the connection.
#[derive(Debug)]
struct Switchboard {
    subjects: Subjects,
    endpoints: Mutex<Endpoints>,
    /// There is a new subscriber.
    wanted: Notify,
}

/// The connection, and who hears what comes on it.
#[derive(Debug, Default)]
struct Endpoints {
    /// There only while there is a connection.
    link: Option<NatsLink>,
    clocks: Vec<Outlet<ClockEvent>>,
    edges: Vec<Outlet<EdgeEvent>>,
    /// There will be no connection any more.
    ended: bool,
}

/// What sends on a connection.
#[derive(Debug)]
struct NatsLink {
    client: Client,
    /// The subject of this connection's answers.
    inbox: String,
}

impl Switchboard {
    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        // Nothing in here panics half-way through a change.
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, add: impl FnOnce(&mut Endpoints)) {
        let mut endpoints = self.lock();
        if !endpoints.ended {
            add(&mut endpoints);
            self.wanted.notify_one();
        }
    }

    fn publish(&self, subject: &str, asks: bool, payload: Vec<u8>) -> Result<(), Unavailable> {
        let endpoints = self.lock();
        let link = endpoints.link.as_ref().ok_or(Unavailable)?;
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

    fn deliver(&self, inbound: &Inbound) {
        let mut endpoints = self.lock();
        match inbound {
            Inbound::Clock(event) => deliver_to_all(&mut endpoints.clocks, event),
            Inbound::Edge(event) => deliver_to_all(&mut endpoints.edges, event),
        }
    }

    /// async-nats dropped a message before this module saw it; it does not tell which subscription's. A daemon has one kind.
    fn count_overrun(&self) {
        self.deliver(&Inbound::Clock(Err(DropReason::Full)));
        self.deliver(&Inbound::Edge(Err(DropReason::Full)));
    }

    /// Takes the connection away, and tells subscribers.
    fn disconnect(&self) {
        let mut endpoints = self.lock();
        endpoints.link = None;
        endpoints
            .clocks
            .iter()
            .for_each(|outlet| outlet.set_connected(false));
        endpoints
            .edges
            .iter()
            .for_each(|outlet| outlet.set_connected(false));
    }

    /// The same for good: all events end.
    fn end(&self) {
        self.disconnect();
        *self.lock() = Endpoints {
            ended: true,
            ..Endpoints::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tickstorm_testkit::poll_until_async;
    use tokio::time::timeout;

    use super::*;

    /// So long that only a defect takes it.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn options() -> NatsOptions {
        NatsOptions {
            urls: "nats://127.0.0.1:1".into(),
            subject_prefix: "tickstorm".into(),
            ..NatsOptions::default()
        }
    }

    #[tokio::test]
    async fn a_bus_whose_connections_get_no_runtime_tries_again_and_can_be_stopped() {
        static BUILT: AtomicUsize = AtomicUsize::new(0);
        let bus = NatsBus::start_on(options(), || {
            BUILT.fetch_add(1, Ordering::SeqCst);
            Err(io::ErrorKind::OutOfMemory.into())
        })
        .unwrap();
        poll_until_async("a runtime is asked for again", PATIENCE, || {
            BUILT.load(Ordering::SeqCst) >= 3
        })
        .await;
        let stopped = timeout(PATIENCE, bus.stop()).await;
        assert!(stopped.is_ok(), "stop() is not looked at");
    }

    #[tokio::test]
    async fn events_end_when_the_thread_panics() {
        let bus = NatsBus::start_on(options(), || panic!("on purpose")).unwrap();
        let mut events = bus.edge_events();
        let next = timeout(PATIENCE, events.next()).await;
        assert_eq!(next, Ok(None));
        let later = timeout(PATIENCE, bus.clock_events().next()).await;
        assert_eq!(later, Ok(None), "nobody waits for what never comes");
    }
}
