//! One connection to an edge, from its first byte to its end. Moves bytes between a socket and
//! protocol's [`ClientSession`], sends heartbeats in time, learns authority time, and detects
//! silence. It does not reconnect.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use secrecy::ExposeSecret;
use tickstorm_protocol::message::Auth;
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::client::{
    ClientEvent, ClientSession, DeviceCookie, TickBatch, Welcome,
};
use tickstorm_timebase::{Clock, Epoch, Mono};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::error::{Awaited, Error};
use crate::estimate::{Estimate, Estimator};
use crate::options::{Credentials, Options};

/// The time limit from the first byte to the answer to AUTH. An edge may delay it by up to 8 s, if
/// others have guessed passwords.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an edge that does not know the time may leave SUBSCRIBE unanswered if there is another
/// edge to try. A starting edge waits for a majority for 5 s from the first answer of any clock,
/// and then chooses a clock without a majority; this limit is longer than that.
const TIMELESS_MAX: Duration = Duration::from_secs(8);
/// The shortest silence after which an edge is given up, however short its heartbeat timeout is.
const SILENCE_MIN: Duration = Duration::from_secs(5);
/// If a wait ends later than planned by more than this, this machine was stalled, and the edge is
/// not to blame for the silence.
const STALL: Duration = Duration::from_millis(500);
/// The free space in bytes to read into, enough for some hundreds of ticks.
const READ_LEN: usize = 16_384;
/// The name and version that this client reports to the edge's operator.
const VERSION: &str = concat!("tickstorm-client/", env!("CARGO_PKG_VERSION"));

/// The clock that all connections and the ticks read from them share.
pub(crate) type SharedClock = Arc<dyn Clock + Send + Sync>;

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
    input: BytesMut,
    /// The frames, or the unsent tail of a frame, that the socket has not accepted yet.
    output: Vec<u8>,
    /// The error of a failed write, after which nothing can be sent any more. The edge's last
    /// frames can still be read, and an ERROR among them explains more.
    unwritable: Option<io::Error>,
    read_at: Mono,
    silence_max: Duration,
}

/// A connection that has authenticated and subscribed.
pub(crate) struct Subscribed<S> {
    pub(crate) connection: Connection<S>,
    pub(crate) welcome: Welcome,
    pub(crate) start: Epoch,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Authenticates and subscribes over a connected socket. Presents `cookie`, and replaces it by
    /// the one that the edge sends. If the edge answers but does not know the time, this waits for
    /// it: without limit if it is the only edge, otherwise for [`TIMELESS_MAX`].
    pub(crate) async fn subscribe(
        socket: S,
        clock: SharedClock,
        session: ClientSession,
        options: &Options,
        cookie: &mut Option<DeviceCookie>,
        resume_after: Option<Epoch>,
        estimator: watch::Sender<Estimator>,
    ) -> Result<Subscribed<S>, Error> {
        let (reader, writer) = tokio::io::split(socket);
        let mut connection = Self {
            reader,
            writer,
            read_at: clock.now(),
            clock,
            session,
            estimator,
            input: BytesMut::new(),
            output: Vec::new(),
            unwritable: None,
            silence_max: Duration::MAX,
        };
        connection
            .session
            .authenticate(&auth(options, cookie.as_ref()), &mut connection.output);
        let request = Request {
            mode: options.mode,
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
        *cookie = welcome.cookie.take().or(cookie.take());
        connection.silence_max = welcome.heartbeat_timeout.max(SILENCE_MIN);
        let patience = if options.addresses.len() > 1 {
            TIMELESS_MAX
        } else {
            Duration::MAX
        };
        let start = timeout(patience, connection.subscribed())
            .await
            .unwrap_or(Err(Error::TimeUnknown { waited: patience }))?;
        Ok(Subscribed {
            connection,
            welcome,
            start,
        })
    }

    /// Returns the next ticks. No ticks are lost if the future is dropped and this is called again.
    pub(crate) async fn next_ticks(&mut self) -> Result<ReadBatch, Error> {
        loop {
            if let ClientEvent::Batch(batch) = self.next_event().await? {
                let read = self.estimator.borrow().estimate(self.read_at);
                return Ok(ReadBatch { batch, read });
            }
        }
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
                Some(ClientEvent::Pong(exchange)) => {
                    self.estimator
                        .send_modify(|estimator| estimator.handle_exchange(&exchange));
                }
                Some(event) => return Ok(event),
                None => self.drive_once(Reading::Yes).await?,
            }
        }
    }

    /// Waits for the socket or the next deadline, and handles one event.
    async fn drive_once(&mut self, reading: Reading) -> Result<(), Error> {
        let now = self.clock.now();
        let silent_at = self.read_at + self.silence_max;
        let mut deadline = match reading {
            Reading::Yes => silent_at,
            Reading::No => Mono::NEVER,
        };
        // A frame that waits for space in the socket's buffer is as good a sign of life as a
        // HEARTBEAT, so no HEARTBEAT is added to it. At most one is pending at any time.
        if self.output.is_empty() && self.unwritable.is_none() {
            self.session
                .poll_heartbeat(now, rand::random(), &mut self.output);
            deadline = deadline.min(self.session.next_heartbeat());
        }
        self.input.reserve(READ_LEN);
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
            }
            () = sleep(deadline.since(now)) => {
                let woken = self.clock.now();
                let late = woken.since(deadline);
                if late > STALL {
                    self.read_at = self.read_at + late;
                } else if reading == Reading::Yes && woken >= silent_at {
                    return Err(Error::Timeout {
                        awaited: Awaited::Anything,
                        silence: self.silence_max,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Whether to read from the socket. It is not read while earlier ticks still wait for the
/// subscription's reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Yes,
    No,
}

fn auth(options: &Options, cookie: Option<&DeviceCookie>) -> Zeroizing<Auth> {
    let mut auth = Zeroizing::new(Auth {
        client_id: options.client_id.clone(),
        client_version: VERSION.to_owned(),
        cookie: cookie.map_or_else(Vec::new, |cookie| cookie.as_bytes().to_vec()),
        ..Auth::default()
    });
    match &options.credentials {
        Credentials::None => {}
        Credentials::Password { user, password } => {
            auth.username = user.clone();
            auth.password = password.expose_secret().to_owned();
        }
        Credentials::Token(token) => auth.token = token.expose_secret().to_owned(),
    }
    auth
}
