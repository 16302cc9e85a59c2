//! The bus on NATS, with a client of its own: no message may leave late, so what is unsent when a
//! connection is lost is dropped with it, and whatever other clients publish, the connection must
//! stay and the messages of one sender must not wait for those of another. One thread makes the
//! connections, and each has a runtime of its own.

mod addresses;
mod connection;
mod dialing;
mod keeper;
mod keeper_log;
mod login;
mod options;
mod refused_publishes;
mod retries;
mod transport;
mod wire;

pub use options::{
    Credential, CredentialError, CredentialResult, NatsError, NatsOptions, NatsSecrets,
};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;
use tickstorm_timebase::{Announcement, Clock, ClockId, Reply, SystemClock};
use tokio::runtime;
use tokio::sync::{Notify, mpsc, watch};

use self::keeper::{BuildRuntime, ConnectionKeeper};
use self::refused_publishes::{RefusalNews, RefusedPublishes};
use self::wire::{Delivery, encode};
use crate::echo::EchoLag;
use crate::headers;
use crate::message;
use crate::pause::Pause;
use crate::reply_address::ReplyAddress;
use crate::silence::{SILENCE_MIN, Silence};
use crate::subject::{Subjects, Topic};
use crate::subscribers::{Received, Subscribers};
use crate::trace_parent::TraceParent;
use crate::{Bus, ClockEvent, EdgeEvent, Events, LinkReport, ReplyTo, Unavailable};

/// One process's connection to NATS, which is made again whenever it is lost.
#[derive(Debug)]
pub struct NatsBus {
    switchboard: Arc<Switchboard>,
    secrets: watch::Sender<NatsSecrets>,
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
    pub fn start(options: impl Into<Arc<NatsOptions>>) -> Result<Self, NatsError> {
        Self::start_on(options.into(), || {
            runtime::Builder::new_current_thread().enable_all().build()
        })
    }

    fn start_on(options: Arc<NatsOptions>, build_runtime: BuildRuntime) -> Result<Self, NatsError> {
        let servers = options.servers()?;
        let (secrets, secrets_in_use) = watch::channel(options.secrets()?);
        let switchboard = Arc::new(Switchboard {
            subjects: Subjects::new(&options.subject_prefix),
            endpoints: Mutex::default(),
            changed: Notify::new(),
        });
        let (running, watched) = watch::channel(true);
        let keeper = ConnectionKeeper::new(
            options,
            secrets_in_use,
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
            secrets,
            running,
            thread: started.thread().clone(),
        })
    }

    /// Uses these secrets for all further connections.
    pub fn use_secrets(&self, secrets: NatsSecrets) {
        self.secrets.send_replace(secrets);
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
    fn announce_traced(
        &self,
        announcement: &Announcement,
        trace: Option<&TraceParent>,
    ) -> Result<(), Unavailable> {
        let Announcement { mode, clock_id, .. } = announcement;
        let subject = self.switchboard.subjects.tick(*mode, clock_id);
        let payload = Bytes::from(message::encode_announcement(announcement));
        self.switchboard.send(|endpoints, link| {
            let message = match trace.filter(|_| link.has_headers) {
                Some(trace) => {
                    encode::publish_with_headers(&subject, &headers::encode(trace), &payload)
                }
                None => encode::publish(&subject, None, &payload),
            };
            link.send(message.freeze())?;
            endpoints.echo.handle_sent(payload, SystemClock.now());
            endpoints.silences.of_clock.handle_sent();
            let topic = Topic::Tick(*mode, clock_id.as_str());
            endpoints.refused_publishes.handle_sent(topic);
            endpoints.subscribers.note_sent(announcement);
            Ok(())
        })
    }

    fn ask(&self, nonce: u64) -> Result<(), Unavailable> {
        let subjects = &self.switchboard.subjects;
        self.switchboard.send(|endpoints, link| {
            let payload = message::encode_request(nonce, &link.reply.key);
            let reply_to = subjects.reply(link.reply.token);
            let message = encode::publish(subjects.time(), Some(&reply_to), &payload);
            link.send(message.freeze())?;
            endpoints.silences.of_edge.handle_sent();
            endpoints.refused_publishes.handle_sent(Topic::Time);
            Ok(())
        })
    }

    fn redraw_reply_subject(&self) {
        self.switchboard.lock().reply = ReplyAddress::draw();
        self.switchboard.changed.notify_one();
    }

    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable> {
        let subject = self.switchboard.subjects.answer(to.0, &reply.clock_id);
        let message = encode::publish(&subject, None, &message::encode_reply(reply));
        self.switchboard.send(|endpoints, link| {
            link.send(message.freeze())?;
            let topic = Topic::Answer(to.0, reply.clock_id.as_str());
            endpoints.refused_publishes.handle_sent(topic);
            Ok(())
        })
    }

    fn known_reply_subjects(&self) -> usize {
        let subscribers = &mut self.switchboard.lock().subscribers;
        subscribers.known_reply_subjects(SystemClock.now())
    }

    fn take_echo_times(&self) -> Vec<Duration> {
        self.switchboard.lock().echo.take_times()
    }

    fn link_report(&self) -> LinkReport {
        let endpoints = self.switchboard.lock();
        LinkReport {
            is_connected: endpoints.link.is_some(),
            refused_publishes: endpoints.refused_publishes.report(SystemClock.now()),
            ..endpoints.report.clone()
        }
    }

    fn clock_events(&self, id: &ClockId) -> Events<ClockEvent> {
        self.switchboard
            .subscribe(|subscribers| subscribers.add_clock(id, false))
    }

    fn edge_events(&self, clocks: &[ClockId]) -> Events<EdgeEvent> {
        self.switchboard
            .subscribe(|subscribers| subscribers.add_edge(clocks, false))
    }
}

/// The state shared between senders, subscribers and the thread that keeps the connection.
#[derive(Debug)]
struct Switchboard {
    subjects: Subjects,
    endpoints: Mutex<Endpoints>,
    /// Signals a new subscriber, or another reply subject.
    changed: Notify,
}

/// The connection, and the subscribers to its messages.
#[derive(Debug, Default)]
struct Endpoints {
    /// The sending side of the connection; `None` while there is none.
    link: Option<NatsLink>,
    subscribers: Subscribers,
    /// The address that edges in this process ask under, once the connection is subscribed to it.
    /// It outlasts connections, since clocks favour reply subjects that they know.
    reply: ReplyAddress,
    /// How far the connection is behind, if there is a clock in this process.
    echo: EchoLag,
    silences: Silences,
    refused_publishes: RefusedPublishes,
    report: LinkReport,
    /// Whether the bus has ended, so that there will be no further connection.
    ended: bool,
}

/// How long the connection has brought nothing, to each kind of endpoint in this process.
#[derive(Debug, Default)]
struct Silences {
    of_edge: Silence,
    of_clock: Silence,
}

/// What has not come back over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// Clocks' answers to the edge of this process.
    Answers,
    /// The announcements of the clock of this process.
    OwnAnnouncements,
}

/// The sending side of a connection.
#[derive(Clone, Debug)]
struct NatsLink {
    sender: mpsc::Sender<Bytes>,
    /// Whether messages may have headers.
    has_headers: bool,
    /// The address that the connection is subscribed to.
    reply: ReplyAddress,
}

/// Returns a subject as text. If it is not UTF-8, it is none of the bus, and neither is the empty
/// text that is returned for it.
fn text(subject: &[u8]) -> &str {
    std::str::from_utf8(subject).unwrap_or_default()
}

impl NatsLink {
    /// Sends a message. A full queue means that the connection is stuck: waiting for room would
    /// make the message stale.
    fn send(&self, message: Bytes) -> Result<(), Unavailable> {
        self.sender.try_send(message).map_err(|_| Unavailable)
    }
}

impl Endpoints {
    /// Notes that the connection has brought what it must to an edge or a clock of this process.
    const fn handle_sign(&mut self) {
        self.report.is_heard = true;
        self.report.is_silent = false;
    }
}

impl Switchboard {
    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        // Nothing panics in the middle of a change, so the state behind a poisoned lock is
        // consistent.
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe<T>(&self, add: impl FnOnce(&mut Subscribers) -> T) -> T {
        let mut endpoints = self.lock();
        if endpoints.ended {
            // The events end at once.
            return add(&mut Subscribers::default());
        }
        let events = add(&mut endpoints.subscribers);
        self.changed.notify_one();
        events
    }

    /// Sends through the connection, if there is one.
    fn send(
        &self,
        send: impl FnOnce(&mut Endpoints, &NatsLink) -> Result<(), Unavailable>,
    ) -> Result<(), Unavailable> {
        let mut endpoints = self.lock();
        let link = endpoints.link.clone().ok_or(Unavailable)?;
        send(&mut endpoints, &link)
    }

    /// Delivers a message. [`Self::flush`] must follow.
    fn deliver(&self, delivery: &Delivery) {
        let mut endpoints = self.lock();
        let Some(link) = &endpoints.link else { return };
        let reply = link.reply.token;
        let now = SystemClock.now();
        let received = Received {
            subject: text(&delivery.subject),
            reply_to: delivery.reply_to.as_deref().map(text),
            headers: (!delivery.headers.is_empty()).then_some(&delivery.headers[..]),
            payload: delivery.payload.as_deref().map_err(|reason| *reason),
            now,
            is_stale: endpoints.echo.is_stale(now),
        };
        let is_answer = endpoints
            .subscribers
            .deliver(&self.subjects, reply, received);
        if is_answer {
            endpoints.silences.of_edge.handle_sign();
            endpoints.handle_sign();
        }
    }

    /// Handles an announcement under the id of a clock of this process. [`Self::flush`] must
    /// follow.
    fn deliver_own(&self, subject: &[u8], payload: &[u8]) {
        let mut endpoints = self.lock();
        if endpoints.echo.handle_heard(payload, SystemClock.now()) {
            endpoints.silences.of_clock.handle_sign();
            endpoints.handle_sign();
        }
        endpoints
            .subscribers
            .receive_own(&self.subjects, text(subject), payload);
    }

    /// Returns what has not come back over the connection for `patience`, if anything. It must be
    /// called at each [`LOOK_INTERVAL`](crate::silence::LOOK_INTERVAL).
    fn look(&self, patience: Duration) -> Option<Missing> {
        let mut endpoints = self.lock();
        let answers = endpoints.silences.of_edge.look();
        let announcements = endpoints.silences.of_clock.look();
        endpoints.report.is_silent |= answers.max(announcements) >= SILENCE_MIN;
        if answers >= patience {
            Some(Missing::Answers)
        } else if announcements >= patience {
            Some(Missing::OwnAnnouncements)
        } else {
            None
        }
    }

    /// Notes that there is a connection to `server`.
    fn note_connected(&self, server: String) {
        let mut endpoints = self.lock();
        endpoints.report.server = Some(server);
        endpoints.report.connects += 1;
    }

    /// Notes which subscriptions the server refuses.
    fn note_refused(&self, refused: Vec<String>) {
        self.lock().report.refused = refused;
    }

    /// Notes that the server refuses a message on this subject.
    fn note_refused_publish(&self, subject: &str) -> RefusalNews {
        let Endpoints {
            refused_publishes,
            subscribers,
            ..
        } = &mut *self.lock();
        refused_publishes.handle_refusal(subject, &self.subjects, subscribers, SystemClock.now())
    }

    /// Returns the subjects on which the server accepts this process's messages again.
    fn accepted_again(&self) -> Vec<String> {
        let Endpoints {
            refused_publishes,
            subscribers,
            ..
        } = &mut *self.lock();
        refused_publishes.look(subscribers, SystemClock.now())
    }

    /// Notes that nothing was read for a while, so what piled up meanwhile is read next.
    fn note_pause(&self, pause: Pause) {
        self.lock().subscribers.handle_pause(pause);
    }

    /// Notes that everything that piled up has been read.
    fn note_caught_up(&self) {
        self.lock().subscribers.handle_caught_up();
    }

    /// Returns whether the connection has brought what it must.
    fn is_heard(&self) -> bool {
        self.lock().report.is_heard
    }

    /// Notes that the connection was given up because nothing came back over it.
    fn note_silent_link(&self) {
        self.lock().report.silent_links += 1;
    }

    /// Notifies subscribers of what was dropped.
    fn flush(&self) {
        self.lock().subscribers.flush();
    }

    /// Removes the connection and notifies subscribers.
    fn disconnect(&self) {
        let mut endpoints = self.lock();
        endpoints.link = None;
        endpoints.echo = EchoLag::default();
        endpoints.silences = Silences::default();
        endpoints.refused_publishes.handle_disconnected();
        endpoints.subscribers.handle_caught_up();
        let LinkReport {
            ref server,
            is_silent,
            silent_links,
            connects,
            disconnects,
            ..
        } = endpoints.report;
        // Without a server, this is the end of an attempt that led to no connection.
        let disconnects = disconnects + u64::from(server.is_some());
        endpoints.report = LinkReport {
            is_silent,
            silent_links,
            connects,
            disconnects,
            ..LinkReport::default()
        };
        endpoints.subscribers.set_clocks_connected(false);
        endpoints.subscribers.set_edges_connected(false);
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
        let bus = NatsBus::start_on(options().into(), || {
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
        let bus = NatsBus::start_on(options().into(), || panic!("deliberate panic of this test"))
            .unwrap();
        let mut events = bus.edge_events(&[]);
        let next = timeout(PATIENCE, events.next()).await;
        assert_eq!(next, Ok(None));
        let later = timeout(PATIENCE, bus.clock_events(&"a".parse().unwrap()).next()).await;
        assert_eq!(later, Ok(None), "a later subscription has ended too");
    }
}
