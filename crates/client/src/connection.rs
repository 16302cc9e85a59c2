//! One connection to an edge, from TCP's beginning to its end: moves bytes between a socket and protocol's [`ClientSession`], sends
//! heartbeats in time, learns authority time, and notices silence. Connecting again is not its business.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use secrecy::ExposeSecret;
use tickstorm_protocol::message::Auth;
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::client::{ClientEvent, ClientSession, TickBatch, Welcome};
use tickstorm_timebase::{Clock, Epoch, Mono};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::error::{Awaited, Error};
use crate::estimate::{Estimate, Estimator};
use crate::options::{Credentials, Options};

/// From the first byte to the answer to AUTH. An edge may hold back a refusal for up to 5 s.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an edge may leave SUBSCRIBE unanswered, since it does not know the time, where another could serve: more than the
/// 5 s after which a starting edge that hears any clock has chosen.
const TIMELESS_MAX: Duration = Duration::from_secs(8);
/// An edge that is silent for less is not given up, however short the heartbeat timeout that it told.
const SILENCE_MIN: Duration = Duration::from_secs(5);
/// A wait that ends so much too late shows that this machine itself stood still: that was no silence of the edge's.
const STALL: Duration = Duration::from_millis(500);
/// Room for reading: some hundred ticks.
const READ_LEN: usize = 16_384;
/// How this client names itself to the edge's operator.
const VERSION: &str = concat!("tickstorm-client/", env!("CARGO_PKG_VERSION"));

/// A clock that the connections and their ticks share.
pub(crate) type SharedClock = Arc<dyn Clock + Send + Sync>;

/// Ticks as they were read.
pub(crate) struct ReadBatch {
    pub(crate) batch: TickBatch,
    /// Authority time at reading.
    pub(crate) read: Option<Estimate>,
}

/// A connection whose session has begun.
pub(crate) struct Connection<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    clock: SharedClock,
    session: ClientSession,
    /// What the subscription has learned over all of its connections, and goes on learning over this one.
    estimator: watch::Sender<Estimator>,
    input: BytesMut,
    /// Frames, or the rest of one, that the socket has not taken yet.
    output: Vec<u8>,
    /// Why nothing can be sent any more. What the edge said before it left can still be read, and says more.
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
    /// Authenticates and subscribes over a socket that is connected. An edge that lives and doesn't know the time is waited for:
    /// the only one without a bound, one of several for [`TIMELESS_MAX`].
    pub(crate) async fn subscribe(
        socket: S,
        clock: SharedClock,
        session: ClientSession,
        options: &Options,
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
            .authenticate(&auth(options), &mut connection.output);
        let request = Request {
            mode: options.mode,
            ahead: options.ahead,
            resume_after,
        };
        connection
            .session
            .subscribe(request, &mut connection.output);
        let welcome = timeout(AUTH_TIMEOUT, connection.authenticated())
            .await
            .unwrap_or(Err(Error::Timeout {
                awaited: Awaited::Authentication,
                silence: AUTH_TIMEOUT,
            }))?;
        connection.silence_max = welcome.heartbeat_timeout.max(SILENCE_MIN);
        let patience = if options.addresses.len() > 1 {
            TIMELESS_MAX
        } else {
            Duration::MAX
        };
        let start = timeout(patience, connection.subscribed())
            .await
            .unwrap_or(Err(Error::Timeless { waited: patience }))?;
        Ok(Subscribed {
            connection,
            welcome,
            start,
        })
    }

    /// The next ticks. May be dropped and called again without losing any.
    pub(crate) async fn next_ticks(&mut self) -> Result<ReadBatch, Error> {
        loop {
            if let ClientEvent::Batch(batch) = self.next_event().await? {
                let read = self.estimator.borrow().estimate(self.read_at);
                return Ok(ReadBatch { batch, read });
            }
        }
    }

    /// Sends heartbeats in time while nobody takes ticks, and never returns but with an error.
    pub(crate) async fn keep_alive(&mut self) -> Error {
        loop {
            if let Err(error) = self.turn(Reading::No).await {
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
                None => self.turn(Reading::Yes).await?,
            }
        }
    }

    /// Waits for the socket or the next deadline, and does one thing.
    async fn turn(&mut self, reading: Reading) -> Result<(), Error> {
        let now = self.clock.now();
        let silent_at = self.read_at + self.silence_max;
        let mut deadline = match reading {
            Reading::Yes => silent_at,
            Reading::No => Mono::NEVER,
        };
        // A frame that still waits for a full socket does a heartbeat's work: there is never more than one.
        if self.output.is_empty() && self.unwritable.is_none() {
            self.session
                .poll_heartbeat(now, rand::random(), &mut self.output);
            deadline = deadline.min(self.session.next_heartbeat());
        }
        self.input.reserve(READ_LEN);
        tokio::select! {
            // Writing first: however much there is to read, heartbeats leave.
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
                    return Err(Error::Timeout { awaited: Awaited::Anything, silence: self.silence_max });
                }
            }
        }
        Ok(())
    }
}

/// Whether bytes are wanted: not while earlier ticks wait to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Yes,
    No,
}

fn auth(options: &Options) -> Auth {
    let mut auth = Auth {
        client_id: options.client_id.clone(),
        client_version: VERSION.to_owned(),
        ..Auth::default()
    };
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
