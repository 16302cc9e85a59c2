//! What strangers can make an edge allocate: memory follows the bytes that arrived, never the length that was claimed. A
//! binary of its own with one test, since its allocator counts everything in the process; the clients are plain sockets, which
//! cost the process no memory.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "../it/support.rs"]
#[expect(dead_code, reason = "made for the other test binary")]
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

const STRANGERS: usize = 1_000;
/// What all of them together may add, connections and all.
const GROWTH_MAX: usize = 2 * 1024 * 1024;
/// What no single allocation may exceed. Arrays that all connections of a shard share stay below it too, with
/// [`STRANGERS`] spread over eight shards.
const ALLOCATION_MAX: usize = 8 * 1024;
const SHARDS: usize = 8;
/// Long enough for all strangers to be there at once.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What strangers do, and what they are refused with in the end.
struct Visit {
    name: &'static str,
    bytes: Vec<u8>,
    code: &'static str,
}

/// By how much the process grew meanwhile, in bytes.
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
    let visits = [
        Visit {
            name: "4 GiB",
            bytes: claim(frame::AUTH, u32::MAX),
            code: "MESSAGE_TOO_LARGE",
        },
        Visit {
            name: "the most before authentication, and a few bytes of it",
            bytes: [&claim(frame::AUTH, 4_096)[..], few].concat(),
            code: "AUTH_TIMEOUT",
        },
        Visit {
            name: "the most after authentication, and a few bytes of it",
            bytes: [
                &peer::auth(USER, PASSWORD)[..],
                &claim(frame::SUBSCRIBE, 65_536),
                few,
            ]
            .concat(),
            code: "HEARTBEAT_TIMEOUT",
        },
    ];
    // So that what is needed once, code that is loaded included, does not count.
    for visit in &visits {
        receive(&edge, SHARDS, visit).await;
    }
    for visit in &visits {
        let growth = receive(&edge, STRANGERS, visit).await;
        let resident = usize::try_from(growth.resident).unwrap();
        assert!(resident <= GROWTH_MAX, "{}: {growth:?}", visit.name);
        assert!(growth.live <= GROWTH_MAX, "{}: {growth:?}", visit.name);
        assert!(
            growth.largest <= ALLOCATION_MAX,
            "{}: {growth:?}",
            visit.name
        );
    }
    edge.stop().await;
}

/// Lets strangers come, all at once, until each has been refused; gives what the process grew by, the peak where it is known.
/// They have left when this returns.
async fn receive(edge: &TestEdge, strangers: usize, visit: &Visit) -> Growth {
    let (addr, bytes, code) = (edge.addr(), visit.bytes.clone(), visit.code);
    let visiting = tokio::task::spawn_blocking(move || {
        let mut streams = Vec::with_capacity(strangers);
        let (resident, live) = (resident_bytes(), ALLOCATOR.live_bytes());
        ALLOCATOR.mark();
        streams.extend((0..strangers).map(|_| connect(addr, &bytes)));
        for stream in &mut streams {
            expect_refusal(stream, code);
        }
        Growth {
            largest: ALLOCATOR.largest_bytes(),
            live: ALLOCATOR.peak_bytes() - live,
            resident: resident_bytes().saturating_sub(resident),
        }
    });
    let growth = visiting.await.unwrap();
    let health = edge.edge.health();
    poll_until_async("all strangers have left", PATIENCE, || {
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

/// Expects ERROR with this code and end of file, and allocates nothing.
fn expect_refusal(stream: &mut TcpStream, code: &str) {
    let mut answer = [0; 1_024];
    let mut len = 0;
    loop {
        match stream.read(&mut answer[len..]).unwrap() {
            0 => break,
            more => len += more,
        }
    }
    let said = answer[..len]
        .windows(code.len())
        .any(|part| part == code.as_bytes());
    assert!(said, "{}", answer[..len].escape_ascii());
}
