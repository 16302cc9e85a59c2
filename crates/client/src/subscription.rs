//! One subscription over as many connections as it takes: follows each to its end, waits, connects again, and hands on what comes as
//! one stream, without repetition and with every gap told. Runs as a task of its own, so that heartbeats leave in time however
//! slowly events are taken. Knows nothing of the wire, which is [`Connection`]'s business.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_protocol::session::client::ClientSession;
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

/// Where events go. A closed one means that nobody wants them any more, and ends the subscription.
type EventSender = mpsc::Sender<Result<Event, Error>>;

/// What outlives its connections.
pub(crate) struct Subscription<D, C> {
    dial: D,
    clock: Arc<C>,
    options: Options,
    estimator: watch::Sender<Estimator>,
    resume: Resume,
    backoff: Backoff,
    /// Into the options' addresses.
    address: usize,
    /// An edge has said that this client sends too many frames.
    sparing: bool,
}

/// Nobody takes events any more.
struct Unwanted;

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    pub(crate) fn new(dial: D, clock: Arc<C>, options: Options) -> Self {
        Self {
            dial,
            clock,
            estimator: watch::Sender::default(),
            resume: Resume::new(options.mode, options.resume_after),
            backoff: Backoff::new(),
            address: 0,
            sparing: false,
            options,
        }
    }

    /// What authority time is, to be asked at any time.
    pub(crate) fn estimator(&self) -> watch::Receiver<Estimator> {
        self.estimator.subscribe()
    }

    /// The first connection: each address is tried, without a pause, until one answers or refuses for good. Once round is enough,
    /// unless an edge was found that does not know the time yet: then round again, until one knows it.
    pub(crate) async fn begin(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        loop {
            let (mut is_timeless, mut last) = (false, None);
            for _ in 0..self.options.addresses.len() {
                match self.connect().await {
                    Err(Error::Timeless { .. }) => is_timeless = true,
                    Err(error) if error.come_back() != Return::No => last = Some(error),
                    outcome => return outcome,
                }
                self.turn();
            }
            if let (false, Some(error)) = (is_timeless, last) {
                return Err(error);
            }
        }
    }

    /// Follows `connection`, and those that come after it, for as long as anybody wants events.
    pub(crate) async fn run(mut self, connection: Connection<D::Socket>, events: EventSender) {
        // Unwanted is the one end that this has; an error that is told is another.
        let _ = self.follow(connection, &events).await;
    }

    async fn follow(
        &mut self,
        mut connection: Connection<D::Socket>,
        events: &EventSender,
    ) -> Result<(), Unwanted> {
        loop {
            let since = self.clock.now();
            let mut error = self.relay(connection, events).await?;
            let mut subscribed_for = self.clock.now().since(since);
            let subscribed = loop {
                if !self.options.reconnect {
                    return tell(events, Err(error)).await;
                }
                self.pause(error, subscribed_for, events).await?;
                let outcome = tokio::select! {
                    outcome = self.connect() => outcome,
                    () = events.closed() => return Err(Unwanted),
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
            tell(events, Ok(reconnected)).await?;
            connection = subscribed.connection;
        }
    }

    /// Hands on what a connection brings, and tells why it ended.
    async fn relay(
        &mut self,
        mut connection: Connection<D::Socket>,
        events: &EventSender,
    ) -> Result<Error, Unwanted> {
        let mut waiting = VecDeque::new();
        let error = loop {
            if waiting.is_empty() {
                tokio::select! {
                    received = connection.next_ticks() => match received {
                        Ok(received) => self.take(received, &mut waiting),
                        Err(error) => break error,
                    },
                    () = events.closed() => return Err(Unwanted),
                }
                continue;
            }
            tokio::select! {
                permit = events.reserve() => match (permit, waiting.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(Ok(event)),
                    (_, _) => return Err(Unwanted),
                },
                error = connection.keep_alive() => break error,
            }
        };
        for event in waiting {
            tell(events, Ok(event)).await?;
        }
        Ok(error)
    }

    /// Sorts ticks into what is new and what was there before.
    fn take(&mut self, received: ReadBatch, waiting: &mut VecDeque<Event>) {
        let ReadBatch { batch, read } = received;
        for tick in batch.ticks {
            match self.resume.handle_tick(tick.epoch) {
                Continuity::Again => continue,
                Continuity::Next => {}
                Continuity::AfterGap { after } => waiting.push_back(Event::Gap {
                    after,
                    before: tick.epoch,
                }),
            }
            waiting.push_back(Event::Tick(Tick {
                mode: batch.mode,
                epoch: tick.epoch,
                quality: tick.quality,
                read,
            }));
        }
    }

    /// Says that a connection ended, and waits before the next.
    async fn pause(
        &mut self,
        why: Error,
        subscribed_for: Duration,
        events: &EventSender,
    ) -> Result<(), Unwanted> {
        let come_back = self.resume.handle_end(why.come_back());
        self.sparing |= is_told(&why, ErrorCode::RateLimited);
        if is_told(&why, ErrorCode::TimeStepped) {
            self.estimator.send_modify(Estimator::clear);
        }
        self.turn();
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
        tell(events, Ok(reconnecting)).await?;
        tokio::select! {
            () = sleep(after) => Ok(()),
            () = events.closed() => Err(Unwanted),
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
        let subscribed = Connection::subscribe(
            socket,
            Arc::clone(&self.clock) as _,
            self.session(),
            &self.options,
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

    fn address(&self) -> &str {
        &self.options.addresses[self.address]
    }

    /// The next address is next.
    fn turn(&mut self) {
        self.address = (self.address + 1) % self.options.addresses.len();
    }
}

async fn tell(events: &EventSender, item: Result<Event, Error>) -> Result<(), Unwanted> {
    events.send(item).await.map_err(|_| Unwanted)
}

/// Whether an edge said `code`.
fn is_told(error: &Error, code: ErrorCode) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Ok(code))
}
