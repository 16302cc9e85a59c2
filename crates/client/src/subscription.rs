//! [`Subscription`]: one subscription, which may span many connections. It follows each connection
//! to its end, waits, reconnects, or moves to another edge while the old one still sends, and hands
//! on the events as one stream, without repetitions and with every gap reported. It runs as a
//! separate task, so that heartbeats are sent in time however slowly events are read.
//! [`Connection`] handles the wire format.

mod attempt;
mod mover;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_protocol::session::client::ClientSession;
use tickstorm_timebase::Mono;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::attempt::SharedDial;
use self::mover::{Mover, Progress};
use crate::addresses::Addresses;
use crate::alarm_clock::AlarmClock;
use crate::backoff::{AttemptOutcome, Backoff, HINT_MAX};
use crate::connection::{Connection, Cookie, ReadBatch, Received, Subscribed, Terms};
use crate::dial::Dial;
use crate::error::{Awaited, Error};
use crate::estimate::Estimator;
use crate::event::{Event, Tick};
use crate::options::Options;
use crate::resume::{Continuity, Resume};

/// The upper limit of the first wait after this client left an edge on its own account. An edge
/// that drains gives its clients hints of that size; one that is sick cannot.
const LEAVING_WAIT_MAX: Duration = Duration::from_millis(500);
/// The shortest rest of an address whose edge does not know the time.
const TIMELESS_REST_MIN: Duration = Duration::from_secs(1);

/// The channel for events. If it is closed, the reader is gone, and the subscription ends.
type EventSender = mpsc::Sender<Result<Event, Error>>;

/// The state that outlives the connections.
pub(crate) struct Subscription<D, C> {
    dial: SharedDial<D>,
    clock: Arc<C>,
    options: Arc<Options>,
    estimator: watch::Sender<Estimator>,
    /// The last cookie that an edge sent. It shows the next edge that this client has logged in
    /// before, so that no guesser at its address delays it.
    cookie: Cookie,
    resume: Resume,
    backoff: Backoff,
    addresses: Addresses,
    /// Whether an edge has answered RATE_LIMITED, so that this client must send fewer frames.
    sparing: bool,
}

/// The connection that brings the ticks at present.
struct Link<S> {
    connection: Connection<S>,
    edge_id: String,
    since: Mono,
}

/// The reader of the events is gone.
struct ReaderGone;

/// What happened to the current connection, or to a move away from it.
enum Turn<S> {
    Received(Result<Received, Error>),
    Moving(Progress<S>),
    /// An event was handed on.
    Sent,
}

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    pub(crate) fn new(dial: D, clock: Arc<C>, options: Options) -> Self {
        let subscription = Self {
            dial: SharedDial::new(dial),
            clock,
            estimator: watch::Sender::default(),
            cookie: Cookie::default(),
            resume: Resume::new(options.mode, options.resume_after),
            backoff: Backoff::new(),
            addresses: Addresses::new(options.addresses.len()),
            sparing: false,
            options: Arc::new(options),
        };
        let (now, suspended) = (subscription.clock.now(), subscription.clock.suspended());
        subscription.estimator.send_modify(|estimator| {
            estimator.handle_suspended(now, suspended);
        });
        subscription
    }

    /// Returns the authority time that the subscription has learned and continues to learn.
    pub(crate) fn estimator(&self) -> watch::Sender<Estimator> {
        self.estimator.clone()
    }

    /// Makes the first connection. Each address is tried once, without a pause, until an edge
    /// accepts. If none does, the result is a refusal that would recur, if there was one, or else
    /// the last error. However, if an edge does not know the time yet, further passes over the
    /// addresses follow until an edge does.
    pub(crate) async fn connect_first(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        loop {
            let (mut is_timeless, mut refused, mut last) = (false, None, None);
            let mut from = self.clock.now();
            for _ in 0..self.addresses.count() {
                if from > self.clock.now() {
                    break;
                }
                let error = match self.connect().await {
                    Ok(subscribed) => return Ok(subscribed),
                    Err(error) => error,
                };
                self.handle_failed_address(self.addresses.current(), &error);
                if knows_no_time(&error) {
                    is_timeless = true;
                } else if self.resume.classify(error.come_back()) == Return::No {
                    refused.get_or_insert(error);
                } else {
                    last = Some(error);
                }
                from = self.addresses.advance(self.clock.now());
            }
            if let (false, Some(error)) = (is_timeless, refused.or(last)) {
                return Err(error);
            }
            sleep(from.since(self.clock.now())).await;
        }
    }

    /// Follows `subscribed` and its successors for as long as the events have a reader.
    pub(crate) async fn run(mut self, subscribed: Subscribed<D::Socket>, events: EventSender) {
        // Either the reader is gone, or it has been sent the error: there is nothing left to
        // report.
        let _ = self.follow(subscribed, &events).await;
    }

    async fn follow(
        &mut self,
        subscribed: Subscribed<D::Socket>,
        events: &EventSender,
    ) -> Result<(), ReaderGone> {
        let mut link = self.link(subscribed);
        loop {
            let mut error = self.relay(&mut link, events).await?;
            let mut subscribed_for = self.clock.now().since(link.since);
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
            link = self.link(subscribed);
            let reconnected = Event::Reconnected {
                address: self.address().to_owned(),
                edge_id: link.edge_id.clone(),
            };
            send(events, Ok(reconnected)).await?;
        }
    }

    fn link(&self, subscribed: Subscribed<D::Socket>) -> Link<D::Socket> {
        Link {
            connection: subscribed.connection,
            edge_id: subscribed.welcome.edge_id,
            since: self.clock.now(),
        }
    }

    /// Hands on the events of `link`, which moves on to another edge if its edge asks for that.
    /// Returns the error that ended it.
    async fn relay(
        &mut self,
        link: &mut Link<D::Socket>,
        events: &EventSender,
    ) -> Result<Error, ReaderGone> {
        let (mut queue, mut mover) = (VecDeque::new(), Mover::default());
        let error = loop {
            match self.turn(link, &mut mover, &mut queue, events).await? {
                Turn::Sent => {}
                Turn::Received(Ok(Received::Ticks(batch))) => self.take(batch, &mut queue),
                Turn::Received(Ok(Received::GoingAway { within })) if self.options.reconnect => {
                    mover.handle_going_away(within, self.clock.now());
                }
                // Without reconnecting, there is nowhere to move.
                Turn::Received(Ok(Received::GoingAway { .. })) => {}
                Turn::Moving(progress) => {
                    self.move_on(progress, link, &mut mover, &mut queue).await;
                }
                Turn::Received(Err(error)) => {
                    let moved = self.rescue(&error, link, &mut mover, &mut queue, events);
                    if !moved.await? {
                        break error;
                    }
                }
            }
        };
        for event in queue {
            send(events, Ok(event)).await?;
        }
        Ok(error)
    }

    /// Waits until something happens. While events wait for their reader, the connection is only
    /// kept alive.
    async fn turn(
        &self,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
        events: &EventSender,
    ) -> Result<Turn<D::Socket>, ReaderGone> {
        let turn = if queue.is_empty() {
            tokio::select! {
                received = link.connection.next() => Turn::Received(received),
                progress = mover.progress(&*self.clock) => Turn::Moving(progress),
                () = events.closed() => return Err(ReaderGone),
            }
        } else {
            tokio::select! {
                permit = events.reserve() => match (permit, queue.pop_front()) {
                    (Ok(permit), Some(event)) => {
                        permit.send(Ok(event));
                        Turn::Sent
                    }
                    (_, _) => return Err(ReaderGone),
                },
                error = link.connection.keep_alive() => Turn::Received(Err(error)),
                progress = mover.progress(&*self.clock) => Turn::Moving(progress),
            }
        };
        Ok(turn)
    }

    /// Takes the next step of a move, without waiting. Returns whether that was the last one.
    async fn move_on(
        &mut self,
        progress: Progress<D::Socket>,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
    ) -> bool {
        let now = self.clock.now();
        match progress {
            Progress::Due => {
                let from = mover.target().unwrap_or(self.addresses.current());
                let (target, from) = self.addresses.after(from, now);
                if from > now {
                    mover.handle_failure(from, now);
                } else {
                    let address = self.options.addresses[target].clone();
                    mover.start(target, self.dial.dial(address));
                }
            }
            Progress::Dialled(Ok(socket)) => {
                // What this edge learns about the time is kept apart until it is the one in use.
                let apart = watch::Sender::new(Estimator::new());
                mover.subscribe(attempt::subscribe(socket, self.terms(apart)));
            }
            Progress::Dialled(Err(error)) => self.handle_failed_move(mover, &error),
            Progress::Subscribed(outcome) => match outcome {
                Ok(subscribed) => return self.switch(*subscribed, link, mover, queue).await,
                Err(error) => self.handle_failed_move(mover, &error),
            },
        }
        false
    }

    /// Continues with another edge's connection, unless that would not be a move, or would cost
    /// ticks. Returns whether it does.
    async fn switch(
        &mut self,
        mut subscribed: Subscribed<D::Socket>,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
    ) -> bool {
        let now = self.clock.now();
        let target = mover.target().unwrap_or(self.addresses.current());
        // Ticks that have arrived already need not come again as REPLAY.
        while let Some(batch) = link.connection.next_arrived().await {
            self.take(batch, queue);
        }
        let loses_ticks = self
            .resume
            .point()
            .is_some_and(|point| subscribed.start > point);
        if subscribed.welcome.edge_id == link.edge_id || loses_ticks {
            let (_, from) = self.addresses.after(target, now);
            mover.handle_failure(from, now);
            return false;
        }
        subscribed.connection.share(self.estimator.clone());
        self.addresses.handle_success(target);
        self.addresses.select(target);
        self.resume.handle_start(subscribed.start);
        *link = self.link(subscribed);
        *mover = Mover::default();
        queue.push_back(Event::Moved {
            address: self.address().to_owned(),
            edge_id: link.edge_id.clone(),
        });
        true
    }

    fn handle_failed_move(&mut self, mover: &mut Mover<D::Socket>, error: &Error) {
        let target = mover.target().unwrap_or(self.addresses.current());
        self.handle_failed_address(target, error);
        let now = self.clock.now();
        let (_, from) = self.addresses.after(target, now);
        mover.handle_failure(from, now);
    }

    /// If the connection ended while an attempt to move was under way, waits for the attempt's
    /// outcome. Returns whether it succeeded.
    async fn rescue(
        &mut self,
        error: &Error,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
        events: &EventSender,
    ) -> Result<bool, ReaderGone> {
        // After a step of time, the attempt's resume point is not valid any more.
        let is_valid = match error.come_back() {
            Return::AtOnceWithoutResume | Return::RetryResumeOnce => false,
            Return::No | Return::AtOnce | Return::Later | Return::Elsewhere => true,
        };
        while is_valid && mover.is_under_way() {
            let progress = tokio::select! {
                progress = mover.progress(&*self.clock) => progress,
                () = events.closed() => return Err(ReaderGone),
            };
            if self.move_on(progress, link, mover, queue).await {
                return Ok(true);
            }
        }
        Ok(false)
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
        // A single name may lead to other edges, such as those behind a balancer. One attempt shows
        // whether it leads to one that knows the time.
        let may_lead_elsewhere = is_refusal_with(&why, ErrorCode::NoTime)
            && !subscribed_for.is_zero()
            && self.addresses.count() == 1;
        if !may_lead_elsewhere {
            self.handle_failed_address(self.addresses.current(), &why);
        }
        let come_back = self.resume.handle_end(why.come_back());
        if is_refusal_with(&why, ErrorCode::TimeStepped) {
            self.estimator.send_modify(Estimator::clear);
        }
        let ended = AttemptOutcome {
            retry_after: self.hint(&why, subscribed_for),
            subscribed_for,
        };
        let wait = self.backoff.wait(&ended, rand::random());
        let now = self.clock.now();
        let after = wait.max(self.addresses.advance(now).since(now));
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

    /// Records what an error says about the address where it occurred.
    fn handle_failed_address(&mut self, index: usize, why: &Error) {
        self.sparing |= is_refusal_with(why, ErrorCode::RateLimited);
        let now = self.clock.now();
        if self.resume.classify(why.come_back()) == Return::No {
            self.addresses.handle_refusal(index, now, rand::random());
        } else if is_refusal_with(why, ErrorCode::NoTime) {
            let hint = why.retry_after().clamp(TIMELESS_REST_MIN, HINT_MAX);
            self.addresses.rest(index, now + hint);
        }
    }

    /// Returns the hint for the first wait after this error, or zero.
    fn hint(&self, why: &Error, subscribed_for: Duration) -> Duration {
        let left_by_itself = !subscribed_for.is_zero()
            && match why {
                Error::TimeUnknown { .. } => true,
                Error::Timeout { awaited, .. } => match awaited {
                    Awaited::Anything | Awaited::Tick => true,
                    Awaited::Authentication => false,
                },
                Error::Connect { .. }
                | Error::Refused(_)
                | Error::Protocol(_)
                | Error::Closed { .. } => false,
                #[cfg(feature = "tls")]
                Error::Tls(_) => false,
            };
        // The hint of NO_TIME is about that edge. Another one may well know the time.
        let may_go_elsewhere = is_refusal_with(why, ErrorCode::NoTime)
            && (self.addresses.count() > 1 || !subscribed_for.is_zero());
        if left_by_itself || may_go_elsewhere {
            let fraction = f64::from(rand::random::<u32>()) / f64::from(u32::MAX);
            return LEAVING_WAIT_MAX
                .mul_f64(fraction)
                .max(Duration::from_millis(1));
        }
        why.retry_after()
    }

    async fn connect(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        let address = self.address().to_owned();
        let socket = self.dial.dial(address).await?;
        let terms = self.terms(self.estimator.clone());
        let subscribed = Connection::subscribe(socket, terms).await?;
        self.addresses.handle_success(self.addresses.current());
        self.estimator.send_modify(Estimator::handle_connection);
        self.resume.handle_start(subscribed.start);
        Ok(subscribed)
    }

    /// Returns what a connection needs if it is made now.
    fn terms(&self, estimator: watch::Sender<Estimator>) -> Terms {
        Terms {
            options: Arc::clone(&self.options),
            clock: Arc::clone(&self.clock) as _,
            session: self.session(),
            cookie: self.cookie.clone(),
            resume_after: self.resume.point(),
            estimator,
        }
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

    /// Returns the address that is in use, or was tried last.
    pub(crate) fn address(&self) -> &str {
        &self.options.addresses[self.addresses.current()]
    }
}

async fn send(events: &EventSender, item: Result<Event, Error>) -> Result<(), ReaderGone> {
    events.send(item).await.map_err(|_| ReaderGone)
}

/// Returns whether `error` is a refusal with `code`.
fn is_refusal_with(error: &Error, code: ErrorCode) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Ok(code))
}

/// Returns whether no subscription was made because the edge does not know the time yet.
fn knows_no_time(error: &Error) -> bool {
    matches!(error, Error::TimeUnknown { .. }) || is_refusal_with(error, ErrorCode::NoTime)
}
