//! [`Server`]: the server that is checked, how to reach it, and what its first answer says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tickstorm_client::TlsOptions;
use tickstorm_command::Failure;
use tickstorm_command::credentials::ClientCredentials;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::message::{Ack, Auth};
use tickstorm_service::exit;
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::bytes;
use super::connection::Connection;
use super::stop::{Outcome, Stop};

/// The time limit for a TCP connection, and for the TLS handshake.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// The interval at which the delays of this process are measured.
const LATENESS_INTERVAL: Duration = Duration::from_millis(5);

/// A connected socket, with or without TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// The server that is checked.
pub(super) struct Server {
    address: String,
    credentials: ClientCredentials,
    tls: Option<(TlsOptions, Arc<ClientConfig>)>,
    /// What the network and the scheduling of both machines may add to a time limit, apart from
    /// delays of this process, which are measured.
    tolerance: Duration,
    /// The first ACK of AUTH.
    welcome: OnceLock<Welcome>,
    /// The largest delay of a timer in this process so far, in microseconds.
    lateness_us: AtomicU64,
}

/// What the first ACK of AUTH says.
#[derive(Clone, Debug)]
pub(super) struct Welcome {
    pub(super) ack: Ack,
}

impl Welcome {
    pub(super) fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.ack.heartbeat_interval_ms.into())
    }

    pub(super) fn heartbeat_timeout(&self) -> Duration {
        Duration::from_millis(self.ack.heartbeat_timeout_ms.into())
    }
}

impl Server {
    pub(super) fn new(
        address: String,
        credentials: ClientCredentials,
        tls: Option<TlsOptions>,
        tolerance: Duration,
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
            credentials,
            tls,
            tolerance,
            welcome: OnceLock::new(),
            lateness_us: AtomicU64::new(0),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
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
            .ok_or_else(|| Stop::Skipped("the first AUTH was not answered by a valid ACK".into()))
    }

    /// Measures how late the timers of this process are, forever.
    pub(super) async fn measure_lateness(&self) {
        loop {
            let planned = Self::now() + LATENESS_INTERVAL;
            tokio::time::sleep(LATENESS_INTERVAL).await;
            let late = Self::now().since(planned);
            let late_us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
            self.lateness_us.fetch_max(late_us, Ordering::Relaxed);
        }
    }

    /// Returns by how much a measured time may exceed a limit without a fault of the server.
    pub(super) fn allowance(&self) -> Duration {
        self.tolerance + Duration::from_micros(self.lateness_us.load(Ordering::Relaxed))
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

    /// Makes a TCP connection.
    pub(super) async fn dial_tcp(&self) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect(&self.address);
        let stream = timeout(CONNECT_TIME_MAX, connecting).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Makes a connection, with TLS if the server has it.
    pub(super) async fn dial(&self) -> io::Result<Box<dyn Socket>> {
        let stream = self.dial_tcp().await?;
        let Some((config, name)) = self.tls()? else {
            return Ok(Box::new(stream));
        };
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        Ok(Box::new(timeout(CONNECT_TIME_MAX, handshake).await??))
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
                Some(welcome) => welcome.ack.cookie.clone(),
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
