//! One connection to an edge, from its first byte to its end. Moves bytes between a socket and
//! protocol's [`ClientSession`], sends heartbeats in time, learns authority time, and notices when
//! the edge is of no use ([`Vitals`]) or this machine stalled. It does not reconnect.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tickstorm_protocol::message::Auth;
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::client::{
    ClientEvent, ClientSession, DeviceCookie, PongExchange, TickBatch, Welcome,
};
use tickstorm_timebase::{Clock, Epoch, Mode, Mono};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::error::{Awaited, Error};
use crate::estimate::{Estimate, Estimator};
use crate::options::{Credentials, Options, Secret};
use crate::vitals::{Symptom, Vitals};

/// The time limit from the first byte to the answer to AUTH. An edge may delay it by up to 8 s, if
/// others have guessed passwords.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an edge that answers HEARTBEATs may leave SUBSCRIBE unanswered. An edge that does not
/// know the time answers NO_TIME after 5 s. One of protocol minor 0 waits until it knows the time,
/// which may be more than 5 s after its start; if it is the only edge, there is no limit.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long an answer may still take if this client has just not been reading.
const UNREAD_ANSWER_MAX: Duration = Duration::from_millis(500);
/// The minor revision of the protocol since which edges answer NO_TIME.
const NO_TIME_SINCE_MINOR: u32 = 1;
/// The shortest silence after which an edge is given up, however short its heartbeat timeout is.
const SILENCE_MIN: Duration = Duration::from_secs(5);
/// If a wait ends later than planned by more than this, this machine was stalled, and the edge is
/// not to blame for the silence.
const STALL: Duration = Duration::from_millis(500);
/// If a wait ends later than planned by more than this, this machine's time may not be what it was,
/// either.
pub(crate) const FREEZE: Duration = Duration::from_secs(2);
/// The longest wait. It bounds how long it takes to notice that this machine was suspended.
const TURN_MAX: Duration = Duration::from_secs(1);
/// The free space in bytes to read into, enough for some hundreds of ticks.
const READ_LEN: usize = 16_384;
/// The name and version that this client reports to the edge's operator.
const VERSION: &str = concat!("tickstorm-client/", env!("CARGO_PKG_VERSION"));

/// The clock that all connections and the ticks read from them share.
pub(crate) type SharedClock = Arc<dyn Clock + Send + Sync>;

/// The last cookie that an edge sent, shared by all connections of a subscription.
#[derive(Clone, Default)]
pub(crate) struct Cookie(Arc<Mutex<Option<DeviceCookie>>>);

impl Cookie {
    fn get(&self) -> Option<DeviceCookie> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, cookie: DeviceCookie) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cookie);
    }
}

/// Everything that a connection needs of its subscription.
pub(crate) struct Terms {
    pub(crate) options: Arc<Options>,
    pub(crate) clock: SharedClock,
    pub(crate) session: ClientSession,
    /// Presented to the edge, and replaced by the cookie that it sends.
    pub(crate) cookie: Cookie,
    pub(crate) mode: Mode,
    pub(crate) resume_after: Option<Epoch>,
    pub(crate) estimator: watch::Sender<Estimator>,
}

/// What a connection brings, apart from authority time.
pub(crate) enum Received {
    Ticks(ReadBatch),
    /// The edge asks this client to move to another one before it closes this connection.
    GoingAway {
        within: Duration,
    },
    /// The edge has acknowledged a change of mode.
    Subscribed {
        start: Epoch,
    },
}

/// A batch of ticks as it was read.
pub(crate) struct ReadBatch {
    pub(crate) batch: TickBatch,
    /// The authority time at which the batch was read, if it was known.
    pub(crate) read: Option<Estimate>,
}

/// A connection on which the protocol has started.
pub(crate) struct Connection<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    clock: SharedClock,
    session: ClientSession,
    /// The authority time that the subscription has learned over all its connections, and continues
    /// to learn over this one.
    estimator: watch::Sender<Estimator>,
    /// Reports changes to the estimator, one of which may be that another task noticed a stall.
    learned: watch::Receiver<Estimator>,
    /// The last stall that this connection has taken into account.
    stalled_at: Option<Mono>,
    /// What is known of the edge's health; `None` until it has acknowledged the subscription.
    vitals: Option<Vitals>,
    /// Since when a change of mode has not been answered.
    unanswered_since: Option<Mono>,
    last_reading: Reading,
    /// When the edge closes this connection, if it said so and that was not handed on yet.
    going_away: Option<Mono>,
    input: BytesMut,
    /// The frames, or the unsent tail of a frame, that the socket has not accepted yet.
    output: Vec<u8>,
    /// The error of a failed write, after which nothing can be sent any more. The edge's last
    /// frames can still be read, and an ERROR among them explains more.
    unwritable: Option<io::Error>,
    read_at: Mono,
    /// When the edge was last heard, or when this client last had a reason not to hear it.
    heard_at: Mono,
    silence_max: Duration,
    /// When the wait that is under way, or was dropped, should have ended.
    wake_by: Option<Mono>,
}

/// A connection that has authenticated and subscribed.
pub(crate) struct Subscribed<S> {
    pub(crate) connection: Connection<S>,
    pub(crate) welcome: Welcome,
    pub(crate) mode: Mode,
    pub(crate) start: Epoch,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Authenticates and subscribes over a connected socket. If the edge answers but does not know
    /// the time, this waits for it, in general for [`SUBSCRIBE_TIMEOUT`].
    pub(crate) async fn subscribe(socket: S, terms: Terms) -> Result<Subscribed<S>, Error> {
        let Terms {
            options,
            clock,
            session,
            cookie,
            mode,
            resume_after,
            estimator,
        } = terms;
        let (reader, writer) = tokio::io::split(socket);
        let stalled_at = estimator.borrow().stalled_at();
        let mut connection = Self {
            reader,
            writer,
            read_at: clock.now(),
            heard_at: clock.now(),
            clock,
            session,
            learned: estimator.subscribe(),
            stalled_at,
            estimator,
            vitals: None,
            unanswered_since: None,
            last_reading: Reading::Yes,
            going_away: None,
            input: BytesMut::new(),
            output: Vec::new(),
            unwritable: None,
            silence_max: Duration::MAX,
            wake_by: None,
        };
        let credentials = options.credentials.load().await?;
        let auth = auth(&options.client_id, &credentials, cookie.get().as_ref());
        connection
            .session
            .authenticate(&auth, &mut connection.output);
        let request = Request {
            mode,
            ahead: options.ahead,
            resume_after,
        };
        connection
            .session
            .subscribe(request, &mut connection.output);
        let mut welcome = timeout(AUTH_TIMEOUT, connection.authenticated())
            .await
            .unwrap_or(Err(Error::Timeout {
                awaited: Awaited::Authentication,
                silence: AUTH_TIMEOUT,
            }))?;
        if let Some(given) = welcome.cookie.take() {
            cookie.set(given);
        }
        connection.silence_max = welcome.heartbeat_timeout.max(SILENCE_MIN);
        let patience = subscribe_patience(&options, &welcome);
        let start = timeout(patience, connection.subscribed())
            .await
            .unwrap_or(Err(Error::TimeUnknown { waited: patience }))?;
        let now = connection.clock.now();
        // Without reconnecting, there is nowhere to go.
        if options.reconnect {
            connection.vitals = Some(Vitals::new(mode, start, now));
        }
        Ok(Subscribed {
            connection,
            welcome,
            mode,
            start,
        })
    }

    /// Adds what this connection has learned about authority time to what earlier connections
    /// have, and continues together with them.
    pub(crate) fn share(&mut self, estimator: watch::Sender<Estimator>) {
        let alone = std::mem::replace(&mut self.estimator, estimator);
        self.estimator
            .send_modify(|shared| shared.take_over(&alone.borrow()));
        self.learned = self.estimator.subscribe();
        self.stalled_at = self.estimator.borrow().stalled_at();
    }

    /// Asks for the ticks of another mode. Until the edge acknowledges that, ticks are still those
    /// of the old mode.
    pub(crate) fn change_mode(&mut self, mode: Mode, ahead: bool, resume_after: Option<Epoch>) {
        let request = Request {
            mode,
            ahead,
            resume_after,
        };
        self.session.subscribe(request, &mut self.output);
        self.unanswered_since = Some(self.clock.now());
    }

    /// Returns the next ticks, or that the edge is going away or has acknowledged a change of mode.
    /// Nothing is lost if the future is dropped and this is called again.
    pub(crate) async fn next(&mut self) -> Result<Received, Error> {
        loop {
            if let Some(received) = self.take_going_away() {
                return Ok(received);
            }
            match self.next_event().await? {
                ClientEvent::Batch(batch) => return Ok(Received::Ticks(self.read_batch(batch))),
                ClientEvent::Subscribed { request, start } => {
                    self.unanswered_since = None;
                    if let Some(vitals) = &mut self.vitals {
                        *vitals = Vitals::new(request.mode, start, self.read_at);
                    }
                    return Ok(Received::Subscribed { start });
                }
                ClientEvent::Authenticated(_)
                | ClientEvent::Pong(_)
                | ClientEvent::GoingAway { .. }
                | ClientEvent::Refused(_) => {}
            }
        }
    }

    /// Returns what [`Connection::next`] does, or `None` if nothing more has arrived yet.
    pub(crate) async fn next_arrived(&mut self) -> Result<Option<Received>, Error> {
        tokio::select! {
            biased;
            received = self.next() => received.map(Some),
            () = std::future::ready(()) => Ok(None),
        }
    }

    fn take_going_away(&mut self) -> Option<Received> {
        let at = self.going_away.take()?;
        let within = at.since(self.clock.now());
        Some(Received::GoingAway { within })
    }

    fn read_batch(&mut self, batch: TickBatch) -> ReadBatch {
        if let (Some(vitals), Some(last)) = (&mut self.vitals, batch.ticks.last()) {
            vitals.handle_ticks(last.epoch, self.read_at);
        }
        let read = self.estimator.borrow().estimate_lateness(self.read_at);
        ReadBatch { batch, read }
    }

    /// Sends heartbeats in time while no ticks are read. Only returns when the connection fails.
    pub(crate) async fn keep_alive(&mut self) -> Error {
        loop {
            if let Err(error) = self.drive_once(Reading::No).await {
                return error;
            }
        }
    }

    async fn authenticated(&mut self) -> Result<Welcome, Error> {
        loop {
            if let ClientEvent::Authenticated(welcome) = self.next_event().await? {
                return Ok(welcome);
            }
        }
    }

    async fn subscribed(&mut self) -> Result<Epoch, Error> {
        loop {
            if let ClientEvent::Subscribed { start, .. } = self.next_event().await? {
                return Ok(start);
            }
        }
    }

    async fn next_event(&mut self) -> Result<ClientEvent, Error> {
        loop {
            let mut rest = &self.input[..];
            let event = self.session.handle_bytes(&mut rest, self.read_at)?;
            let rest_len = rest.len();
            self.input.advance(self.input.len() - rest_len);
            match event {
                Some(ClientEvent::Refused(refusal)) => return Err(Error::Refused(refusal)),
                Some(ClientEvent::Pong(exchange)) => self.handle_pong(&exchange),
                Some(ClientEvent::GoingAway { within, reason }) => {
                    let at = self.clock.now() + within;
                    self.going_away = Some(at);
                    return Ok(ClientEvent::GoingAway { within, reason });
                }
                Some(event) => return Ok(event),
                None => self.drive_once(Reading::Yes).await?,
            }
        }
    }

    fn handle_pong(&mut self, exchange: &PongExchange) {
        self.estimator
            .send_modify(|estimator| estimator.handle_exchange(exchange));
        if let Some(vitals) = &mut self.vitals {
            let has_time = exchange.t2_us != 0 && exchange.t3_us != 0;
            vitals.handle_pong(has_time, &self.estimator.borrow(), self.read_at);
        }
    }

    /// Waits for the socket or the next deadline, and handles one event.
    async fn drive_once(&mut self, reading: Reading) -> Result<(), Error> {
        let now = self.clock.now();
        self.notice_suspension(now);
        // If this machine stalled, something else may have ended the last wait before its timer.
        let late = self.wake_by.map_or(Duration::ZERO, |by| now.since(by));
        if late > STALL {
            self.notice_stall(late, now);
        }
        self.judge(reading, now)?;
        let silent_at = match reading {
            Reading::Yes => self.heard_at + self.silence_max,
            Reading::No => Mono::NEVER,
        };
        let deadline = self.send_heartbeats(reading, now).min(silent_at).max(now);
        self.input.reserve(READ_LEN);
        self.wake_by = Some(deadline);
        tokio::select! {
            // Writing comes first, so that heartbeats are sent however much there is to read.
            biased;
            written = self.writer.write(&self.output), if !self.output.is_empty() => match written {
                Ok(len) => drop(self.output.drain(..len)),
                Err(error) => {
                    self.output.clear();
                    self.unwritable = Some(error);
                }
            },
            read = self.reader.read_buf(&mut self.input), if reading == Reading::Yes => {
                self.read_at = self.clock.now();
                match read {
                    Ok(0) => return Err(Error::Closed { source: self.unwritable.take() }),
                    Ok(_) => {}
                    Err(error) => return Err(Error::Closed { source: Some(error) }),
                }
                self.heard_at = self.read_at;
                if let Some(vitals) = &mut self.vitals {
                    vitals.handle_bytes(self.read_at);
                }
            }
            // Another task may have noticed a stall. As long as the sender exists, which is in this
            // connection, this does not fail.
            _ = self.learned.changed() => {}
            () = sleep(deadline.since(now)) => {}
        }
        self.wake_by = None;
        let woken = self.clock.now();
        self.notice_suspension(woken);
        let late = woken.since(deadline);
        if late > STALL {
            self.notice_stall(late, woken);
        } else if reading == Reading::Yes && woken >= self.heard_at + self.silence_max {
            return Err(Error::Timeout {
                awaited: Awaited::Anything,
                silence: self.silence_max,
            });
        }
        Ok(())
    }

    /// Adds a HEARTBEAT to the output if one is due, and returns when something is next to be done.
    fn send_heartbeats(&mut self, reading: Reading, now: Mono) -> Mono {
        let mut deadline = now + TURN_MAX;
        if let (Some(vitals), Reading::Yes) = (&mut self.vitals, reading) {
            let estimator = self.estimator.borrow();
            if vitals.wants_answer(&estimator, now) {
                self.session.hasten_heartbeat(now);
            }
            if self.session.next_heartbeat() <= now {
                vitals.handle_heartbeat(&estimator, now);
            }
            deadline = deadline.min(vitals.next_change(&estimator, now));
        }
        if let (Some(since), Reading::Yes) = (self.unanswered_since, reading) {
            deadline = deadline.min(since + SUBSCRIBE_TIMEOUT);
        }
        // A frame that waits for space in the socket's buffer is as good a sign of life as a
        // HEARTBEAT, so no HEARTBEAT is added to it. At most one is pending at any time.
        if self.output.is_empty() && self.unwritable.is_none() {
            self.session
                .poll_heartbeat(now, rand::random(), &mut self.output);
            deadline = deadline.min(self.session.next_heartbeat());
        }
        deadline
    }

    /// Returns an error if the edge is of no use any more.
    fn judge(&mut self, reading: Reading, now: Mono) -> Result<(), Error> {
        let was_reading = std::mem::replace(&mut self.last_reading, reading) == Reading::Yes;
        if reading == Reading::No || !was_reading {
            // Whatever the edge sent meanwhile has not been read.
            self.forgive(now);
            return Ok(());
        }
        if let Some(since) = self.unanswered_since {
            let waited = now.since(since);
            if waited >= SUBSCRIBE_TIMEOUT {
                return Err(Error::TimeUnknown { waited });
            }
        }
        let Some(vitals) = &self.vitals else {
            return Ok(());
        };
        match vitals.poll(&self.estimator.borrow(), now) {
            None => Ok(()),
            Some(Symptom::Silent { silence }) => Err(Error::Timeout {
                awaited: Awaited::Anything,
                silence,
            }),
            Some(Symptom::Timeless { lasted }) => Err(Error::TimeUnknown { waited: lasted }),
            Some(Symptom::Tickless { overdue }) => Err(Error::Timeout {
                awaited: Awaited::Tick,
                silence: overdue,
            }),
        }
    }

    /// Takes it into account if this machine was suspended, or if another task has noticed that or
    /// a stall.
    fn notice_suspension(&mut self, now: Mono) {
        let suspended = self.clock.suspended();
        self.estimator
            .send_if_modified(|estimator| estimator.handle_suspended(now, suspended));
        let stalled_at = self.learned.borrow_and_update().stalled_at();
        if stalled_at != self.stalled_at {
            self.stalled_at = stalled_at;
            self.session.sample_again(now);
            self.forgive(now);
        }
    }

    /// Judges the edge only by what it does after `now`, because this client could not tell what it
    /// did before.
    fn forgive(&mut self, now: Mono) {
        self.heard_at = self.heard_at.max(now);
        if let Some(since) = &mut self.unanswered_since {
            *since = (*since).max(now.saturating_sub(SUBSCRIBE_TIMEOUT - UNREAD_ANSWER_MAX));
        }
        if let Some(vitals) = &mut self.vitals {
            vitals.forgive(now);
        }
    }

    /// Takes it into account that this connection woke up `late`.
    fn notice_stall(&mut self, late: Duration, woken: Mono) {
        self.forgive(woken);
        if late > FREEZE {
            self.estimator
                .send_modify(|estimator| estimator.handle_stall(woken));
            self.notice_suspension(woken);
        }
    }
}

/// Whether to read from the socket. It is not read while earlier ticks still wait for the
/// subscription's reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Yes,
    No,
}

/// Returns how long to wait for the answer to SUBSCRIBE.
fn subscribe_patience(options: &Options, welcome: &Welcome) -> Duration {
    if options.addresses.len() > 1 || welcome.protocol_minor >= NO_TIME_SINCE_MINOR {
        SUBSCRIBE_TIMEOUT
    } else {
        Duration::MAX
    }
}

fn auth(
    client_id: &str,
    credentials: &Credentials,
    cookie: Option<&DeviceCookie>,
) -> Zeroizing<Auth> {
    let secret = |secret: &Secret| secret.text().unwrap_or_default().to_owned();
    let mut auth = Zeroizing::new(Auth {
        client_id: client_id.to_owned(),
        client_version: VERSION.to_owned(),
        cookie: cookie.map_or_else(Vec::new, |cookie| cookie.as_bytes().to_vec()),
        ..Auth::default()
    });
    match credentials {
        Credentials::None => {}
        Credentials::Password { user, password } => {
            auth.username = user.clone();
            auth.password = secret(password);
        }
        Credentials::Token(token) => auth.token = secret(token),
    }
    auth
}
