//! The bus on NATS. async-nats buffers messages while there is no connection and sends them over
//! the next one, but here no message may leave late. Therefore each connection is a separate client
//! on a separate runtime, which is dropped with the connection, along with everything unsent. As a
//! consequence, this module handles reconnecting, on one thread.

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

/// One process's connection to NATS, which is made again whenever it is lost.
#[derive(Debug)]
pub struct NatsBus {
    switchboard: Arc<Switchboard>,
    running: watch::Sender<bool>,
    thread: Thread,
}

impl NatsBus {
    /// Connects in the background, as long as this value lives, whether or not a server is
    /// available yet. It logs to the caller's subscriber.
    ///
    /// # Errors
    /// Returns an error if the options can never lead to a connection: a URL is invalid, a file is
    /// unreadable or has the wrong content, or a credential is incomplete.
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
            new_subscriber: Notify::new(),
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
            // The thread's handle is not needed: the keeper logs a panic itself.
            .spawn(move || keeper.run())
            .map_err(NatsError::Thread)?;
        Ok(Self {
            switchboard,
            running,
            thread: started.thread().clone(),
        })
    }

    /// Returns whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.switchboard.lock().link.is_some()
    }

    /// Returns the subjects of this bus's messages.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.switchboard.subjects
    }

    /// Ends the connection permanently, and returns once it has ended.
    pub async fn stop(&self) {
        self.signal_stop();
        self.running.closed().await;
    }

    fn signal_stop(&self) {
        self.running.send_replace(false);
        // The thread is parked between attempts.
        self.thread.unpark();
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        self.signal_stop();
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

/// The state shared between senders, subscribers and the thread that keeps the connection.
#[derive(Debug)]
struct Switchboard {
    subjects: Subjects,
    endpoints: Mutex<Endpoints>,
    /// Signals a new subscriber.
    new_subscriber: Notify,
}

/// The connection, and the subscribers to its messages.
#[derive(Debug, Default)]
struct Endpoints {
    /// The sending side of the connection; `None` while there is none.
    link: Option<NatsLink>,
    clocks: Vec<Outlet<ClockEvent>>,
    edges: Vec<Outlet<EdgeEvent>>,
    /// Whether the bus has ended, so that there will be no further connection.
    ended: bool,
}

/// The sending side of a connection.
#[derive(Debug)]
struct NatsLink {
    client: Client,
    /// The subject of answers to this connection.
    inbox: String,
}

impl Switchboard {
    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        // Nothing panics in the middle of a change, so the state behind a poisoned lock is
        // consistent.
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, add: impl FnOnce(&mut Endpoints)) {
        let mut endpoints = self.lock();
        if !endpoints.ended {
            add(&mut endpoints);
            self.new_subscriber.notify_one();
        }
    }

    fn publish(&self, subject: &str, asks: bool, payload: Vec<u8>) -> Result<(), Unavailable> {
        let endpoints = self.lock();
        let link = endpoints.link.as_ref().ok_or(Unavailable)?;
        let (subject, payload) = (subject.to_owned(), Bytes::from(payload));
        // A full queue means that the connection is stuck: waiting for space would make the message
        // stale.
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

    /// Counts a message that async-nats dropped because a subscription was full. async-nats does
    /// not report which subscription that was, so all subscribers count the message. A daemon has
    /// subscribers of only one kind.
    fn count_overrun(&self) {
        self.deliver(&Inbound::Clock(Err(DropReason::Full)));
        self.deliver(&Inbound::Edge(Err(DropReason::Full)));
    }

    /// Removes the connection and notifies subscribers.
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

    /// Disconnects permanently and ends all subscriptions.
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

    /// Long enough that only a defect exceeds it.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn options() -> NatsOptions {
        NatsOptions {
            urls: "nats://127.0.0.1:1".into(),
            subject_prefix: "tickstorm".into(),
            ..NatsOptions::default()
        }
    }

    #[tokio::test]
    async fn a_bus_without_a_runtime_tries_again_and_can_be_stopped() {
        static BUILT: AtomicUsize = AtomicUsize::new(0);
        let bus = NatsBus::start_on(options(), || {
            BUILT.fetch_add(1, Ordering::SeqCst);
            Err(io::ErrorKind::OutOfMemory.into())
        })
        .unwrap();
        poll_until_async("another runtime is requested", PATIENCE, || {
            BUILT.load(Ordering::SeqCst) >= 3
        })
        .await;
        let stopped = timeout(PATIENCE, bus.stop()).await;
        assert!(stopped.is_ok(), "stop() had no effect");
    }

    #[tokio::test]
    async fn events_end_when_the_thread_panics() {
        let bus = NatsBus::start_on(options(), || panic!("deliberate panic of this test")).unwrap();
        let mut events = bus.edge_events();
        let next = timeout(PATIENCE, events.next()).await;
        assert_eq!(next, Ok(None));
        let later = timeout(PATIENCE, bus.clock_events().next()).await;
        assert_eq!(later, Ok(None), "a later subscription has ended too");
    }
}
