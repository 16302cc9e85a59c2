//! The edge's settings: what there is, in sections, and what they must be to each other. What they
//! become, `config` says.

mod checks;
mod not_built;

use std::{net::SocketAddr, num::NonZero, path::PathBuf, thread, time::Duration};

use secrecy::SecretString;
use tickstorm_service::env::{Section, Setting, Span, Text, host_id};

pub use self::not_built::*;
use crate::fd_budget::FdTables;

/// All of them, in the order in which they are printed. A program that takes them names each, so
/// that it can't miss one that is added.
pub const SECTIONS: [Section; 5] = [EDGE, LOGIN, CREDENTIALS, LIMITS, NOT_BUILT];

/// The edge's defaults of settings that are not its own alone.
pub const DEFAULTS: [(&str, &str); 1] = [("ADMIN_ADDR", "127.0.0.1:8081")];

const HOUR_MS: u64 = 3_600_000;

/// The longest that a part of a drain may take: orchestrators lose patience before.
const DRAIN_MS_MAX: u64 = HOUR_MS / 6;

/// The most shards that can be set.
const SHARDS_MAX: usize = 256;

tickstorm_service::settings! {
    /// Settings of where the edge listens, what time it believes, and how it ends; with the checks
    /// of all the edge's settings.
    EDGE, checked by checks::run;
    /// The address that clients connect to.
    LISTEN_ADDR: SocketAddr = Setting::new((), "0.0.0.0:8080", "an edge is there to be reached");
    /// This edge's name.
    EDGE_ID: String = Setting::derived(Text::ID, "host name", |_| host_id(), "unique where hosts are");
    /// The ids of the clocks that may vote, separated by commas. Where it is empty, whoever
    /// answers.
    CLOCKS: Vec<String> = Setting::unset(Text::ID, "one clock alone needs no list");
    /// How far clocks may differ and still agree, and half the longest round trip of a sample.
    CLOCK_TOLERANCE_MS: Duration =
        Setting::new(Span::millis(1, 1_000), "20", "round trips to NATS up to 40 ms, far above disciplined clocks' errors");
    /// The error bound of the time beyond which the edge is not ready.
    TIME_ERROR_MAX_MS: Duration =
        Setting::new(Span::millis(1, 10_000), "250", "late by what people notice; a minute of holdover costs 12 ms");
    /// How early ahead feeds are sent. It stays below the clocks' TICK_LEAD_MS.
    AHEAD_MS: Duration = Setting::new(
        Span::millis(200, 5_000).never_multiple_of(1_000),
        "800",
        "far from the seconds, on which it would fall on the previous tick's own fan-out",
    );
    /// How long the edge goes on without hearing any clock.
    HOLDOVER_MAX: Duration =
        Setting::new(Span::units(1_000, HOUR_MS), "60s", "a NATS server's restart; the error grows by 12 ms in it");
    /// How far back a client can resume.
    RESUME_WINDOW: Duration =
        Setting::new(Span::units(0, HOUR_MS), "600s", "a client's restart or an edge's, with time to notice it");
    /// The time that a balancer has to notice that the edge is no longer ready, before a drain
    /// stops accepting.
    DRAIN_DELAY: Duration =
        Setting::new(Span::units(0, DRAIN_MS_MAX), "5s", "more than most balancers' interval times threshold");
    /// The time over which a drain closes connections. With DRAIN_DELAY it stays under an
    /// orchestrator's grace period.
    DRAIN_TIMEOUT: Duration =
        Setting::new(Span::units(0, DRAIN_MS_MAX), "20s", "with DRAIN_DELAY under an orchestrator's 30 s");
}

tickstorm_service::settings! {
    /// Settings of who may subscribe that an edge and its clients share.
    LOGIN;
    /// The user that clients log in as.
    STREAM_USER: Option<String> =
        Setting::unset(Text::CREDENTIAL, "an edge must not be open by mistake").or_file().formerly("AUTH_USERNAME");
    /// The password of STREAM_USER.
    STREAM_PASS: Option<SecretString> = Setting::unset(Text::CREDENTIAL, "a password known to all is none")
        .secret()
        .or_file()
        .formerly("AUTH_PASSWORD");
}

tickstorm_service::settings! {
    /// Settings of who else may subscribe.
    CREDENTIALS;
    /// A password that is also accepted, while STREAM_PASS is rotated.
    STREAM_PASS_PREVIOUS: Option<SecretString> =
        Setting::unset(Text::CREDENTIAL, "only a rotation needs it").secret().or_file();
    /// The file with clients' tokens: lines of a name and the SHA-256 of its token in hex.
    STREAM_TOKENS_FILE: Option<PathBuf> = Setting::unset((), "one user and password do for one operator");
}

tickstorm_service::settings! {
    /// Settings of what the edge gives each client, and all of them together.
    LIMITS;
    /// The most accepted sockets. Where the limit of open files is lower, it is cut to that limit -
    /// 256, unless FD_TABLES is per-shard.
    MAX_CONNECTIONS: u32 =
        Setting::new(1..=1_000_000, "100000", "what one edge is built for; ten times that passes the files that Linux lets a process open");
    /// The most connections not yet authenticated.
    MAX_HANDSHAKES: u32 =
        Setting::new(1..=1_000_000, "4096", "a reconnecting crowd passes in seconds, a flood stays small");
    /// The time from accept to a complete AUTH.
    AUTH_TIMEOUT_MS: Duration =
        Setting::new(Span::millis(100, 60_000), "5000", "several round trips of the slowest path");
    /// The failed attempts to authenticate that an address has a minute (IPv6: a /64); 0: no limit.
    AUTH_RATE_LIMIT: u32 =
        Setting::new(0..=100_000, "10", "people mistype a few times, guessing takes millions");
    /// How often clients are told to send HEARTBEAT.
    HEARTBEAT_INTERVAL: Duration =
        Setting::new(Span::units(100, HOUR_MS), "15s", "below the idle limits of NATs and balancers")
            .formerly_millis("HEARTBEAT_INTERVAL_MS");
    /// The silence after which a client is closed. It is greater than HEARTBEAT_INTERVAL.
    HEARTBEAT_TIMEOUT: Duration =
        Setting::new(Span::units(200, 2 * HOUR_MS), "20s", "one HEARTBEAT and 5 s for its way")
            .formerly_millis("HEARTBEAT_TIMEOUT_MS");
    /// The frames a second that a client may send, in bursts of twice that.
    FRAME_RATE_LIMIT: u32 =
        Setting::new(1..=10_000, "10", "eight heartbeats 100 ms apart at a client's start fit");
    /// How long a tick may wait for others after one was sent; 0: no batching. The first tick after
    /// a quiet time never waits.
    BATCH_WINDOW_MS: Duration =
        Setting::new(Span::millis(0, 100), "5", "a burst of 10,000 ticks a second makes 200 frames of it");
    /// The longest payload of a frame, in bytes.
    MAX_MSG_SIZE: usize =
        Setting::new(4_096..=65_536, "65536", "the protocol's own limit; 4,096 is what a client may send before AUTH");
    /// The frames that a client may be behind before it is closed as slow.
    MAX_WRITE_QUEUE_SIZE: u32 =
        Setting::new(2..=100_000, "1000", "a quarter of an hour of seconds; 5 s of a burst of batches");
    /// The time without progress after which a client with frames to take is closed as slow.
    WRITE_DEADLINE_MS: Duration =
        Setting::new(Span::millis(100, 60_000), "5000", "a few lost segments in a row are no slow client");
    /// The receive buffer of a socket, in bytes; 0: the kernel's choice.
    TCP_READ_BUFFER_SIZE: usize = Setting::new(
        0..=16_777_216,
        "65536",
        "the largest frame; the kernel's own may grow to megabytes a client",
    );
    /// The send buffer of a socket, in bytes; 0: the kernel's choice, which grows to megabytes for
    /// a client that does not read.
    TCP_WRITE_BUFFER_SIZE: usize = Setting::new(
        0..=16_777_216,
        "65536",
        "an hour of seconds; bounds what a stalled client holds of the kernel's memory",
    );
    /// The threads that connections are divided among.
    SHARDS: usize = Setting::derived(
        1..=SHARDS_MAX,
        "number of cores",
        |_| cores().to_string(),
        "a shard keeps one core busy, and shares nothing with another",
    );
    /// Whether all shards share the process's table of open files, or have one each, which lets the
    /// edge hold more connections than the limit of open files.
    FD_TABLES: FdTables = Setting::new((), "shared", "a higher limit is the usual answer");
}

/// The cores that this process may use.
fn cores() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(SHARDS_MAX)
}
