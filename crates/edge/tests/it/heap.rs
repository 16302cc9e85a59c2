//! Memory that connections needed is returned to the system when they need it no longer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_testkit::{CertificateAuthority, frame, peer, poll_until_async, resident_bytes};

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::tls;

const CLIENTS: usize = 2_000;
/// Enough that the memory which an edge needs once, whatever it serves, does not matter.
const HANDSHAKES: usize = 4_000;
/// Handshakes that wait for their client take at least this much each.
const HANDSHAKE_MIN: u64 = 2_048;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_abandoned_handshakes_is_returned() {
    let authority = CertificateAuthority::new();
    let files = tls::Files::new(&authority.issue(tls::NAME), None);
    let edge = TestEdge::start(Config {
        tls: Some(files.files.clone()),
        auth_timeout: Duration::from_secs(60),
        handshakes_max: HANDSHAKES,
        ..config()
    })
    .await;
    let hello = tls::client_hello(&authority);
    let (addr, before) = (edge.addr(), resident_bytes());
    let mut clients = Vec::new();
    for _ in 0..HANDSHAKES {
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(&hello).unwrap();
        clients.push(client);
    }
    let peak_min = before + u64::try_from(HANDSHAKES).unwrap() * HANDSHAKE_MIN;
    poll_until_async("the handshakes hold memory", SOON, || {
        resident_bytes() >= peak_min
    })
    .await;
    // One client stays, above the memory of most others.
    let last = clients.pop();
    drop(clients);
    let after_max = before + (peak_min - before) / 2;
    poll_until_async("memory is returned", SOON, || resident_bytes() <= after_max).await;
    drop(last);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_half_frames_is_returned_while_their_connections_stay() {
    const HALF: usize = 4_000;
    let edge = TestEdge::start(Config {
        heartbeat_timeout: Duration::from_secs(120),
        ..config()
    })
    .await;
    // HEARTBEAT has no field 15.
    let heartbeat = frame::frame(
        frame::HEARTBEAT,
        &[&[0x7A, 0xFD, 0x1F][..], &[7; 4_093]].concat(),
    );
    let (addr, auth) = (edge.addr(), peer::auth(USER, PASSWORD));
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(addr).unwrap();
            client.write_all(&auth).unwrap();
            client
        })
        .collect();
    let health = edge.edge.health();
    poll_until_async("all clients are connected", SOON, || {
        health.status()["connections"] == CLIENTS
    })
    .await;
    let before = resident_bytes();
    for client in &mut clients {
        client.write_all(&heartbeat[..HALF]).unwrap();
    }
    let held = f64::from(u32::try_from(CLIENTS * HALF).unwrap());
    edge.metric_reaches("tickstorm_buffered_bytes", "", held)
        .await;
    let peak = resident_bytes();
    assert!(peak >= before + 3 * u64::try_from(CLIENTS * HALF / 4).unwrap());
    for client in &mut clients {
        client.write_all(&heartbeat[HALF..]).unwrap();
    }
    poll_until_async("the buffers are empty", SOON, || {
        edge.metric("tickstorm_buffered_bytes", "") <= 0.0
    })
    .await;
    let after_max = before + (peak - before) / 4;
    poll_until_async("memory is returned", SOON, || resident_bytes() <= after_max).await;
    // The answer of the last client's ACK and PONG: the connections are open.
    let mut answer = [0; 12];
    clients[CLIENTS - 1].read_exact(&mut answer).unwrap();
    assert_eq!(health.status()["connections"], CLIENTS);
    edge.stop().await;
}
