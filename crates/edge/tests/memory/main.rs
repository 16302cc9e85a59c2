//! Bounds the memory that hostile clients can make an edge allocate: it follows the bytes that
//! arrived, never the length that was claimed. This is a separate binary with a single test, since
//! its allocator counts everything in the process. The clients are plain sockets, which allocate
//! nothing in the process.
#![expect(clippy::unwrap_used, reason = "a test that can't continue has failed")]

#[path = "../it/support.rs"]
#[expect(
    dead_code,
    reason = "shared with another test binary, which uses more of it"
)]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_testkit::{
    CountingAllocator, Forged, PATIENCE, frame, peer, poll_until_async, resident_bytes,
};

use support::{PASSWORD, TestEdge, USER, config};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const CLIENTS: usize = 1_000;
/// The most memory that all clients together may add, including their connections.
const GROWTH_MAX: usize = 2 * 1024 * 1024;
/// The largest allocation allowed. With [`CLIENTS`] spread over eight shards, even the arrays that
/// all connections of a shard share stay below it.
const ALLOCATION_MAX: usize = 8 * 1024;
const SHARDS: usize = 8;
/// Long enough for all clients to be connected at the same time.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The bytes that each client sends, and the code with which the edge finally refuses it.
struct Attack {
    name: &'static str,
    bytes: Vec<u8>,
    code: &'static str,
}

/// The growth of the process during an attack, in bytes.
#[derive(Debug)]
struct Growth {
    resident: u64,
    live: usize,
    largest: usize,
}

#[tokio::test]
async fn memory_follows_the_bytes_that_arrived_and_never_the_length_that_was_claimed() {
    let edge = TestEdge::start_without_clock(Config {
        shards: SHARDS,
        auth_timeout: TIMEOUT,
        heartbeat_timeout: TIMEOUT,
        ..config()
    })
    .await;
    let claim = |kind, len| Forged::new(kind, &[]).claiming(len).header().to_vec();
    let few = b"a few bytes";
    let attacks = [
        Attack {
            name: "4 GiB",
            bytes: claim(frame::AUTH, u32::MAX),
            code: "MESSAGE_TOO_LARGE",
        },
        Attack {
            name: "the largest length before authentication, and a few bytes",
            bytes: [&claim(frame::AUTH, 4_096)[..], few].concat(),
            code: "AUTH_TIMEOUT",
        },
        Attack {
            name: "the largest length after authentication, and a few bytes",
            bytes: [
                &peer::auth(USER, PASSWORD)[..],
                &claim(frame::SUBSCRIBE, 4_096),
                few,
            ]
            .concat(),
            code: "HEARTBEAT_TIMEOUT",
        },
        Attack {
            name: "half of the largest frame that is skipped",
            bytes: [
                &peer::auth(USER, PASSWORD)[..],
                &claim(0x80, 65_536),
                &[7; 32_768],
            ]
            .concat(),
            code: "HEARTBEAT_TIMEOUT",
        },
    ];
    // Warm up first, so that one-time costs such as loading code do not count.
    for attack in &attacks {
        run_attack(&edge, SHARDS, attack).await;
    }
    for attack in &attacks {
        let growth = run_attack(&edge, CLIENTS, attack).await;
        let resident = usize::try_from(growth.resident).unwrap();
        assert!(resident <= GROWTH_MAX, "{}: {growth:?}", attack.name);
        assert!(growth.live <= GROWTH_MAX, "{}: {growth:?}", attack.name);
        assert!(
            growth.largest <= ALLOCATION_MAX,
            "{}: {growth:?}",
            attack.name
        );
    }
    edge.stop().await;
}

/// Runs `attack` with this many clients at the same time until the edge has refused each of them.
/// Returns by how much the process grew, at its peak if that is known. All clients have
/// disconnected when this returns.
async fn run_attack(edge: &TestEdge, clients: usize, attack: &Attack) -> Growth {
    let (addr, bytes, code) = (edge.addr(), attack.bytes.clone(), attack.code);
    let attacking = tokio::task::spawn_blocking(move || {
        let mut streams = Vec::with_capacity(clients);
        let (resident, live) = (resident_bytes(), ALLOCATOR.live_bytes());
        ALLOCATOR.mark();
        streams.extend((0..clients).map(|_| connect(addr, &bytes)));
        for stream in &mut streams {
            expect_refusal(stream, code);
        }
        Growth {
            largest: ALLOCATOR.largest_bytes(),
            live: ALLOCATOR.peak_bytes() - live,
            resident: resident_bytes().saturating_sub(resident),
        }
    });
    let growth = attacking.await.unwrap();
    let health = edge.edge.health();
    poll_until_async("all clients have disconnected", PATIENCE, || {
        health.status()["connections"] == 0
    })
    .await;
    growth
}

fn connect(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Expects an ERROR with this code and then end of file, without allocating.
fn expect_refusal(stream: &mut TcpStream, code: &str) {
    let mut answer = [0; 1_024];
    let mut len = 0;
    loop {
        match stream.read(&mut answer[len..]).unwrap() {
            0 => break,
            more => len += more,
        }
    }
    let has_code = answer[..len]
        .windows(code.len())
        .any(|part| part == code.as_bytes());
    assert!(has_code, "no {code} in {}", answer[..len].escape_ascii());
}
