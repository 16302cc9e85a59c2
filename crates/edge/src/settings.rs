//! The edge's settings, in sections, and the checks that they fit together. [`crate::Config`] turns
//! them into what the edge works with.

mod checks;
mod earlier;

use std::{net::SocketAddr, num::NonZero, path::PathBuf, thread, time::Duration};

use secrecy::SecretString;
use tickstorm_service::byte_size::ByteSize;
use tickstorm_service::env::{Section, Setting, Span, Text, host_id};
use tickstorm_timebase::ClockId;

use crate::fd_budget::FdTables;
use crate::networks::Networks;
use crate::tls::ClientAuth;

/// All sections, in the order in which they are printed. Programs destructure this array, so that
/// they can't miss a section that is added.
pub const SECTIONS: [Section; 5] = [
    // Other programs on the host find their certificate authorities by SSL_CERT_FILE.
    EDGE.without(&earlier::GONE).beside(&["SSL_CERT_"]),
    LOGIN,
    CREDENTIALS,
    LIMITS,
    TLS,
];

/// The edge's defaults for settings that it shares with other programs.
pub const DEFAULTS: [(&str, &str); 1] = [("ADMIN_ADDR", "127.0.0.1:8081")];

const HOUR_MS: u64 = 3_600_000;

/// The longest time that either phase of a drain may take: orchestrators lose patience sooner.
const DRAIN_MS_MAX: u64 = HOUR_MS / 6;

/// The most shards that an edge can have.
const SHARDS_MAX: usize = 256;

/// Whether load balancers announce the address of each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// They do.
    On,
}

tickstorm_service::choices!(ProxyProtocol: "off" => Self::Off, "on" => Self::On);

tickstorm_service::settings! {
    /// Settings for the edge's address, its time, and its shutdown. The checks of all the edge's
    /// settings are attached to this section.
    EDGE, checked by checks::run;
    /// The address that clients connect to.
    LISTEN_ADDR: SocketAddr =
        Setting::new((), "0.0.0.0:8080", "An edge must be reachable by its clients")
            .formerly_host_and_port("LISTEN_HOST", "LISTEN_PORT");
    /// Whether load balancers announce the address of each client, with version 2 of the PROXY
    /// protocol.
    PROXY_PROTOCOL: ProxyProtocol = Setting::new(
        (),
        "off",
        "Most load balancers keep the client's address, or have to be set up to announce it",
    );
    /// The networks of the load balancers. Their connections must start with a PROXY header, and
    /// all others must not. A client in these networks could claim any address.
    PROXY_TRUSTED: Option<Networks> =
        Setting::unset((), "No sender is trusted unless it is listed");
    /// The name of this edge.
    EDGE_ID: String = Setting::derived(
        Text::ID,
        "host name",
        |_| host_id(),
        "Unique wherever host names are unique",
    )
    .formerly("INSTANCE_ID");
    /// The ids of the clocks that may vote, separated by commas. Required if NATS_URL names a host
    /// beyond loopback. If it is empty, every clock that answers may vote.
    CLOCKS: Vec<ClockId> = Setting::unset((), "A single clock on the same host needs no list");
    /// The largest difference at which clocks still agree, and half the longest round trip of a
    /// time sample.
    CLOCK_TOLERANCE_MS: Duration = Setting::new(
        Span::millis(1, 1_000),
        "20",
        "Allows round trips to NATS of up to 40 ms, and is far above the error of a disciplined \
         clock",
    );
    /// The edge is not ready while the error bound of its time is above this.
    TIME_ERROR_MAX_MS: Duration = Setting::new(
        Span::millis(1, 10_000),
        "250",
        "About the lateness that people notice; a minute of holdover adds only 12 ms",
    );
    /// How early ahead feeds are sent. Keep it below the clocks' TICK_LEAD_MS.
    AHEAD_MS: Duration = Setting::new(
        Span::millis(200, 5_000).never_multiple_of(1_000),
        "800",
        "Far from a full second, where the fan-out would coincide with that of the previous tick",
    );
    /// How long the edge keeps sending ticks without hearing from any clock that it accepts. It
    /// continues for 2 s more, in which it may hear one again.
    HOLDOVER_MAX: Duration = Setting::new(
        Span::units(1_000, HOUR_MS),
        "60s",
        "Covers the restart of a NATS server; the error grows by 12 ms in that time",
    );
    /// How far back a client can resume. Twice as many ticks, but at least 120, are replayed to a
    /// connection per minute, and ten times as many to an address.
    RESUME_WINDOW: Duration = Setting::new(
        Span::units(0, HOUR_MS),
        "600s",
        "Covers the restart of a client or an edge, and the time until someone notices",
    );
    /// How long a draining edge still accepts connections, so that load balancers can notice that
    /// it is no longer ready.
    DRAIN_DELAY: Duration = Setting::new(
        Span::units(0, DRAIN_MS_MAX),
        "5s",
        "Longer than most load balancers take: check interval times failure threshold",
    );
    /// The time over which clients are sent to other edges, by a drain or because the time is lost.
    /// In a drain, each has at least half of it to leave by itself. Keep the sum of this and
    /// DRAIN_DELAY below the orchestrator's grace period.
    DRAIN_TIMEOUT: Duration = Setting::new(
        Span::units(0, DRAIN_MS_MAX),
        "20s",
        "Together with DRAIN_DELAY, below the usual grace period of 30 s",
    );
}

tickstorm_service::settings! {
    /// Login settings that an edge and its clients share.
    LOGIN;
    /// The user name that clients log in with.
    STREAM_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, "An edge must not be open by mistake")
            .or_file()
            .formerly("AUTH_USERNAME");
    /// The password of STREAM_USER.
    STREAM_PASS: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "A password that everyone knows protects nothing")
            .secret()
            .or_file()
            .formerly("AUTH_PASSWORD");
}

tickstorm_service::settings! {
    /// Settings for further credentials that an edge accepts.
    CREDENTIALS;
    /// A second password that is accepted while STREAM_PASS is being rotated.
    STREAM_PASS_PREVIOUS: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "Needed only during a rotation").secret().or_file();
    /// The file with clients' tokens. Each line has a name and the SHA-256 of that name's token in
    /// hex.
    STREAM_TOKENS_FILE: Option<PathBuf> =
        Setting::unset((), "One user and password are enough for a single operator");
    /// The file with the key of device cookies, by which an edge recognises clients that have
    /// logged in before: 32 to 1024 bytes of text, the same for all edges. Without it, each
    /// credential has a key that is derived from it. It is reread when it changes.
    COOKIE_KEY_FILE: Option<PathBuf> = Setting::unset(
        (),
        "Edges with the same credentials derive the same keys",
    );
}

tickstorm_service::settings! {
    /// TLS for clients.
    TLS;
    /// Whether clients connect with TLS 1.3. Without it, passwords travel in plain text.
    TLS_ENABLED: bool = Setting::new((), "false", "TLS needs a certificate, which has no default");
    /// The file with the edge's certificate, followed by its intermediate certificates. It is
    /// reread when it changes.
    TLS_CERT_FILE: Option<PathBuf> =
        Setting::unset((), "Needed only for TLS").formerly("TLS_CERT_PATH");
    /// The file with the private key of the certificate in TLS_CERT_FILE. It is reread when it
    /// changes.
    TLS_KEY_FILE: Option<PathBuf> =
        Setting::unset((), "Needed only for TLS").formerly("TLS_KEY_PATH");
    /// Whether clients must present a certificate. They must still authenticate.
    TLS_CLIENT_AUTH: ClientAuth =
        Setting::new((), "none", "AUTH already identifies the client");
    /// The file with the certificate authorities that sign clients' certificates. It is reread when
    /// it changes.
    TLS_CA_FILE: Option<PathBuf> = Setting::unset((), "Needed only for TLS_CLIENT_AUTH")
        .formerly("TLS_CLIENT_CA_FILE");
    /// The file with the lists of revoked client certificates. It is reread when it changes.
    TLS_CRL_FILE: Option<PathBuf> = Setting::unset((), "Needed only for TLS_CLIENT_AUTH");
}

tickstorm_service::settings! {
    /// Limits per client, and for all clients together.
    LIMITS;
    /// The most client connections. If the open-file limit minus 256 is lower, that applies
    /// instead, unless FD_TABLES is per-shard.
    MAX_CONNECTIONS: u32 = Setting::new(
        1..=1_000_000,
        "100000",
        "What one edge is built for; the maximum is close to the most files that Linux lets one \
         process open",
    );
    /// The most connections that have not authenticated yet. Beyond it, those of the address with
    /// the most of them are closed.
    MAX_HANDSHAKES: u32 = Setting::new(
        1..=1_000_000,
        "4096",
        "Lets a reconnect storm through within seconds, and keeps a flood of connections small",
    );
    /// The most connections per address (IPv6: per /64). 0 means no limit.
    MAX_CONNECTIONS_PER_IP: u32 = Setting::new(
        0..=1_000_000,
        "0",
        "A load balancer or a NAT brings thousands of clients from one address",
    );
    /// The new connections that are allowed per second and address (IPv6: per /64). 0 means no
    /// limit.
    MAX_CONNECT_RATE_PER_IP: u32 = Setting::new(
        0..=1_000_000,
        "0",
        "A load balancer or a NAT brings thousands of clients from one address",
    );
    /// The networks that clients may connect from.
    IP_ALLOWLIST: Option<Networks> = Setting::unset((), "Clients may connect from anywhere");
    /// The file with further networks that clients may connect from, one on each line. It is reread
    /// when it changes.
    IP_ALLOWLIST_FILE: Option<PathBuf> =
        Setting::unset((), "Clients may connect from anywhere");
    /// The networks that clients may not connect from. It takes precedence over IP_ALLOWLIST.
    IP_BLOCKLIST: Option<Networks> = Setting::unset((), "Clients may connect from anywhere");
    /// The file with further networks that clients may not connect from, one on each line. It is
    /// reread when it changes.
    IP_BLOCKLIST_FILE: Option<PathBuf> =
        Setting::unset((), "Clients may connect from anywhere");
    /// The time that a client has from accept to a complete AUTH.
    AUTH_TIMEOUT_MS: Duration = Setting::new(
        Span::millis(100, 60_000),
        "5000",
        "Several round trips on the slowest network path",
    );
    /// The failed login attempts that are allowed per minute and address (IPv6: per /64), and per
    /// client with a device cookie. After that, attempts without a valid cookie wait before they
    /// are checked, 250 ms at first and up to 8 s; at most 10 wait. Four times as many failures are
    /// allowed per IPv6 /56, 16 times per IPv4 /24 or IPv6 /48, and 100 times for all addresses
    /// together. 0 means no limit.
    AUTH_RATE_LIMIT: u32 = Setting::new(
        0..=100_000,
        "10",
        "People mistype a password a few times; guessing one takes millions of attempts",
    )
    .formerly("AUTH_MAX_ATTEMPTS");
    /// The interval at which clients are told to send HEARTBEAT. Must be at least 2 s divided by
    /// FRAME_RATE_LIMIT.
    HEARTBEAT_INTERVAL: Duration = Setting::new(
        Span::units(100, HOUR_MS),
        "15s",
        "Below the idle timeouts of NATs and load balancers",
    )
    .formerly_millis("HEARTBEAT_INTERVAL_MS");
    /// How long a client may be silent before it is closed. Must be greater than
    /// HEARTBEAT_INTERVAL.
    HEARTBEAT_TIMEOUT: Duration = Setting::new(
        Span::units(200, 2 * HOUR_MS),
        "20s",
        "One HEARTBEAT_INTERVAL, and 5 s for the HEARTBEAT to arrive",
    )
    .formerly_millis("HEARTBEAT_TIMEOUT_MS");
    /// The frames that a client may send per second; a SUBSCRIBE counts as ten. It may send what it
    /// has saved up in HEARTBEAT_TIMEOUT (at most 30 s) at once, and never fewer than 20.
    FRAME_RATE_LIMIT: u32 = Setting::new(
        1..=10_000,
        "10",
        "Leaves room for the eight heartbeats, 100 ms apart, with which a client starts",
    );
    /// How long a tick may wait for further ticks after one was sent. The first tick after a quiet
    /// time never waits. 0 turns batching off.
    BATCH_WINDOW_MS: Duration = Setting::new(
        Span::millis(0, 100),
        "5",
        "Packs a burst of 10,000 ticks per second into 200 frames",
    )
    .formerly_units("BATCH_WINDOW");
    /// The longest payload, in bytes, of a frame that the edge sends, and of one that it skips
    /// because it may ignore its type. Any other frame of a client may have 4096.
    MAX_MSG_SIZE: usize = Setting::new(
        4_096..=65_536,
        "65536",
        "The protocol's own limit; frames that are skipped take no memory",
    )
    .formerly("MAX_MESSAGE_SIZE");
    /// The memory that all connections together may take for unfinished frames, partial TLS
    /// records, TLS handshakes and waiting control frames, divided evenly among the shards. Beyond
    /// it, the connection with the oldest unfinished input is closed: one that has not
    /// authenticated if these take more than half, and otherwise one that has.
    MAX_BUFFERED_BYTES: ByteSize = Setting::new(
        ByteSize::mib(1)..=ByteSize::mib(1_048_576),
        "64MiB",
        "Several times what MAX_HANDSHAKES handshakes take, and less than 100,000 connections do",
    );
    /// How many frames a client may be behind before it is closed as a slow consumer.
    MAX_WRITE_QUEUE_SIZE: u32 = Setting::new(
        2..=100_000,
        "1000",
        "A quarter of an hour of SECOND ticks, or 5 s of a burst of batches",
    );
    /// How long a client that has frames waiting may accept no data. After that it is closed as a
    /// slow consumer.
    WRITE_DEADLINE_MS: Duration = Setting::new(
        Span::millis(100, 60_000),
        "5000",
        "A client that loses a few consecutive segments is not slow",
    );
    /// The receive buffer of a socket, in bytes. 0 leaves the size to the kernel.
    TCP_READ_BUFFER_SIZE: usize = Setting::new(
        0..=16_777_216,
        "65536",
        "Holds the largest frame; the kernel's choice may grow to megabytes per client",
    );
    /// The send buffer of a socket, in bytes. 0 leaves the size to the kernel, which lets it grow
    /// to megabytes for a client that does not read.
    TCP_WRITE_BUFFER_SIZE: usize = Setting::new(
        0..=16_777_216,
        "65536",
        "Holds an hour of SECOND ticks, and bounds the kernel memory that a stalled client uses",
    );
    /// The number of threads that connections are divided among.
    SHARDS: usize = Setting::derived(
        1..=SHARDS_MAX,
        "number of cores",
        |_| cores().to_string(),
        "A shard keeps one core busy and shares nothing with the other shards",
    )
    .formerly("GOMAXPROCS");
    /// Whether all shards share the process's file descriptor table or each has its own, which lets
    /// the edge hold more connections than the open-file limit.
    FD_TABLES: FdTables =
        Setting::new((), "shared", "Raising the open-file limit is usually enough");
}

/// Returns the number of cores that this process may use, at most [`SHARDS_MAX`].
fn cores() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(SHARDS_MAX)
}
