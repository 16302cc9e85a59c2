//! [`Subscription`]: one subscription, which may span many connections. It follows each connection
//! to its end, waits, reconnects, or moves to another edge while the old one still sends, and hands
//! on the events as one stream, without repetitions and with every gap reported. It runs as a
//! separate task, so that heartbeats are sent in time however slowly events are read.
//! [`Connection`] handles the wire format.

mod attempt;
mod first;
mod mode;
mod mover;
mod moves;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tickstorm_protocol::session::client::ClientSession;
use tickstorm_timebase::{Mode, Mono};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::attempt::{Dialled, SharedDial};
use self::mover::{Mover, Progress};
use self::moves::Outcome;
use crate::addresses::Addresses;
use crate::alarm_clock::AlarmClock;
use crate::backoff::{self, AttemptOutcome, Backoff, HINT_MAX};
use crate::connection::{Connection, Cookie, ReadBatch, Received, Subscribed, Terms};
use crate::dial::{Dial, is_cut_off};
use crate::error::{Awaited, ConnectionId, Error};
use crate::estimate::Estimator;
use crate::event::{Event, Tick};
use crate::options::Options;
use crate::resume::{Continuity, Resume};
use crate::trail;

/// The upper limit of the first wait after this client left an edge on its own account. An edge
/// that drains gives its clients hints of that size; a sick edge cannot.
const LEAVING_WAIT_MAX: Duration = Duration::from_millis(500);
/// The limit for an attempt to connect while other addresses are left to try. With the 4 s after
/// which a silent edge is noticed, and the wait after that, a dead address does not make a tick
/// more than 6 s late. A lost SYN is sent again after 1 s, which the usual limits allow for.
const BRIEF_MAX: Duration = Duration::from_secs(1);
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
    /// The mode that the program wants.
    wanted: watch::Receiver<Mode>,
    /// The mode that was last reported to the reader of the events.
    reported: Mode,
    backoff: Backoff,
    addresses: Addresses,
    /// Whether an edge has answered RATE_LIMITED, so that this client must send fewer frames.
    sparing: bool,
}

/// The connection that brings the ticks at present.
struct Link<S> {
    connection: Connection<S>,
    edge_id: String,
    connection_id: Option<ConnectionId>,
    /// Since when the subscription has lasted. A move continues it.
    since: Mono,
    /// A change of mode that the edge has not acknowledged yet: where the subscription continues.
    change: Option<Resume>,
    /// When the last SUBSCRIBE was sent.
    asked_at: Mono,
    /// The frames per second that the edge allows, if it said so.
    frame_rate_limit: Option<NonZeroU32>,
}

/// The reader of the events is gone.
struct ReaderGone;

/// What happened to the current connection, or to a move away from it.
enum Turn<S> {
    Received(Result<Received, Error>),
    Moving(Progress<S>),
    /// An event was handed on.
    Sent,
    /// It may be time to ask for another mode.
    ModeDue,
}

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    pub(crate) fn new(
        dial: D,
        clock: Arc<C>,
        options: Options,
        wanted: watch::Receiver<Mode>,
    ) -> Self {
        let subscription = Self {
            dial: SharedDial::new(dial),
            clock,
            estimator: watch::Sender::default(),
            cookie: Cookie::default(),
            resume: Resume::new(options.mode, options.resume_after),
            wanted,
            reported: options.mode,
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
        let (mut link, mut queue) = (self.link(subscribed), VecDeque::new());
        loop {
            let mut error = self.relay(&mut link, queue, events).await?;
            let mut connection_id = link.connection_id.take();
            let mut subscribed_for = self.clock.now().since(link.since);
            // An edge that this client has left must not keep a place for it.
            drop(link);
            let subscribed = loop {
                if !self.options.reconnect {
                    return send(events, Err(error)).await;
                }
                self.pause(error, connection_id, subscribed_for, events)
                    .await?;
                let outcome = tokio::select! {
                    outcome = self.connect() => outcome,
                    () = events.closed() => return Err(ReaderGone),
                };
                match outcome {
                    Ok(subscribed) => break subscribed,
                    Err(failure) => error = failure,
                }
                connection_id = error.connection_id().cloned();
                subscribed_for = Duration::ZERO;
            };
            link = self.link(subscribed);
            queue = VecDeque::from([Event::Reconnected {
                address: self.address().to_owned(),
                edge_id: link.edge_id.clone(),
                connection_id: link.connection_id.clone(),
            }]);
            queue.extend(self.mode_event());
        }
    }

    fn link(&self, subscribed: Subscribed<D::Socket>) -> Link<D::Socket> {
        Link {
            connection: subscribed.connection,
            edge_id: subscribed.welcome.edge_id,
            connection_id: subscribed.welcome.connection_id,
            since: self.clock.now(),
            change: None,
            asked_at: self.clock.now(),
            frame_rate_limit: subscribed.welcome.frame_rate_limit,
        }
    }

    /// Hands on the events in `queue` and those of `link`, which moves on to another edge if its
    /// edge asks for that. Returns the error that ended it.
    async fn relay(
        &mut self,
        link: &mut Link<D::Socket>,
        mut queue: VecDeque<Event>,
        events: &EventSender,
    ) -> Result<Error, ReaderGone> {
        let mut mover = Mover::default();
        let error = loop {
            self.ask_for_mode(link);
            match self.turn(link, &mut mover, &mut queue, events).await? {
                Turn::Sent | Turn::ModeDue => {}
                Turn::Received(Ok(Received::Ticks(batch))) => self.take(batch, &mut queue),
                Turn::Received(Ok(Received::Subscribed { start })) => {
                    self.handle_mode_accepted(link, &mut mover, start);
                    queue.extend(self.mode_event());
                }
                Turn::Received(Ok(Received::GoingAway { within })) if self.may_move() => {
                    mover.handle_going_away(within, self.clock.now());
                }
                Turn::Received(Ok(Received::GoingAway { .. })) => {}
                Turn::Moving(progress) => {
                    let outcome = self.move_on(progress, link, &mut mover, &mut queue);
                    if let Outcome::Ended(error) = outcome.await {
                        break error;
                    }
                }
                Turn::Received(Err(error)) => {
                    let ended = self.rescue(error, link, &mut mover, &mut queue, events);
                    if let Some(error) = ended.await? {
                        break error;
                    }
                }
            }
        };
        if let Some(target) = mover.target() {
            self.addresses.handle_attempt(target);
        }
        for event in queue {
            send(events, Ok(event)).await?;
        }
        Ok(error)
    }

    /// Waits until something happens. While events wait for their reader, the connection is only
    /// kept alive.
    async fn turn(
        &mut self,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
        events: &EventSender,
    ) -> Result<Turn<D::Socket>, ReaderGone> {
        let turn = if queue.is_empty() {
            let due = self.mode_due(link);
            let wait = due.map_or(Duration::ZERO, |due| due.since(self.clock.now()));
            tokio::select! {
                received = link.connection.next() => Turn::Received(received),
                Ok(()) = self.wanted.changed() => Turn::ModeDue,
                () = sleep(wait), if due.is_some() => Turn::ModeDue,
                progress = mover.progress(&*self.clock) => Turn::Moving(progress),
                () = events.closed() => return Err(ReaderGone),
            }
        } else {
            tokio::select! {
                permit = events.reserve() => match (permit, queue.pop_front()) {
                    (Ok(permit), Some(event)) => {
                        trail::write(&event);
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
        connection_id: Option<ConnectionId>,
        subscribed_for: Duration,
        events: &EventSender,
    ) -> Result<(), ReaderGone> {
        let current = self.addresses.current();
        // A single name may lead to other edges, such as those behind a balancer. One attempt shows
        // whether it leads to one that knows the time.
        let may_lead_elsewhere = is_refusal_with(&why, ErrorCode::NoTime)
            && !subscribed_for.is_zero()
            && self.addresses.count() == 1;
        if !may_lead_elsewhere {
            self.handle_failed_address(current, &why);
        }
        let come_back = self.resume.handle_end(why.come_back());
        if is_refusal_with(&why, ErrorCode::TimeStepped) {
            self.estimator.send_modify(Estimator::clear);
        }
        let wait = self.wait(&why, subscribed_for);
        let now = self.clock.now();
        let after = wait.max(self.addresses.advance(now).since(now));
        let reconnecting = Event::Reconnecting {
            why,
            connection_id,
            after,
            resumes: come_back != Return::AtOnceWithoutResume,
        };
        send(events, Ok(reconnecting)).await?;
        tokio::select! {
            () = sleep(after) => Ok(()),
            () = events.closed() => Err(ReaderGone),
        }
    }

    /// Handles an error at an address: the address may have to rest, or this client to send fewer
    /// frames.
    fn handle_failed_address(&mut self, index: usize, why: &Error) {
        self.sparing |= is_refusal_with(why, ErrorCode::RateLimited);
        let now = self.clock.now();
        let is_no = self.resume.classify(why.come_back()) == Return::No;
        let is_timeless = is_refusal_with(why, ErrorCode::NoTime);
        if !self.addresses.handle_failure(index, is_no || is_timeless) {
            return;
        }
        if is_no {
            self.addresses.handle_refusal(index, now, rand::random());
        } else {
            self.addresses.rest(index, now + timeless_rest(why));
        }
    }

    /// Returns the wait before the next connection.
    fn wait(&mut self, why: &Error, subscribed_for: Duration) -> Duration {
        // The time of the attempt was wait enough: clients whose edge failed are as spread out as
        // before it.
        if was_cut_off(why) {
            return Duration::ZERO;
        }
        let ended = AttemptOutcome {
            retry_after: self.hint(why, subscribed_for),
            subscribed_for,
        };
        self.backoff.wait(&ended, rand::random())
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
                | Error::SecretFile { .. }
                | Error::MissingCredentials { .. }
                | Error::Closed { .. } => false,
                #[cfg(feature = "tls")]
                Error::Tls(_) => false,
            };
        // The hint of NO_TIME is about that edge. Another one may well know the time.
        let may_go_elsewhere = is_refusal_with(why, ErrorCode::NoTime)
            && (self.addresses.count() > 1
                || !subscribed_for.is_zero()
                || self.addresses.has_more_edges(self.addresses.current()));
        if left_by_itself || may_go_elsewhere {
            let drawn = backoff::fraction(LEAVING_WAIT_MAX, rand::random());
            return drawn.max(Duration::from_millis(1));
        }
        why.retry_after()
    }

    async fn connect(&mut self) -> Result<Subscribed<D::Socket>, Error> {
        let address = self.address().to_owned();
        let current = self.addresses.current();
        let is_brief = self.addresses.handle_attempt_in_use(self.clock.now());
        let dialled = self.dial.dial(address, is_brief.then_some(BRIEF_MAX));
        let Dialled {
            socket,
            ip_addresses,
        } = dialled.await?;
        self.addresses.handle_connection(current, ip_addresses);
        let position = self.wanted_position();
        let terms = self.terms(position, self.estimator.clone());
        let subscribed = Connection::subscribe(socket, terms).await?;
        self.addresses.handle_success(current);
        self.estimator.send_modify(Estimator::handle_connection);
        self.resume.change(position);
        self.resume.handle_start(subscribed.start);
        Ok(subscribed)
    }

    /// Returns what a connection needs if it is made now.
    fn terms(&self, position: Resume, estimator: watch::Sender<Estimator>) -> Terms {
        Terms {
            options: Arc::clone(&self.options),
            clock: Arc::clone(&self.clock) as _,
            session: self.session(),
            cookie: self.cookie.clone(),
            mode: position.mode(),
            resume_after: position.point(),
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

    /// Returns whether this client follows GOING_AWAY. Without reconnecting, there is nowhere to
    /// go.
    fn may_move(&self) -> bool {
        self.options.reconnect && self.options.moves
    }

    /// Returns the address that is in use, or was tried last.
    pub(crate) fn address(&self) -> &str {
        &self.options.addresses[self.addresses.current()]
    }
}

async fn send(events: &EventSender, item: Result<Event, Error>) -> Result<(), ReaderGone> {
    match &item {
        Ok(event) => trail::write(event),
        Err(error) => trail::write_end(error),
    }
    events.send(item).await.map_err(|_| ReaderGone)
}

/// Returns whether `error` is a refusal with `code`.
fn is_refusal_with(error: &Error, code: ErrorCode) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Ok(code))
}

/// Returns whether `error` is that of an attempt which was cut off for the sake of other addresses.
fn was_cut_off(error: &Error) -> bool {
    matches!(error, Error::Connect { source, .. } if is_cut_off(source))
}

/// Returns how long the address of an edge that does not know the time rests.
fn timeless_rest(error: &Error) -> Duration {
    error.retry_after().clamp(TIMELESS_REST_MIN, HINT_MAX)
}
