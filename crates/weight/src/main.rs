//! Pieces of the hot path, for `cargo xtask weight`, which measures what each one costs: callgrind
//! counts the instructions, and this program counts the allocations. Work in the kernel is not
//! included.
//!
//! `tickstorm-weight PIECE ROUNDS` runs a piece ROUNDS times and prints the number of allocations.

use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tickstorm_edge::{
    Config, CredentialSource, CredentialSources, FdTables, IpListSources, weight::FanOut,
};
use tickstorm_protocol::frame::{self, Decoder, FrameType, Rules};
use tickstorm_protocol::message::{Auth, Heartbeat, encode_batch};
use tickstorm_protocol::session::server::{Greeting, Limits, ServerSession, Step, pong};
use tickstorm_testkit::CountingAllocator;
use tickstorm_timebase::{
    Authority, Epoch, Mode, Mono, Quality, Reply, Tick, Timekeeper, TimekeeperConfig,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Subscribers in the fan-out; they fit into one chunk.
const SUBSCRIBERS: u32 = 1_000;
/// The interval between the session's heartbeats: five per second, within FRAME_RATE_LIMIT.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [piece, rounds] = arguments.as_slice() else {
        bail!("usage: tickstorm-weight encode|decode|session|fan_out ROUNDS");
    };
    let rounds = rounds.parse().context("ROUNDS must be a whole number")?;
    let allocations = match piece.as_str() {
        "encode" => encode(rounds),
        "decode" => decode(rounds)?,
        "session" => session(rounds)?,
        "fan_out" => fan_out(rounds)?,
        other => bail!("unknown piece {other}: it must be encode, decode, session or fan_out"),
    };
    println!("allocations {allocations}");
    Ok(())
}

/// Runs `round` `rounds` times and returns the number of allocations.
fn repeat(rounds: u32, mut round: impl FnMut()) -> usize {
    let before = ALLOCATOR.requests();
    for _ in 0..rounds {
        round();
    }
    ALLOCATOR.requests() - before
}

/// Encodes a frame with one tick.
fn encode(rounds: u32) -> usize {
    let tick = Tick {
        epoch: Epoch::from_ms(1_800_000_000_000),
        quality: Quality::Normal,
    };
    let mut out = Vec::with_capacity(128);
    repeat(rounds, || {
        out.clear();
        encode_batch(
            Mode::Second,
            black_box(&[tick]),
            1_800_000_000_000_123,
            &mut out,
        );
        black_box(&out);
    })
}

/// Decodes a HEARTBEAT frame from the bytes of a read.
fn decode(rounds: u32) -> anyhow::Result<usize> {
    let bytes = heartbeat();
    let mut decoder = Decoder::default();
    let mut decoded = 0;
    let allocations = repeat(rounds, || {
        let mut input = black_box(bytes.as_slice());
        let frame = decoder.decode(Rules::after_auth(65_536), &mut input);
        decoded += u32::from(black_box(frame).is_ok_and(|frame| frame.is_some()));
    });
    ensure!(decoded == rounds, "{decoded} of {rounds} frames decoded");
    Ok(allocations)
}

/// Passes a HEARTBEAT through a subscriber's session and encodes the PONG.
fn session(rounds: u32) -> anyhow::Result<usize> {
    let limits = Limits {
        auth_timeout: Duration::from_secs(5),
        heartbeat_interval: Duration::from_secs(15),
        heartbeat_timeout: Duration::from_secs(20),
        frame_rate: 10,
        max_msg_size: 65_536,
        edge_id: "edge".to_owned(),
    };
    let mut now = Mono::ZERO;
    let mut out = Vec::with_capacity(128);
    let mut session = ServerSession::new(now);
    let mut auth = Vec::new();
    frame::encode(FrameType::Auth, &Auth::default(), &mut auth);
    let step = session.step(&limits, &mut auth.as_slice(), now);
    ensure!(matches!(step, Step::Auth(_)), "{step:?}");
    session.accept(&limits, &Greeting::default(), now, &mut out);
    let bytes = heartbeat();
    let mut answered = 0;
    let allocations = repeat(rounds, || {
        now = now + HEARTBEAT_INTERVAL;
        out.clear();
        let mut input = black_box(bytes.as_slice());
        if let Step::Heartbeat { client_time_us } = session.step(&limits, &mut input, now) {
            pong(
                client_time_us,
                1_800_000_000_000_123,
                1_800_000_000_000_223,
                250,
                1_000,
                &mut out,
            );
            answered += 1;
        }
        black_box(&out);
    });
    ensure!(
        answered == rounds,
        "{answered} of {rounds} heartbeats answered"
    );
    Ok(allocations)
}

/// Sends a tick to [`SUBSCRIBERS`] subscribers.
fn fan_out(rounds: u32) -> anyhow::Result<usize> {
    // Sends to a UDP socket always succeed, even if nothing is read from it.
    let sink = UdpSocket::bind("127.0.0.1:0")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(sink.local_addr()?)?;
    let (authority, now) = authority()?;
    let mut fan_out = FanOut::new(&config(), authority, now, socket.as_fd(), SUBSCRIBERS)?;
    let allocations = repeat(rounds, || fan_out.step());
    let (sent, expected) = (fan_out.sent(), u64::from(SUBSCRIBERS) * u64::from(rounds));
    ensure!(sent == expected, "{sent} of {expected} frames sent");
    Ok(allocations)
}

fn heartbeat() -> Vec<u8> {
    let message = Heartbeat {
        client_time_us: 1_800_000_000_000_000,
    };
    let mut bytes = Vec::new();
    frame::encode(FrameType::Heartbeat, &message, &mut bytes);
    bytes
}

/// Returns the first valid authority, and the moment at which the time became known.
fn authority() -> anyhow::Result<(Authority, Mono)> {
    // The start is the same in every run, since its position within the second decides which ticks
    // are due immediately.
    let mut now = Mono::ZERO + Duration::from_secs(1_000);
    let mut keeper = Timekeeper::new(time(), now);
    let mut nonces = 1..;
    let clock_id: tickstorm_timebase::ClockId = "clock-0".parse()?;
    loop {
        keeper.poll(now);
        if let Some(nonce) = keeper.poll_request(now, || nonces.next().unwrap_or_default()) {
            let unix_us = i64::try_from(now.as_nanos() / 1_000)? + 1_800_000_000_000_000;
            let reply = Reply {
                nonce,
                clock_id: clock_id.clone(),
                rank: 0,
                received_unix_us: unix_us,
                sent_unix_us: unix_us,
                clock_error_us: 0,
                synchronized: true,
                timeline: 1,
            };
            let outcome = keeper.handle_reply(&reply, now);
            ensure!(
                outcome.is_ok(),
                "the only clock's reply is refused: {outcome:?}"
            );
        }
        if let Some(authority) = keeper.authority() {
            return Ok((authority, now));
        }
        now = keeper.next_deadline();
    }
}

fn time() -> TimekeeperConfig {
    TimekeeperConfig {
        clocks: Vec::new(),
        tolerance: Duration::from_millis(20),
        holdover_max: Duration::from_secs(86_400),
    }
}

/// Returns the default configuration, except that the ring is so short that it is full immediately.
/// Afterwards every step does the same work.
fn config() -> Config {
    let source = |value: &str| {
        Some(CredentialSource {
            value: value.into(),
            file: None,
        })
    };
    Config {
        id: "edge".to_owned(),
        listen_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        balancers: None,
        credentials: CredentialSources {
            user: source("user"),
            password: source("password"),
            ..CredentialSources::default()
        },
        time: time(),
        time_error_max: Duration::from_millis(250),
        ahead: Duration::from_millis(800),
        resume_window: Duration::from_secs(600),
        connections_max: 1_000,
        handshakes_max: 1_000,
        connections_per_ip_max: 0,
        connect_rate_per_ip: 0,
        ip_lists: IpListSources::default(),
        auth_rate_limit: 10,
        auth_timeout: Duration::from_secs(5),
        heartbeat_interval: Duration::from_secs(15),
        heartbeat_timeout: Duration::from_secs(20),
        frame_rate: 10,
        batch_window: Duration::from_millis(5),
        max_msg_size: 65_536,
        buffered_max: 64 * 1024 * 1024,
        queue_frames_max: 2,
        write_deadline: Duration::from_secs(5),
        read_buffer: 65_536,
        write_buffer: 65_536,
        shards: 1,
        fd_tables: FdTables::Shared,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::ZERO,
    }
}
