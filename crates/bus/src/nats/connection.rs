//! One connection: its subscriptions, what it sends and receives, and the detection of its loss.
//!
//! Everything that arrives is decoded and delivered at once, and subscribers drop what is beyond
//! their limits. So a flood leaves no backlog as long as the processor can read it, and a message
//! of one sender waits for no message of another.

use std::future::pending;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tickstorm_timebase::{ClockId, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{Dispatch, dispatcher};

use super::transport::{Stream, Transport};
use super::wire::{Decoder, Delivery, ServerOp, encode, refused_subscription};
use super::{NatsLink, Switchboard};
use crate::reply_address::ReplyToken;

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

/// The maximum number of different server errors logged per connection. Few permissions can be
/// missing, but a missing one causes the same error for each message.
const ERRORS_LOGGED_MAX: usize = 16;

/// The interval at which refused subscriptions are tried again. A server applies changed
/// permissions to connections that it has.
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_secs(10);

/// One connection to one server.
pub(super) struct NatsConnection {
    reader: ReadHalf<Box<dyn Stream>>,
    decoder: Decoder,
    output: Output,
    subscriptions: Vec<Subscription>,
    last_sid: u64,
    sender: mpsc::Sender<Bytes>,
    outgoing: mpsc::Receiver<Bytes>,
    unanswered_pings: u32,
    logged: Vec<String>,
    log: Dispatch,
}

/// One subscription of the connection.
struct Subscription {
    sid: u64,
    content: Content,
    subject: String,
    /// Whether the server has refused it.
    is_refused: bool,
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

/// The connection is lost.
struct Lost;

impl NatsConnection {
    /// Takes over a stream on which the server has accepted the login. It logs to `log`.
    pub(super) fn new(transport: Transport, log: Dispatch) -> Self {
        let Transport { stream, decoder } = transport;
        let (reader, writer) = split(stream);
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
        Self {
            reader,
            decoder,
            output: Output::new(writer),
            subscriptions: Vec::new(),
            last_sid: 0,
            sender,
            outgoing,
            unanswered_pings: 0,
            logged: Vec::new(),
            log,
        }
    }

    /// Sends and delivers messages until the connection is lost.
    pub(super) async fn serve(mut self, switchboard: &Switchboard) {
        let Lost = self.run(switchboard).await;
    }

    async fn run(&mut self, switchboard: &Switchboard) -> Lost {
        self.subscribe(switchboard);
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resubscriptions =
            interval_at(Instant::now() + RESUBSCRIBE_INTERVAL, RESUBSCRIBE_INTERVAL);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // What is sent goes first, since each turn of this loop reads at most a hundred
            // messages, while a flood may never end.
            let outcome = tokio::select! {
                biased;
                _ = pings.tick() => self.ping(),
                _ = resubscriptions.tick() => {
                    self.resubscribe();
                    Ok(())
                }
                () = switchboard.changed.notified() => {
                    self.subscribe(switchboard);
                    Ok(())
                }
                written = self.output.write() => written,
                _ = self.outgoing.recv_many(&mut batch, BATCH), if self.output.is_idle() => {
                    for message in batch.drain(..) {
                        self.output.push(&message);
                    }
                    Ok(())
                }
                read = self.reader.read_buf(self.decoder.buffer()) => match read {
                    Ok(1..) => self.decode(switchboard),
                    Ok(0) | Err(_) => Err(Lost),
                }
            };
            if let Err(lost) = outcome {
                return lost;
            }
        }
    }

    fn ping(&mut self) -> Result<(), Lost> {
        if self.unanswered_pings == UNANSWERED_PINGS_MAX {
            return Err(Lost);
        }
        self.unanswered_pings += 1;
        self.output.push(encode::PING);
        Ok(())
    }

    /// Decodes and delivers everything that has arrived.
    fn decode(&mut self, switchboard: &Switchboard) -> Result<(), Lost> {
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
            ServerOp::Error(text) => self.handle_error(&text),
            // The server sends INFO again when its cluster changes.
            ServerOp::Pong | ServerOp::Ok | ServerOp::Info(_) => {}
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

    fn handle_error(&mut self, error: &str) {
        if let Some(subject) = refused_subscription(error) {
            let mut subscriptions = self.subscriptions.iter_mut();
            if let Some(refused) = subscriptions.find(|has| has.subject == subject) {
                refused.is_refused = true;
            }
        }
        self.log_error(error);
    }

    fn log_error(&mut self, error: &str) {
        if self.logged.len() < ERRORS_LOGGED_MAX && self.logged.iter().all(|known| known != error) {
            dispatcher::with_default(&self.log, || {
                tracing::warn!(error, "NATS reported an error");
            });
            self.logged.push(error.to_owned());
        }
    }

    /// Tries the refused subscriptions again. The server says so if it still refuses one.
    fn resubscribe(&mut self) {
        for refused in self.subscriptions.iter_mut().filter(|has| has.is_refused) {
            refused.is_refused = false;
            let line = encode::subscribe(&refused.subject, refused.sid);
            self.output.push(line.as_bytes());
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
                    is_refused: false,
                });
            }
        }
        for ended in self
            .subscriptions
            .extract_if(.., |has| !wanted.contains(&has.content))
        {
            self.output.push(encode::unsubscribe(ended.sid).as_bytes());
        }
        endpoints.link = Some(NatsLink {
            sender: self.sender.clone(),
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
