//! [`Config`]: the edge's settings, parsed into the types that the library works with.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use tickstorm_service::env::{Setting, Settings};
use tickstorm_timebase::TimekeeperConfig;

use crate::admission::AdmissionLimits;
use crate::auth::{CredentialSource, CredentialSources};
use crate::fd_budget::FdTables;
use crate::feed::FeedLimits;
use crate::ip_lists::IpListSources;
use crate::networks::Networks;
use crate::settings::{self, ProxyProtocol};
use crate::shard::ShardSettings;
use crate::sys::socket::SocketOptions;
use crate::tls::{ClientAuth, ClientAuthFiles, TlsFiles};

/// Added to the write deadline to get TCP_USER_TIMEOUT, so that the edge closes a slow client
/// before the kernel does.
const USER_TIMEOUT_MARGIN: Duration = Duration::from_secs(2);

/// Everything that an edge needs to know before it starts. The allowed ranges are in [`settings`].
#[derive(Clone, Debug)]
pub struct Config {
    /// EDGE_ID.
    pub id: String,
    /// LISTEN_ADDR; with port 0 the system chooses one.
    pub listen_addr: SocketAddr,
    /// PROXY_TRUSTED: the load balancers that announce their clients' addresses; `None` unless
    /// PROXY_PROTOCOL is on.
    pub balancers: Option<Networks>,
    /// The sources of STREAM_USER, STREAM_PASS, STREAM_PASS_PREVIOUS, the tokens, and the key of
    /// cookies.
    pub credentials: CredentialSources,
    /// The files of TLS; `None` unless TLS_ENABLED is true.
    pub tls: Option<TlsFiles>,
    /// CLOCKS, CLOCK_TOLERANCE_MS and HOLDOVER_MAX.
    pub time: TimekeeperConfig,
    /// TIME_ERROR_MAX_MS: beyond this error bound the edge is not ready.
    pub time_error_max: Duration,
    /// AHEAD_MS.
    pub ahead: Duration,
    /// RESUME_WINDOW.
    pub resume_window: Duration,
    /// MAX_CONNECTIONS.
    pub connections_max: usize,
    /// MAX_HANDSHAKES.
    pub handshakes_max: usize,
    /// MAX_CONNECTIONS_PER_IP; 0 means no limit.
    pub connections_per_ip_max: u32,
    /// MAX_CONNECT_RATE_PER_IP, per second; 0 means no limit.
    pub connect_rate_per_ip: u32,
    /// IP_ALLOWLIST, IP_BLOCKLIST and their files.
    pub ip_lists: IpListSources,
    /// AUTH_RATE_LIMIT, failures per minute and address; 0 means no limit.
    pub auth_rate_limit: u32,
    /// AUTH_TIMEOUT_MS.
    pub auth_timeout: Duration,
    /// HEARTBEAT_INTERVAL.
    pub heartbeat_interval: Duration,
    /// HEARTBEAT_TIMEOUT.
    pub heartbeat_timeout: Duration,
    /// FRAME_RATE_LIMIT, frames per second and connection.
    pub frame_rate: u32,
    /// BATCH_WINDOW_MS.
    pub batch_window: Duration,
    /// MAX_MSG_SIZE, bytes.
    pub max_msg_size: usize,
    /// MAX_BUFFERED_BYTES, bytes over all connections.
    pub buffered_max: usize,
    /// MAX_WRITE_QUEUE_SIZE, frames.
    pub queue_frames_max: usize,
    /// WRITE_DEADLINE_MS.
    pub write_deadline: Duration,
    /// TCP_READ_BUFFER_SIZE, bytes; 0 leaves the size to the kernel.
    pub read_buffer: usize,
    /// TCP_WRITE_BUFFER_SIZE, bytes; 0 leaves the size to the kernel.
    pub write_buffer: usize,
    /// SHARDS.
    pub shards: usize,
    /// FD_TABLES.
    pub fd_tables: FdTables,
    /// DRAIN_DELAY.
    pub drain_delay: Duration,
    /// DRAIN_TIMEOUT.
    pub drain_timeout: Duration,
}

impl Config {
    /// Takes the edge's settings out of `settings`.
    ///
    /// # Panics
    /// Panics if the edge's sections were not loaded into `settings`.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            id: settings.get(&settings::EDGE_ID),
            listen_addr: settings.get(&settings::LISTEN_ADDR),
            balancers: balancers(settings),
            credentials: sources(settings),
            tls: tls_files(settings),
            time: TimekeeperConfig {
                clocks: settings.get(&settings::CLOCKS),
                tolerance: settings.get(&settings::CLOCK_TOLERANCE_MS),
                holdover_max: settings.get(&settings::HOLDOVER_MAX),
            },
            time_error_max: settings.get(&settings::TIME_ERROR_MAX_MS),
            ahead: settings.get(&settings::AHEAD_MS),
            resume_window: settings.get(&settings::RESUME_WINDOW),
            connections_max: settings.get(&settings::MAX_CONNECTIONS) as usize,
            handshakes_max: settings.get(&settings::MAX_HANDSHAKES) as usize,
            connections_per_ip_max: settings.get(&settings::MAX_CONNECTIONS_PER_IP),
            connect_rate_per_ip: settings.get(&settings::MAX_CONNECT_RATE_PER_IP),
            ip_lists: IpListSources {
                allowed: settings.get(&settings::IP_ALLOWLIST),
                allowed_file: settings.get(&settings::IP_ALLOWLIST_FILE),
                blocked: settings.get(&settings::IP_BLOCKLIST),
                blocked_file: settings.get(&settings::IP_BLOCKLIST_FILE),
            },
            auth_rate_limit: settings.get(&settings::AUTH_RATE_LIMIT),
            auth_timeout: settings.get(&settings::AUTH_TIMEOUT_MS),
            heartbeat_interval: settings.get(&settings::HEARTBEAT_INTERVAL),
            heartbeat_timeout: settings.get(&settings::HEARTBEAT_TIMEOUT),
            frame_rate: settings.get(&settings::FRAME_RATE_LIMIT),
            batch_window: settings.get(&settings::BATCH_WINDOW_MS),
            max_msg_size: settings.get(&settings::MAX_MSG_SIZE),
            buffered_max: usize::try_from(settings.get(&settings::MAX_BUFFERED_BYTES).bytes())
                .unwrap_or(usize::MAX),
            queue_frames_max: settings.get(&settings::MAX_WRITE_QUEUE_SIZE) as usize,
            write_deadline: settings.get(&settings::WRITE_DEADLINE_MS),
            read_buffer: settings.get(&settings::TCP_READ_BUFFER_SIZE),
            write_buffer: settings.get(&settings::TCP_WRITE_BUFFER_SIZE),
            shards: settings.get(&settings::SHARDS),
            fd_tables: settings.get(&settings::FD_TABLES),
            drain_delay: settings.get(&settings::DRAIN_DELAY),
            drain_timeout: settings.get(&settings::DRAIN_TIMEOUT),
        }
    }

    /// Returns the limits on clients, of which at most `connections` fit.
    pub(crate) fn admission_limits(&self, connections: usize) -> AdmissionLimits {
        AdmissionLimits {
            connections,
            handshakes: self.handshakes_max,
            connections_per_address: self.connections_per_ip_max,
            connect_rate_per_address: self.connect_rate_per_ip,
        }
    }

    /// Returns the settings that each shard needs, on a machine with `cores` cores. In each shard,
    /// `lingering_max` connections may linger.
    pub(crate) fn for_shards(&self, cores: usize, lingering_max: usize) -> ShardSettings {
        ShardSettings {
            limits: tickstorm_protocol::session::server::Limits {
                auth_timeout: self.auth_timeout,
                heartbeat_interval: self.heartbeat_interval,
                heartbeat_timeout: self.heartbeat_timeout,
                frame_rate: self.frame_rate,
                max_msg_size: self.max_msg_size,
                edge_id: self.id.clone(),
            },
            feeds: FeedLimits {
                batch_window: self.batch_window,
                resume_window: self.resume_window,
                behind_max: self.queue_frames_max,
                max_msg_size: self.max_msg_size,
            },
            ahead: self.ahead,
            write_deadline: self.write_deadline,
            drain_timeout: self.drain_timeout,
            sockets: SocketOptions {
                read_buffer: self.read_buffer,
                write_buffer: self.write_buffer,
                user_timeout: self
                    .heartbeat_timeout
                    .max(self.write_deadline + USER_TIMEOUT_MARGIN),
            },
            lingering_max,
            buffered_max: self.buffered_max / self.shards.max(1),
            spin: self.shards <= cores,
        }
    }
}

fn balancers(settings: &Settings) -> Option<Networks> {
    match settings.get(&settings::PROXY_PROTOCOL) {
        ProxyProtocol::Off => None,
        ProxyProtocol::On => settings.get(&settings::PROXY_TRUSTED),
    }
}

fn sources(settings: &Settings) -> CredentialSources {
    // A value in a file is not kept in memory: the edge reads the file.
    let source = |value: SecretString, file: Option<&Path>| CredentialSource {
        value: file.map_or(value, |_| SecretString::default()),
        file: file.map(Path::to_owned),
    };
    let secret = |setting: &Setting<Option<SecretString>>| {
        let (value, file) = (settings.get(setting), settings.file_of(setting));
        // An empty file is watched too, because a rotation may write a password to it.
        let is_set = value.is_some() || file.is_some();
        is_set.then(|| source(value.unwrap_or_default(), file))
    };
    let user = settings.get(&settings::STREAM_USER);
    CredentialSources {
        user: user.map(|user| source(user.into(), settings.file_of(&settings::STREAM_USER))),
        password: secret(&settings::STREAM_PASS),
        previous: secret(&settings::STREAM_PASS_PREVIOUS),
        tokens: settings.get(&settings::STREAM_TOKENS_FILE),
        cookie_key: settings.get(&settings::COOKIE_KEY_FILE),
    }
}

fn tls_files(settings: &Settings) -> Option<TlsFiles> {
    if !settings.get(&settings::TLS_ENABLED) {
        return None;
    }
    let authorities = match settings.get(&settings::TLS_CLIENT_AUTH) {
        ClientAuth::RequireVerify => settings.get(&settings::TLS_CA_FILE),
        ClientAuth::None => None,
    };
    Some(TlsFiles {
        certificate: settings.get(&settings::TLS_CERT_FILE)?,
        key: settings.get(&settings::TLS_KEY_FILE)?,
        clients: authorities.map(|authorities| ClientAuthFiles {
            authorities,
            revoked: settings.get(&settings::TLS_CRL_FILE),
        }),
    })
}
