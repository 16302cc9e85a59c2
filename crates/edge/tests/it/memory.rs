//! Bounds on the memory of all connections together: buffers of unfinished input, and sockets whose
//! clients do not read.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tickstorm_edge::Config;
use tickstorm_testkit::{PATIENCE, Peer, frame, peer, poll_until_async};
use tickstorm_timebase::{Clock, Mode, SystemClock};

use crate::flow::Burst;
use crate::support::{PASSWORD, SOON, TestEdge, USER, config};
use crate::witness::Witness;

const CLOSED: &str = "tickstorm_connections_closed_total";

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_frames_of_many_clients_stay_below_the_bound_and_no_other_client_notices() {
    const CLIENTS: usize = 1_000;
    const HALF: usize = 4_000;
    const BOUND: usize = 1_024 * 1_024;
    let edge = TestEdge::start(Config {
        buffered_max: BOUND,
        ..config()
    })
    .await;
    let mut witness = Witness::enter(&edge).await;
    let bytes = [
        peer::auth(USER, PASSWORD),
        frame::frame(frame::HEARTBEAT, &[7; 4_096])[..HALF].to_vec(),
    ]
    .concat();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(edge.addr()).unwrap();
        client.write_all(&bytes).unwrap();
        clients.push(client);
    }
    let kept = BOUND / HALF;
    edge.metric_reaches(
        "tickstorm_buffer_evictions_total",
        "",
        float(CLIENTS - kept),
    )
    .await;
    let buffered = edge.metric("tickstorm_buffered_bytes", "");
    assert!(buffered <= float(BOUND), "{buffered}");
    // A shard has half of the bound, and the kernel may divide the clients unevenly.
    assert!(buffered >= float(BOUND / 4), "{buffered}");
    let refused = edge.metric(CLOSED, "server_full");
    let evicted = edge.metric("tickstorm_buffer_evictions_total", "");
    assert!((refused - evicted).abs() < 0.5, "{refused} and {evicted}");
    let status = edge.edge.health().status();
    assert_eq!(status["memory"]["alarms"][0]["reason"], "buffers_full");
    assert_eq!(status["memory"]["buffered_limit_bytes"], BOUND);
    witness.missed_nothing().await;
    drop(clients);
    poll_until_async("the buffers are empty", SOON, || {
        edge.metric("tickstorm_buffered_bytes", "") <= 0.0
    })
    .await;
    let mut newcomer = Peer::connect(edge.addr()).await;
    newcomer.enter(USER, PASSWORD, Mode::Second).await;
    edge.stop().await;
}

/// Connects a subscriber to SECOND ticks with a small receive buffer, which never reads.
fn never_reading(addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut client: TcpStream = socket.into();
    let hello = [
        peer::auth(USER, PASSWORD),
        peer::subscribe(Mode::Second, None, false),
    ];
    client.write_all(&hello.concat()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Reads until the connection ends, and returns whether it was reset.
fn is_reset(client: &mut TcpStream) -> bool {
    let mut buffer = vec![0; 65_536];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_fill_their_sockets_are_reset_if_the_kernel_memory_exceeds_its_bound() {
    const CLIENTS: usize = 20;
    let edge = TestEdge::start(Config {
        write_deadline: Duration::from_secs(60),
        heartbeat_timeout: Duration::from_secs(120),
        ..config()
    })
    .await;
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| never_reading(edge.addr())).collect();
    let health = edge.edge.health();
    poll_until_async("all clients are subscribed", SOON, || {
        edge.metric("tickstorm_bytes_sent_total", "") >= float(CLIENTS * 80)
            && health.status()["connections"] == CLIENTS
    })
    .await;
    let mut burst = Burst::new();
    burst.send(&edge.edge, 3_000);
    // The burst is 30 KB for each client.
    edge.metric_reaches("tickstorm_ticks_sent_total", "", float(3_000 * CLIENTS))
        .await;
    let mut reading = Peer::connect(edge.addr()).await;
    reading.enter(USER, PASSWORD, Mode::Minute).await;

    // Half of the memory must go.
    edge.edge.shed(2_000_000, 1_111_111);
    let half = float(CLIENTS / 2);
    edge.metric_reaches("tickstorm_kernel_memory_evictions_total", "", half)
        .await;
    edge.edge.shed(2_000_000, 0);
    edge.metric_reaches(CLOSED, "slow_consumer", float(CLIENTS))
        .await;
    for client in &mut clients {
        assert!(is_reset(client));
    }
    let status = health.status();
    assert_eq!(status["memory"]["alarms"][0]["reason"], "kernel_memory");
    assert!(status["memory"]["kernel_limit_bytes"].as_u64().unwrap() > 0);
    reading.heartbeat(1).await;
    assert_eq!(reading.expect_pong().await.client_time_us, 1);
    edge.metric_reaches("tickstorm_kernel_memory_limit_bytes", "", 1.0)
        .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zero_window_ends_a_client_whose_output_still_fits_into_its_socket() {
    const DEADLINE: Duration = Duration::from_secs(1);
    let edge = TestEdge::start(Config {
        write_deadline: DEADLINE,
        heartbeat_interval: Duration::from_millis(500),
        heartbeat_timeout: Duration::from_secs(3),
        frame_rate: 10_000,
        ..config()
    })
    .await;
    let mut client = never_reading(edge.addr());
    client.set_nonblocking(true).unwrap();
    // The answers fill the client's receive buffer, but not the edge's send buffer.
    let heartbeats: Vec<u8> = (0..400).flat_map(peer::heartbeat).collect();
    let start = SystemClock.now();
    client.write_all(&heartbeats).unwrap();
    poll_until_async("the client is closed", SOON, || {
        // It is not silent meanwhile.
        let _ = client.write(&peer::heartbeat(1));
        edge.metric(CLOSED, "") >= 1.0
    })
    .await;
    let after = SystemClock.now().since(start);
    assert!(edge.metric(CLOSED, "slow_consumer") >= 1.0);
    // TCP_USER_TIMEOUT is the heartbeat timeout, and the kernel's probes are apart.
    assert!(after >= DEADLINE, "{after:?}");
    assert!(after <= DEADLINE + SOON, "{after:?}");
    edge.stop().await;
}
