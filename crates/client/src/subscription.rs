//! [`Subscription`]: one subscription, which may span many connections. It follows each connection
//! to its end, waits, reconnects, and hands on the events as one stream, without repetitions and
//! with every gap reported. It runs as a separate task, so that heartbeats are sent in time however
//! slowly events are read. [`Connection`] handles the wire format.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_protocol::session::client::{ClientSession, DeviceCookie};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::alarm_clock::AlarmClock;
use crate::backoff::{AttemptOutcome, Backoff};
use crate::connection::{Connection, ReadBatch, Subscribed};
use crate::dial::Dial;
use crate::error::Error;
use crate::estimate::Estimator;
use crate::event::{Event, Tick};
use crate::options::Options;
use crate::resume::{Continuity, Resume};

/// The channel for events. If it is closed, the reader is gone, and the subscription ends.
type EventSender = mpsc::Sender<Result<Event, Error>>;

/// The state that outlives the connections.
pub(crate) struct Subscription<D, C> {
    dial: D,
    clock: Arc<C>,
    options: Options,
    estimator: watch::Sender<Estimator>,
    /// The last cookie that an edge sent. It shows the next edge that this client has logged in
    /// before, so that no guesser at its address delays it.
    cookie: Option<DeviceCookie>,
    resume: Resume,
    backoff: Backoff,
    /// An index into the options' addresses.
    address: usize,
    /// Whether an edge has answered RATE_LIMITED, so that this client must send fewer frames.
    sparing: bool,
}

/// The reader of the events is gone.
struct ReaderGone;

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    pub(crate) fn new(dial: D, clock: Arc<C>, options: Options) -> Self {
        Self {
            dial,
            clock,
            estimator: watch::Sender::default(),
            cookie: None,
            resume: Resume::new(options.mode, options.resume_after),
            backoff: Backoff::new(),
            address: 0,
            sparing: false,
            options,
        }
    }

    /// Returns a handle through which authority time can be read at any time.
    pub(crate) fn estimator(&self) -> watch::Receiver<Estimator> {
        self.estimator.subscribe()
    }

    /// Makes the first connection. Each address is tried, without a pause, until an edge accepts or
    /// gives a refusal that would be repeated elsewhere. There is one pass over the addresses,
    /// unless it found an edge that does not know the time yet. Then further passes follow until an
    /// edge knows the time.
    pub(crate) async fn connect_first(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        loop {
            let (mut is_timeless, mut last) = (false, None);
            for _ in 0..self.options.addresses.len() {
                match self.connect().await {
                    Err(Error::TimeUnknown { .. }) => is_timeless = true,
                    Err(error) if error.come_back() != Return::No => last = Some(error),
                    outcome => return outcome,
                }
                self.advance_address();
            }
            if let (false, Some(error)) = (is_timeless, last) {
                return Err(error);
            }
        }
    }

    /// Follows `connection` and its successors for as long as the events have a reader.
    pub(crate) async fn run(mut self, connection: Connection<D::Socket>, events: EventSender) {
        // Either the reader is gone, or it has been sent the error: there is nothing left to
        // report.
        let _ = self.follow(connection, &events).await;
    }

    async fn follow(
        &mut self,
        mut connection: Connection<D::Socket>,
        events: &EventSender,
    ) -> Result<(), ReaderGone> {
        loop {
            let since = self.clock.now();
            let mut error = self.relay(connection, events).await?;
            let mut subscribed_for = self.clock.now().since(since);
            let subscribed = loop {
                if !self.options.reconnect {
                    return send(events, Err(error)).await;
                }
                self.pause(error, subscribed_for, events).await?;
                let outcome = tokio::select! {
                    outcome = self.connect() => outcome,
                    () = events.closed() => return Err(ReaderGone),
                };
                match outcome {
                    Ok(subscribed) => break subscribed,
                    Err(failure) => error = failure,
                }
                subscribed_for = Duration::ZERO;
            };
            let reconnected = Event::Reconnected {
                address: self.address().to_owned(),
                edge_id: subscribed.welcome.edge_id,
            };
            send(events, Ok(reconnected)).await?;
            connection = subscribed.connection;
        }
    }

    /// Hands on the events of a connection, and returns the error that ended it.
    async fn relay(
        &mut self,
        mut connection: Connection<D::Socket>,
        events: &EventSender,
    ) -> Result<Error, ReaderGone> {
        let mut queue = VecDeque::new();
        let error = loop {
            if queue.is_empty() {
                tokio::select! {
                    received = connection.next_ticks() => match received {
                        Ok(received) => self.take(received, &mut queue),
                        Err(error) => break error,
                    },
                    () = events.closed() => return Err(ReaderGone),
                }
                continue;
            }
            tokio::select! {
                permit = events.reserve() => match (permit, queue.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(Ok(event)),
                    (_, _) => return Err(ReaderGone),
                },
                error = connection.keep_alive() => break error,
            }
        };
        for event in queue {
            send(events, Ok(event)).await?;
        }
        Ok(error)
    }

    /// Queues the events for the ticks of a batch: drops repeated ticks, and reports gaps.
    fn take(&mut self, received: ReadBatch, queue: &mut VecDeque<Event>) {
        let ReadBatch { batch, read } = received;
        for tick in batch.ticks {
            match self.resume.handle_tick(tick.epoch) {
                Continuity::Again => continue,
                Continuity::Next => {}
                Continuity::AfterGap { after } => queue.push_back(Event::Gap {
                    after,
                    before: tick.epoch,
                }),
            }
            queue.push_back(Event::Tick(Tick {
                mode: batch.mode,
                epoch: tick.epoch,
                quality: tick.quality,
                read,
            }));
        }
    }

    /// Reports that a connection ended, and waits before the next one.
    async fn pause(
        &mut self,
        why: Error,
        subscribed_for: Duration,
        events: &EventSender,
    ) -> Result<(), ReaderGone> {
        let come_back = self.resume.handle_end(why.come_back());
        self.sparing |= is_refusal_with(&why, ErrorCode::RateLimited);
        if is_refusal_with(&why, ErrorCode::TimeStepped) {
            self.estimator.send_modify(Estimator::clear);
        }
        self.advance_address();
        let ended = AttemptOutcome {
            come_back,
            retry_after: why.retry_after(),
            subscribed_for,
        };
        let after = self.backoff.wait(&ended, rand::random());
        let reconnecting = Event::Reconnecting {
            why,
            after,
            resumes: come_back != Return::AtOnceWithoutResume,
        };
        send(events, Ok(reconnecting)).await?;
        tokio::select! {
            () = sleep(after) => Ok(()),
            () = events.closed() => Err(ReaderGone),
        }
    }

    async fn connect(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        let address = &self.options.addresses[self.address];
        let socket = self
            .dial
            .dial(address)
            .await
            .map_err(|source| Error::Connect {
                address: address.clone(),
                source,
            })?;
        let session = self.session();
        let subscribed = Connection::subscribe(
            socket,
            Arc::clone(&self.clock) as _,
            session,
            &self.options,
            &mut self.cookie,
            self.resume.point(),
            self.estimator.clone(),
        )
        .await?;
        self.resume.handle_start(subscribed.start);
        Ok(subscribed)
    }

    fn session(&self) -> ClientSession {
        let mut session = ClientSession::new();
        if self.options.exact_time {
            session = session.with_exact_time();
        }
        if self.sparing {
            session = session.sparing();
        }
        session
    }

    /// Returns the address that was tried last.
    pub(crate) fn address(&self) -> &str {
        &self.options.addresses[self.address]
    }

    /// Moves on to the next address.
    fn advance_address(&mut self) {
        self.address = (self.address + 1) % self.options.addresses.len();
    }
}

async fn send(events: &EventSender, item: Result<Event, Error>) -> Result<(), ReaderGone> {
    events.send(item).await.map_err(|_| ReaderGone)
}

/// Returns whether `error` is a refusal with `code`.
fn is_refusal_with(error: &Error, code: ErrorCode) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Ok(code))
}
