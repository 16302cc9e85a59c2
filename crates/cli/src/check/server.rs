//! [`Server`]: the server that is checked, how to reach it, and what its first answer says.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tickstorm_client::TlsOptions;
use tickstorm_command::Failure;
use tickstorm_command::credentials::ClientCredentials;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::message::Auth;
use tickstorm_service::exit;
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::bytes;
use super::connection::Connection;
use super::stop::{Outcome, Stop};
use super::welcome::Welcome;

/// The time limit for the IP addresses of a name.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);
/// The time limit for a TCP connection to one IP address.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// The time limit for the TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// The interval at which the delays of this process are measured.
const LATENESS_INTERVAL: Duration = Duration::from_millis(5);
/// The time for which only the largest delay is kept.
const DELAY_SPAN: Duration = Duration::from_secs(1);
/// The number of delays that are kept, which is more than a check takes in seconds.
const DELAYS_MAX: usize = 600;

/// A connected socket, with or without TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// The server that is checked.
pub(super) struct Server {
    address: String,
    /// The IP address that all connections are made to, so that no case meets another server.
    pinned: OnceLock<SocketAddr>,
    credentials: ClientCredentials,
    tls: Option<(TlsOptions, Arc<ClientConfig>)>,
    /// What the network and the scheduling of both machines may add to a time limit, apart from
    /// delays of this process, which are measured.
    tolerance: Duration,
    /// Whether to wait for the next full minute, however far it is.
    waits_for_minute: bool,
    /// The first ACK of AUTH.
    welcome: OnceLock<Welcome>,
    /// How far back a subscription can resume, in milliseconds.
    window_ms: OnceCell<Outcome<i64>>,
    /// The delays of timers in this process.
    delays: Mutex<VecDeque<Delay>>,
}

/// The largest delay of a timer in this process within a short time.
#[derive(Clone, Copy, Debug)]
struct Delay {
    from: Mono,
    largest: Duration,
}

impl Server {
    pub(super) fn new(
        address: String,
        credentials: ClientCredentials,
        tls: Option<TlsOptions>,
        tolerance: Duration,
        waits_for_minute: bool,
    ) -> Result<Self, Failure> {
        let tls = tls.map(|options| {
            let config = options.client_config(aws_lc_rs::default_provider())?;
            Ok((options, Arc::new(config)))
        });
        let tls = tls
            .transpose()
            .map_err(|error: tickstorm_client::TlsError| Failure::new(exit::CONFIG, error))?;
        Ok(Self {
            address,
            pinned: OnceLock::new(),
            credentials,
            tls,
            tolerance,
            waits_for_minute,
            welcome: OnceLock::new(),
            window_ms: OnceCell::new(),
            delays: Mutex::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn waits_for_minute(&self) -> bool {
        self.waits_for_minute
    }

    pub(super) fn now() -> Mono {
        SystemClock.now()
    }

    /// Notes the first ACK of AUTH.
    pub(super) fn set_welcome(&self, welcome: Welcome) {
        // It is only set once, before the cases run.
        let _ = self.welcome.set(welcome);
    }

    /// Returns the first ACK of AUTH; `None` until there is one.
    pub(super) fn known_welcome(&self) -> Option<&Welcome> {
        self.welcome.get()
    }

    /// Returns the first ACK of AUTH.
    pub(super) fn welcome(&self) -> Outcome<&Welcome> {
        self.known_welcome()
            .ok_or_else(|| Stop::Inconclusive("the first AUTH was not answered by an ACK".into()))
    }

    /// Returns how far back a subscription can resume, in milliseconds, which the first call
    /// measures by `measure`.
    pub(super) async fn window_ms(
        &self,
        measure: impl Future<Output = Outcome<i64>>,
    ) -> Outcome<i64> {
        self.window_ms.get_or_init(|| measure).await.clone()
    }

    /// Measures how late the timers of this process are, forever.
    pub(super) async fn measure_lateness(&self) {
        loop {
            let planned = Self::now() + LATENESS_INTERVAL;
            tokio::time::sleep(LATENESS_INTERVAL).await;
            let late = Self::now().since(planned);
            self.note_delay(planned, late);
        }
    }

    fn note_delay(&self, planned: Mono, late: Duration) {
        let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        match delays.back_mut() {
            Some(last) if planned.since(last.from) < DELAY_SPAN => {
                last.largest = last.largest.max(late);
            }
            Some(_) | None => delays.push_back(Delay {
                from: planned,
                largest: late,
            }),
        }
        if delays.len() > DELAYS_MAX {
            delays.pop_front();
        }
    }

    /// Returns by how much a time that was measured since `from` may exceed a limit without a fault
    /// of the server.
    pub(super) fn allowance_since(&self, from: Mono) -> Duration {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let since = delays.iter().filter(|delay| {
            let until = delay.from + DELAY_SPAN.max(delay.largest);
            until >= from
        });
        let largest = since.map(|delay| delay.largest).max();
        self.tolerance + largest.unwrap_or_default()
    }

    /// Returns by how much this process may have been late at `at`.
    pub(super) fn delay_at(&self, at: Mono) -> Duration {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let around = delays.iter().filter(|delay| {
            let until = delay.from + DELAY_SPAN + delay.largest;
            (delay.from..=until).contains(&at)
        });
        around.map(|delay| delay.largest).max().unwrap_or_default()
    }

    /// Returns what the network and the scheduling of both machines may add to a time limit.
    pub(super) fn tolerance(&self) -> Duration {
        self.tolerance
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns the configuration of TLS and the name to expect, or `None` if the server is plain.
    pub(super) fn tls(&self) -> io::Result<Option<(ClientConfig, ServerName<'static>)>> {
        let Some((options, config)) = &self.tls else {
            return Ok(None);
        };
        let name = options
            .expected_name(&self.address)
            .map_err(io::Error::other)?;
        Ok(Some((ClientConfig::clone(config), name)))
    }

    /// Returns the same, but with the cipher suites of this provider.
    pub(super) fn tls_with(
        &self,
        provider: CryptoProvider,
    ) -> io::Result<Option<(ClientConfig, ServerName<'static>)>> {
        let (Some((options, _)), Some((_, name))) = (&self.tls, self.tls()?) else {
            return Ok(None);
        };
        let config = options.client_config(provider).map_err(io::Error::other)?;
        Ok(Some((config, name)))
    }

    /// Looks the name up once, and decides for the first of its IP addresses that accepts a TCP
    /// connection.
    pub(super) async fn find(&self) -> io::Result<SocketAddr> {
        let what = "answer to the name lookup";
        let found = within(LOOKUP_TIME_MAX, what, lookup_host(&self.address)).await?;
        let mut outcome = Err(io::Error::other("the name has no IP address"));
        for address in found {
            match connect(address).await {
                Ok(_) => return Ok(*self.pinned.get_or_init(|| address)),
                Err(error) => {
                    let text = format!("{address}: {error}");
                    outcome = Err(io::Error::new(error.kind(), text));
                }
            }
        }
        outcome
    }

    /// Makes a TCP connection to the address that was found.
    pub(super) async fn dial_tcp(&self) -> io::Result<TcpStream> {
        let pinned = self.pinned.get().copied();
        connect(pinned.ok_or_else(|| io::Error::other("no address was found"))?).await
    }

    /// Makes a connection, with TLS if the server has it.
    pub(super) async fn dial(&self) -> io::Result<Box<dyn Socket>> {
        let stream = self.dial_tcp().await?;
        let Some((config, name)) = self.tls()? else {
            return Ok(Box::new(stream));
        };
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let connected = within(HANDSHAKE_TIME_MAX, "TLS handshake", handshake).await;
        Ok(Box::new(connected?))
    }

    /// Opens a connection on which nothing has been sent.
    pub(super) async fn open(self: &Arc<Self>) -> Outcome<Connection> {
        match self.dial().await {
            Ok(socket) => Ok(Connection::new(socket, Arc::clone(self))),
            Err(error) => Err(Stop::Failed(format!("cannot connect: {error}"))),
        }
    }

    /// Opens a connection and authenticates.
    pub(super) async fn authenticated(self: &Arc<Self>) -> Outcome<Connection> {
        let mut connection = self.open().await?;
        connection.send(&self.auth()).await;
        connection.ack_of_auth().await?;
        Ok(connection)
    }

    /// Returns a valid AUTH. It presents the device cookie of the first ACK, so that the server
    /// has no reason to delay the answer.
    pub(super) fn auth(&self) -> Vec<u8> {
        bytes::message(FrameType::Auth, &self.credentials())
    }

    /// Returns an AUTH with a wrong password or token.
    pub(super) fn wrong_auth(&self) -> Vec<u8> {
        let mut auth = self.credentials();
        let secret = if auth.token.is_empty() {
            &mut auth.password
        } else {
            &mut auth.token
        };
        secret.push_str(" is wrong");
        auth.cookie.clear();
        bytes::message(FrameType::Auth, &auth)
    }

    /// Returns a valid AUTH with this cookie.
    pub(super) fn auth_with_cookie(&self, cookie: &[u8]) -> Vec<u8> {
        let auth = Auth {
            cookie: cookie.to_vec(),
            ..self.credentials()
        };
        bytes::message(FrameType::Auth, &auth)
    }

    fn credentials(&self) -> Auth {
        let auth = Auth {
            client_id: "tickstorm check".into(),
            client_version: concat!("tickstorm/", env!("CARGO_PKG_VERSION")).into(),
            cookie: match self.known_welcome() {
                Some(welcome) => welcome.cookie().to_vec(),
                None => Vec::new(),
            },
            ..Auth::default()
        };
        match &self.credentials {
            ClientCredentials::Token(token) => Auth {
                token: token.expose_secret().to_owned(),
                ..auth
            },
            ClientCredentials::Password(user, password) => Auth {
                username: user.clone(),
                password: password.expose_secret().to_owned(),
                ..auth
            },
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(address);
    let stream = within(CONNECT_TIME_MAX, "TCP connection", connecting).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits for `what` for this long at most.
async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let timed_out = |_| {
        let text = format!("no {what} within {} s", limit.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    timeout(limit, future).await.map_err(timed_out)?
}
