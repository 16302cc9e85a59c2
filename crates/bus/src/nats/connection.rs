//! One connection: its subscriptions, what it sends and receives, and the detection of its loss.
//!
//! Everything that arrives is decoded and delivered at once, and subscribers drop what is beyond
//! their limits. So a flood leaves no backlog as long as the processor can read it, and a message
//! of one sender waits for no message of another.

use std::future::pending;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tickstorm_timebase::{ClockId, Mode, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{Dispatch, dispatcher};

use super::refused_publishes::RefusalNews;
use super::transport::{Stream, Transport};
use super::wire::{Decoder, Delivery, ServerOp, encode, refused_publish, refused_subscription};
use super::{Missing, NatsLink, Switchboard};
use crate::pause::PauseWatch;
use crate::reply_address::ReplyToken;
use crate::silence::LOOK_INTERVAL;

/// The interval between pings. A connection is given up when a third ping is due and nothing has
/// arrived since the first: a lost connection must be detected within three seconds.
const PING_INTERVAL: Duration = Duration::from_millis(900);

/// The number of pings without a sign of life after which a connection is lost.
const UNANSWERED_PINGS_MAX: u32 = 2;

/// The maximum number of messages that wait to be written. More of them means that the connection
/// is stuck.
const OUTGOING_MAX: usize = 2_048;

/// The number of waiting messages that are put into one write.
const BATCH: usize = 256;

/// The maximum number of different server errors that are logged until a connection has brought
/// what it must. Few permissions can be missing, but a missing one causes the same error for each
/// message, and over each new connection.
const ERRORS_LOGGED_MAX: usize = 16;

/// The maximum number of characters of a server error that are logged.
const ERROR_CHARS_MAX: usize = 256;

/// The interval at which refused subscriptions are tried again. A server applies changed
/// permissions to connections that it has. As after a refused login, a person has to act, and each
/// attempt writes a line to the server's log.
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_secs(5);

/// One connection to one server.
pub(super) struct NatsConnection {
    reader: ReadHalf<Box<dyn Stream>>,
    decoder: Decoder,
    output: Output,
    subscriptions: Vec<Subscription>,
    last_sid: u64,
    sender: mpsc::Sender<Bytes>,
    has_headers: bool,
    outgoing: mpsc::Receiver<Bytes>,
    unanswered_pings: u32,
    /// The numbers of pings sent and answered. The server answers in order, and whatever it had to
    /// say about what was sent before a ping comes before its answer.
    pings: u64,
    pongs: u64,
    pauses: PauseWatch,
    /// The ping that was sent after the last pause. Everything that piled up during the pause comes
    /// before its answer.
    catch_up: Option<u64>,
    /// The silence after which the connection is given up.
    patience: Duration,
    /// Set until this connection has brought something, if those before it did not.
    recovery: Option<Recovery>,
    known_errors: KnownErrors,
    log: Dispatch,
}

/// What the log must say when a connection brings something after others did not.
pub(super) struct Recovery {
    /// The server's name.
    pub(super) server: String,
    /// What the last of them did not bring.
    pub(super) missing: Missing,
}

/// The server errors that are logged already.
#[derive(Debug, Default)]
pub(super) struct KnownErrors(Vec<String>);

/// One subscription of the connection.
struct Subscription {
    sid: u64,
    content: Content,
    subject: String,
    state: SubscriptionState,
}

/// The server's answer to a subscription. It says only what it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubscriptionState {
    /// Not refused.
    Accepted,
    Refused,
    /// Refused, and then made again. It is accepted if this ping is answered before it is refused.
    MadeAgain {
        ping: u64,
    },
}

/// The messages that a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// Edges' time requests.
    Requests,
    /// What the clock with this id, which is in this process, announces.
    OwnTicks(ClockId),
    /// The announcements of all clocks.
    Ticks(Mode),
    /// The answers to requests with this reply subject.
    Answers(ReplyToken),
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// The server closed it, or does not answer.
    Lost,
    /// It was given up, because this has not come back over it.
    Silent(Missing),
}

/// The connection is lost.
struct Lost;

impl From<Lost> for ConnectionEnd {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

impl NatsConnection {
    /// Takes over a stream on which the server has accepted the login. The connection is given up
    /// if nothing comes back for `patience`. It logs to `log`: server errors that are not among
    /// `known_errors`, and `recovery`, if there is one, when something comes back.
    pub(super) fn new(
        transport: Transport,
        patience: Duration,
        recovery: Option<Recovery>,
        known_errors: KnownErrors,
        log: Dispatch,
    ) -> Self {
        let Transport {
            stream,
            decoder,
            has_headers,
            ..
        } = transport;
        let (reader, writer) = split(stream);
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
        Self {
            reader,
            decoder,
            output: Output::new(writer),
            subscriptions: Vec::new(),
            last_sid: 0,
            sender,
            has_headers,
            outgoing,
            unanswered_pings: 0,
            pings: 0,
            pongs: 0,
            pauses: PauseWatch::new(SystemClock),
            catch_up: None,
            patience,
            recovery,
            known_errors,
            log,
        }
    }

    /// Sends and delivers messages until the connection is lost or given up.
    pub(super) async fn serve(&mut self, switchboard: &Switchboard) -> ConnectionEnd {
        self.subscribe(switchboard);
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resubscriptions =
            interval_at(Instant::now() + RESUBSCRIBE_INTERVAL, RESUBSCRIBE_INTERVAL);
        let mut looks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // What is sent goes first, since each turn of this loop reads at most a hundred
            // messages, while a flood may never end.
            let outcome = tokio::select! {
                biased;
                _ = pings.tick() => self.ping().map_err(ConnectionEnd::from),
                _ = looks.tick() => self.look(switchboard),
                _ = resubscriptions.tick() => {
                    self.resubscribe();
                    Ok(())
                }
                () = switchboard.changed.notified() => {
                    self.subscribe(switchboard);
                    Ok(())
                }
                written = self.output.write() => written.map_err(ConnectionEnd::from),
                _ = self.outgoing.recv_many(&mut batch, BATCH), if self.output.is_idle() => {
                    for message in batch.drain(..) {
                        self.output.push(&message);
                    }
                    Ok(())
                }
                read = self.reader.read_buf(self.decoder.buffer()) => match read {
                    Ok(1..) => self.decode(switchboard).map_err(ConnectionEnd::from),
                    Ok(0) | Err(_) => Err(ConnectionEnd::Lost),
                }
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// Returns the server errors that are logged by now.
    pub(super) fn into_known_errors(self) -> KnownErrors {
        self.known_errors
    }

    fn ping(&mut self) -> Result<(), Lost> {
        if self.unanswered_pings == UNANSWERED_PINGS_MAX {
            return Err(Lost);
        }
        self.unanswered_pings += 1;
        self.push_ping();
        Ok(())
    }

    fn push_ping(&mut self) {
        self.pings += 1;
        self.output.push(encode::PING);
    }

    /// Gives the connection up if nothing has come back for too long.
    fn look(&mut self, switchboard: &Switchboard) -> Result<(), ConnectionEnd> {
        self.look_for_pause(switchboard);
        self.look_at_refusals(switchboard);
        if let Some(missing) = switchboard.look(self.patience) {
            return Err(ConnectionEnd::Silent(missing));
        }
        if switchboard.is_heard()
            && let Some(Recovery { server, missing }) = self.recovery.take()
        {
            dispatcher::with_default(&self.log, || match missing {
                Missing::Answers => tracing::info!(%server, "clocks are heard over NATS again"),
                Missing::OwnAnnouncements => tracing::info!(
                    %server, "this clock's announcements come back over NATS again"
                ),
            });
        }
        Ok(())
    }

    /// After a pause, asks the server to say when it has sent everything that piled up.
    fn look_for_pause(&mut self, switchboard: &Switchboard) {
        if let Some(pause) = self.pauses.look() {
            switchboard.note_pause(pause);
            self.push_ping();
            self.catch_up = Some(self.pings);
        }
    }

    /// Logs which of this process's messages are accepted again.
    fn look_at_refusals(&self, switchboard: &Switchboard) {
        for subject in switchboard.accepted_again() {
            dispatcher::with_default(&self.log, || {
                tracing::info!(subject, "NATS accepts what this process publishes again");
            });
        }
    }

    /// Decodes and delivers everything that has arrived.
    fn decode(&mut self, switchboard: &Switchboard) -> Result<(), Lost> {
        self.look_for_pause(switchboard);
        self.unanswered_pings = 0;
        let outcome = loop {
            match self.decoder.next() {
                Ok(Some(op)) => self.handle(op, switchboard),
                Ok(None) => break Ok(()),
                Err(error) => {
                    dispatcher::with_default(&self.log, || {
                        tracing::warn!(%error, "NATS did not keep to its protocol; reconnecting");
                    });
                    break Err(Lost);
                }
            }
        };
        switchboard.flush();
        outcome
    }

    fn handle(&mut self, op: ServerOp, switchboard: &Switchboard) {
        match op {
            ServerOp::Message(delivery) => self.deliver(&delivery, switchboard),
            ServerOp::Ping => self.output.push(encode::PONG),
            ServerOp::Pong => self.handle_pong(switchboard),
            ServerOp::Error(text) => self.handle_error(&text, switchboard),
            // The server sends INFO again when its cluster changes.
            ServerOp::Ok | ServerOp::Info(_) => {}
        }
    }

    fn deliver(&self, delivery: &Delivery, switchboard: &Switchboard) {
        let mut subscriptions = self.subscriptions.iter();
        let Some(subscription) = subscriptions.find(|has| has.sid == delivery.sid) else {
            // It was sent before the server knew that the subscription had ended.
            return;
        };
        match (&subscription.content, &delivery.payload) {
            (Content::OwnTicks(_), Ok(payload)) => {
                switchboard.deliver_own(&delivery.subject, payload);
            }
            (Content::OwnTicks(_), Err(_)) => {}
            (Content::Requests | Content::Ticks(_) | Content::Answers(_), _) => {
                switchboard.deliver(delivery);
            }
        }
    }

    /// Accepts the subscriptions that were made again before the ping that is answered.
    fn handle_pong(&mut self, switchboard: &Switchboard) {
        self.pongs += 1;
        let pongs = self.pongs;
        if self.catch_up.take_if(|ping| *ping <= pongs).is_some() {
            switchboard.note_caught_up();
        }
        let mut is_changed = false;
        for subscription in &mut self.subscriptions {
            if let SubscriptionState::MadeAgain { ping } = subscription.state
                && ping <= self.pongs
            {
                subscription.state = SubscriptionState::Accepted;
                is_changed = true;
            }
        }
        if is_changed {
            self.report_refused(switchboard);
        }
    }

    fn handle_error(&mut self, error: &str, switchboard: &Switchboard) {
        if let Some(subject) = refused_publish(error) {
            match switchboard.note_refused_publish(subject) {
                RefusalNews::New(subject) => return self.log_refused_publish(&subject),
                RefusalNews::Known => return,
                RefusalNews::Foreign => {}
            }
        }
        if let Some(subject) = refused_subscription(error) {
            let mut subscriptions = self.subscriptions.iter_mut();
            if let Some(refused) = subscriptions.find(|has| has.subject == subject) {
                refused.state = SubscriptionState::Refused;
                self.report_refused(switchboard);
            }
        }
        self.log_error(error);
    }

    fn report_refused(&self, switchboard: &Switchboard) {
        switchboard.note_refused(self.refused());
    }

    /// Returns the subjects of the subscriptions that are refused.
    fn refused(&self) -> Vec<String> {
        let refused = self.subscriptions.iter();
        let refused = refused.filter(|has| has.state != SubscriptionState::Accepted);
        refused.map(|has| has.subject.clone()).collect()
    }

    fn log_refused_publish(&self, subject: &str) {
        dispatcher::with_default(&self.log, || {
            tracing::warn!(
                subject,
                "NATS refuses what this process publishes, since its login lacks a permission; \
                 this is logged once until it is accepted"
            );
        });
    }

    fn log_error(&mut self, error: &str) {
        let cut = error.char_indices().nth(ERROR_CHARS_MAX);
        let error = cut.map_or(error, |(end, _)| &error[..end]);
        if self.known_errors.insert(error) {
            dispatcher::with_default(&self.log, || {
                tracing::warn!(error, "NATS reported an error");
            });
        }
    }

    /// Tries the refused subscriptions again. The server says so if it still refuses one.
    fn resubscribe(&mut self) {
        let ping = self.pings + 1;
        let mut are_any = false;
        for refused in &mut self.subscriptions {
            if refused.state == SubscriptionState::Refused {
                refused.state = SubscriptionState::MadeAgain { ping };
                let line = encode::subscribe(&refused.subject, refused.sid);
                self.output.push(line.as_bytes());
                are_any = true;
            }
        }
        if are_any {
            self.push_ping();
        }
    }

    /// Makes the subscriptions match the subscribers in this process, and then notifies these that
    /// there is a connection: what they send afterwards reaches the server after the subscriptions.
    /// Subjects without subscribers are not subscribed to: permissions may forbid them.
    fn subscribe(&mut self, switchboard: &Switchboard) {
        let mut endpoints = switchboard.lock();
        let mut wanted: Vec<_> = endpoints
            .subscribers
            .clock_ids()
            .map(|id| Content::OwnTicks(id.clone()))
            .collect();
        let (has_clocks, has_edges) = (!wanted.is_empty(), endpoints.subscribers.has_edges());
        if has_clocks {
            wanted.push(Content::Requests);
        }
        if has_edges {
            wanted.extend(Mode::ALL.map(Content::Ticks));
            wanted.push(Content::Answers(endpoints.reply.token));
        }
        for content in &wanted {
            if self.subscriptions.iter().all(|has| has.content != *content) {
                self.last_sid += 1;
                let subject = content.subject(switchboard);
                self.output
                    .push(encode::subscribe(&subject, self.last_sid).as_bytes());
                self.subscriptions.push(Subscription {
                    sid: self.last_sid,
                    content: content.clone(),
                    subject,
                    state: SubscriptionState::Accepted,
                });
            }
        }
        for ended in self
            .subscriptions
            .extract_if(.., |has| !wanted.contains(&has.content))
        {
            self.output.push(encode::unsubscribe(ended.sid).as_bytes());
        }
        endpoints.report.refused = self.refused();
        endpoints.link = Some(NatsLink {
            sender: self.sender.clone(),
            has_headers: self.has_headers,
            reply: endpoints.reply,
        });
        if has_clocks {
            endpoints.subscribers.set_clocks_connected(true);
        }
        if has_edges {
            endpoints.subscribers.set_edges_connected(true);
        }
    }
}

impl KnownErrors {
    /// Adds `error`. Returns whether it must be logged: it is new, and not one too many.
    fn insert(&mut self, error: &str) -> bool {
        let Self(known) = self;
        let is_new = known.len() < ERRORS_LOGGED_MAX && known.iter().all(|one| one != error);
        if is_new {
            known.push(error.to_owned());
        }
        is_new
    }
}

impl Content {
    fn subject(&self, switchboard: &Switchboard) -> String {
        let subjects = &switchboard.subjects;
        match self {
            Self::Requests => subjects.time().to_owned(),
            Self::OwnTicks(id) => subjects.own_ticks(id),
            Self::Ticks(mode) => subjects.ticks(*mode),
            Self::Answers(token) => subjects.answers(*token),
        }
    }
}

/// The sending side of a connection, and the bytes that wait to be written: those of one batch of
/// messages, and what the connection itself sends.
struct Output {
    writer: WriteHalf<Box<dyn Stream>>,
    bytes: BytesMut,
    /// Whether bytes were written that may still be in a buffer of TLS.
    must_flush: bool,
}

impl Output {
    fn new(writer: WriteHalf<Box<dyn Stream>>) -> Self {
        Self {
            writer,
            bytes: BytesMut::new(),
            must_flush: false,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns whether everything is written.
    fn is_idle(&self) -> bool {
        self.bytes.is_empty() && !self.must_flush
    }

    /// Writes some of the bytes; waits forever if there are none. Cancelling the call loses
    /// nothing.
    async fn write(&mut self) -> Result<(), Lost> {
        if !self.bytes.is_empty() {
            let written = self.writer.write(&self.bytes).await.map_err(|_| Lost)?;
            self.bytes.advance(written);
            self.must_flush = true;
        } else if self.must_flush {
            self.writer.flush().await.map_err(|_| Lost)?;
            self.must_flush = false;
        } else {
            pending::<()>().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
