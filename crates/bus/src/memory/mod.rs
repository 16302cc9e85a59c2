//! The bus within one process. `tickstorm dev` runs on it, and so do tests, which can script the
//! delivery of messages. Like NATS, it carries bytes on subjects and delivers a message at most
//! once, to connections that are subscribed at that time.

mod script;

pub use script::{Fate, Passage, RandomFaults};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tickstorm_timebase::{Announcement, ClockId, Mono, Reply};
use tokio::time::{Instant, sleep_until};

use crate::events::Events;
use crate::headers;
use crate::message;
use crate::reply_address::ReplyAddress;
use crate::subject::{Subjects, Topic};
use crate::subscribers::{Received, Subscribers};
use crate::trace_parent::TraceParent;
use crate::{Bus, ClockEvent, EdgeEvent, LinkReport, ReplyKey, ReplyTo, Unavailable};

/// The bus that all connections share. Clones are the same bus.
#[derive(Clone, Debug, Default)]
pub struct MemoryBus {
    hub: Arc<Mutex<Hub>>,
}

/// One process's connection to a [`MemoryBus`].
#[derive(Clone, Debug)]
pub struct MemoryLink {
    bus: MemoryBus,
    index: usize,
    subjects: Subjects,
}

impl MemoryBus {
    /// Creates a bus without connections and without a script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connection. `name` identifies it in scripts.
    ///
    /// # Panics
    /// Panics if the name is taken.
    #[must_use]
    pub fn link(&self, name: &str) -> MemoryLink {
        let mut hub = self.lock();
        assert!(
            hub.ports.iter().all(|port| port.name != name),
            "a connection named {name} is on this bus already"
        );
        hub.ports.push(HubPort::new(name));
        MemoryLink {
            bus: self.clone(),
            index: hub.ports.len() - 1,
            subjects: hub.subjects.clone(),
        }
    }

    /// Makes `script` decide the fate of every message that is sent afterwards. It must not call
    /// the bus. Delays need a tokio runtime.
    pub fn set_script(&self, script: impl FnMut(&Passage<'_>) -> Fate + Send + 'static) {
        self.lock().script = Some(Box::new(script));
    }

    /// Removes the script: every message sent afterwards arrives immediately.
    pub fn clear_script(&self) {
        self.lock().script = None;
    }

    /// Cuts the named connection: it can neither send nor receive, and its subscribers are
    /// notified.
    pub fn cut(&self, name: &str) {
        self.lock().set_connected(name, false);
    }

    /// Restores the named connection. Messages sent to it in the meantime are lost.
    pub fn restore(&self, name: &str) {
        self.lock().set_connected(name, true);
    }

    /// Makes the named connection report itself as `report`.
    pub fn set_link_report(&self, name: &str, report: LinkReport) {
        self.lock().port(name).report = Some(report);
    }

    /// Delivers arbitrary bytes to all subscribers of `subject`, bypassing the script.
    pub fn inject(&self, subject: &str, reply_to: Option<&str>, payload: impl Into<Bytes>) {
        let message = Envelope {
            subject: subject.to_owned(),
            reply_to: reply_to.map(str::to_owned),
            headers: None,
            payload: payload.into(),
        };
        let mut hub = self.lock();
        for to in 0..hub.ports.len() {
            hub.deliver(to, &message);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        // A panic in a test's script is already reported. Further panics because of the poisoned
        // lock would only hide it.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, from: usize, message: &Envelope) -> Result<(), Unavailable> {
        let mut hub = self.lock();
        if !hub.ports[from].connected {
            return Err(Unavailable);
        }
        for to in 0..hub.ports.len() {
            if hub.listens(from, to, &message.subject)
                && let Some(delay) = hub.pass(from, to, message)
            {
                self.deliver_later(&mut hub, delay, to, message.clone());
            }
        }
        Ok(())
    }

    fn deliver_later(&self, hub: &mut Hub, delay: Duration, to: usize, message: Envelope) {
        let due = Instant::now() + delay;
        hub.sent += 1;
        hub.delayed.insert((due, hub.sent), (to, message));
        let bus = self.clone();
        tokio::spawn(async move {
            sleep_until(due).await;
            bus.lock().deliver_delayed(due);
        });
    }
}

impl MemoryLink {
    /// Returns the reply subject of this connection's time requests, for [`MemoryBus::inject`].
    #[must_use]
    pub fn reply_subject(&self) -> String {
        self.subjects.reply(self.reply().token)
    }

    /// Returns the subject on which `clock` answers this connection's time requests, for
    /// [`MemoryBus::inject`].
    #[must_use]
    pub fn answer_subject(&self, clock: &ClockId) -> String {
        self.subjects.answer(self.reply().token, clock)
    }

    /// Returns the key that belongs to this connection's reply subject.
    #[must_use]
    pub fn reply_key(&self) -> ReplyKey {
        self.reply().key
    }

    /// Returns the subjects of this bus, for [`MemoryBus::inject`].
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    fn reply(&self) -> ReplyAddress {
        self.bus.lock().ports[self.index].reply
    }

    fn publish(
        &self,
        subject: String,
        reply_to: Option<String>,
        headers: Option<String>,
        payload: Vec<u8>,
    ) -> Result<(), Unavailable> {
        let message = Envelope {
            subject,
            reply_to,
            headers,
            payload: payload.into(),
        };
        self.bus.publish(self.index, &message)
    }
}

impl Bus for MemoryLink {
    fn announce_traced(
        &self,
        announcement: &Announcement,
        trace: Option<&TraceParent>,
    ) -> Result<(), Unavailable> {
        let subject = self
            .subjects
            .tick(announcement.mode, &announcement.clock_id);
        self.bus.lock().ports[self.index]
            .subscribers
            .note_sent(announcement);
        let headers = trace.map(headers::encode);
        let payload = message::encode_announcement(announcement);
        self.publish(subject, None, headers, payload)
    }

    fn ask(&self, nonce: u64) -> Result<(), Unavailable> {
        let reply = self.reply();
        self.publish(
            self.subjects.time().to_owned(),
            Some(self.subjects.reply(reply.token)),
            None,
            message::encode_request(nonce, &reply.key),
        )
    }

    fn redraw_reply_subject(&self) {
        self.bus.lock().ports[self.index].reply = ReplyAddress::draw();
    }

    fn answer(&self, to: &ReplyTo, reply: &Reply) -> Result<(), Unavailable> {
        let subject = self.subjects.answer(to.0, &reply.clock_id);
        self.publish(subject, None, None, message::encode_reply(reply))
    }

    fn known_reply_subjects(&self) -> usize {
        let mut hub = self.bus.lock();
        let now = hub.now();
        hub.ports[self.index].subscribers.known_reply_subjects(now)
    }

    fn take_echo_times(&self) -> Vec<Duration> {
        Vec::new()
    }

    fn link_report(&self) -> LinkReport {
        let port = &self.bus.lock().ports[self.index];
        port.report.clone().unwrap_or_else(|| LinkReport {
            is_connected: port.connected,
            connects: port.connects,
            disconnects: port.disconnects,
            // There is no server that could keep messages back.
            is_heard: port.connected,
            ..LinkReport::default()
        })
    }

    fn clock_events(&self, id: &ClockId) -> Events<ClockEvent> {
        let port = &mut self.bus.lock().ports[self.index];
        port.subscribers.add_clock(id, port.connected)
    }

    fn edge_events(&self, clocks: &[ClockId]) -> Events<EdgeEvent> {
        let port = &mut self.bus.lock().ports[self.index];
        port.subscribers.add_edge(clocks, port.connected)
    }
}

/// A message in transit.
#[derive(Clone, Debug)]
struct Envelope {
    subject: String,
    reply_to: Option<String>,
    headers: Option<String>,
    payload: Bytes,
}

struct Hub {
    subjects: Subjects,
    /// The moment that the time of subscribers' limits counts from.
    started: Instant,
    ports: Vec<HubPort>,
    script: Option<script::FateScript>,
    /// The message that is delivered after the next message, by sender and receiver.
    swapped: HashMap<(usize, usize), Envelope>,
    /// The receiver and message by due time and sequence number, so that messages of equal delay
    /// keep their order.
    delayed: BTreeMap<(Instant, u64), (usize, Envelope)>,
    sent: u64,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            subjects: Subjects::new("tickstorm"),
            started: Instant::now(),
            ports: Vec::new(),
            script: None,
            swapped: HashMap::new(),
            delayed: BTreeMap::new(),
            sent: 0,
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Asks the script for the message's fate, and delivers the message now if its fate includes
    /// that. Returns the delay after which to deliver it, for the first time or again.
    fn pass(&mut self, from: usize, to: usize, message: &Envelope) -> Option<Duration> {
        let fate = match &mut self.script {
            Some(script) => script(&Passage {
                from: &self.ports[from].name,
                to: &self.ports[to].name,
                subject: &message.subject,
                payload: &message.payload,
            }),
            None => Fate::Deliver,
        };
        let swapped = self.swapped.remove(&(from, to));
        let later = match fate {
            Fate::Deliver => {
                self.deliver(to, message);
                None
            }
            Fate::Lose => None,
            Fate::Delay(delay) => Some(delay),
            Fate::Duplicate(delay) => {
                self.deliver(to, message);
                Some(delay)
            }
            Fate::Swap => {
                self.swapped.insert((from, to), message.clone());
                None
            }
        };
        if let Some(message) = swapped {
            self.deliver(to, &message);
        }
        later
    }

    fn now(&self) -> Mono {
        Mono::ZERO + self.started.elapsed()
    }

    fn deliver_delayed(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let (to, message) = entry.remove();
            self.deliver(to, &message);
        }
    }

    fn deliver(&mut self, to: usize, message: &Envelope) {
        if self.ports[to].connected {
            let now = self.now();
            self.ports[to].deliver(&self.subjects, message, now);
        }
    }

    /// Returns whether a message from one port concerns another. A clock hears announcements under
    /// its id, but its own ones would tell it nothing here.
    fn listens(&self, from: usize, to: usize, subject: &str) -> bool {
        let HubPort {
            subscribers, reply, ..
        } = &self.ports[to];
        match self.subjects.parse(subject) {
            Some(Topic::Time) => subscribers.clock_ids().next().is_some(),
            Some(Topic::Tick(_, id)) => {
                let shares_id = subscribers.clock_ids().any(|own| own.as_str() == id);
                subscribers.has_edges() || (shares_id && to != from)
            }
            Some(Topic::Answer(token, _)) => subscribers.has_edges() && token == reply.token,
            None => false,
        }
    }

    fn port(&mut self, name: &str) -> &mut HubPort {
        let port = self.ports.iter_mut().find(|port| port.name == name);
        port.unwrap_or_else(|| panic!("no connection named {name} is on this bus"))
    }

    fn set_connected(&mut self, name: &str, connected: bool) {
        let port = self.port(name);
        if port.connected != connected {
            port.connected = connected;
            if connected {
                port.connects += 1;
            } else {
                port.disconnects += 1;
            }
            port.subscribers.set_clocks_connected(connected);
            port.subscribers.set_edges_connected(connected);
        }
    }
}

/// The bus's record of a connection.
#[derive(Debug)]
struct HubPort {
    name: String,
    reply: ReplyAddress,
    connected: bool,
    /// How often it was connected, and cut.
    connects: u64,
    disconnects: u64,
    subscribers: Subscribers,
    /// What a test makes the connection report.
    report: Option<LinkReport>,
}

impl HubPort {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            reply: ReplyAddress::draw(),
            connected: true,
            connects: 1,
            disconnects: 0,
            subscribers: Subscribers::default(),
            report: None,
        }
    }

    fn deliver(&mut self, subjects: &Subjects, message: &Envelope, now: Mono) {
        let received = Received {
            subject: &message.subject,
            reply_to: message.reply_to.as_deref(),
            headers: message.headers.as_deref().map(str::as_bytes),
            payload: Ok(&message.payload[..]),
            now,
            is_stale: false,
        };
        self.subscribers
            .deliver(subjects, self.reply.token, received);
        self.subscribers
            .receive_own(subjects, &message.subject, &message.payload);
        self.subscribers.flush();
    }
}
