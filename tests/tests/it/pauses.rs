//! Clients that keep to FRAME_RATE_LIMIT while their edge, or the path to it, stalls: what has
//! piled up by then closes none of them.

use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_testkit::{Peer, PeerOptions, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::support::daemon::{Daemon, PASSWORD, USER};

const CLIENTS: u8 = 20;

/// Sends heartbeats at this interval for `time`, and returns how many.
async fn beat(peer: &mut Peer, every: Duration, time: Duration) -> u32 {
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let count = u32::try_from(time.as_millis() / every.as_millis()).unwrap();
    for beat in 0..count {
        beats.tick().await;
        peer.heartbeat(beat.into()).await;
    }
    count
}

/// Connects from a loopback address of its own and logs in.
async fn log_in(addr: SocketAddr, number: u8) -> Peer {
    let options = PeerOptions {
        from: Some([127, 0, 0, number + 1].into()),
        ..PeerOptions::default()
    };
    let mut peer = Peer::connect_with(addr, options).await;
    peer.auth(USER, PASSWORD).await;
    peer
}

/// The clients send more during the pause than an edge lets them save up.
#[tokio::test]
async fn an_edge_that_was_stopped_closes_no_client_that_kept_to_the_rates() {
    const RATE: u32 = 50;
    const TIMEOUT: Duration = Duration::from_secs(3);
    const STOPPED: Duration = Duration::from_secs(10);
    const ARRIVALS: u32 = 25;
    let every = Duration::from_millis(25);
    let saved_up = TIMEOUT.as_millis() * u128::from(RATE) / 1_000;
    assert!(STOPPED.as_millis() / every.as_millis() > saved_up);
    let mut edge = Daemon::new("tickstorm-edge")
        .with("FRAME_RATE_LIMIT", &RATE.to_string())
        .with("HEARTBEAT_INTERVAL", "1s")
        .with("HEARTBEAT_TIMEOUT", &format!("{}s", TIMEOUT.as_secs()))
        .with("MAX_CONNECT_RATE_PER_IP", "5");
    edge.start().await;
    let addr = edge.clients();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut peer = log_in(addr, number).await;
        peer.expect_ack(frame::AUTH).await;
        clients.spawn(async move {
            let sent = beat(&mut peer, every, STOPPED + 4 * Duration::from_secs(1)).await;
            for _ in 0..sent {
                peer.expect_pong().await;
            }
        });
    }
    edge.pause();
    // All from one address, at a lower rate than it may connect at.
    let mut arrivals = Vec::new();
    for _ in 0..ARRIVALS {
        arrivals.push(log_in(addr, CLIENTS).await);
        sleep(STOPPED / ARRIVALS).await;
    }
    edge.unpause();
    for peer in &mut arrivals {
        peer.expect_ack(frame::AUTH).await;
    }
    clients.join_all().await;
}

/// Forwards connections to `to`. While the path is cut, it passes nothing on to the edge.
async fn forward(listener: TcpListener, to: SocketAddr, is_cut: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        let edge = TcpStream::connect(to).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_edge, mut to_edge) = edge.into_split();
        let mut is_cut = is_cut.clone();
        tokio::spawn(async move { copy(&mut from_edge, &mut to_client).await });
        tokio::spawn(async move {
            let mut bytes = vec![0; 65_536];
            while let Ok(len @ 1..) = from_client.read(&mut bytes).await {
                let _ = is_cut.wait_for(|is_cut| !is_cut).await;
                if to_edge.write_all(&bytes[..len]).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_path_that_is_cut_for_8_s_costs_no_client_at_the_allowed_rate_its_connection() {
    const CUT: Duration = Duration::from_secs(8);
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(forward(listener, edge.clients(), is_cut));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut peer = Peer::connect(addr).await;
        peer.auth(USER, PASSWORD).await;
        peer.expect_ack(frame::AUTH).await;
        clients.spawn(async move {
            let time = CUT + 4 * Duration::from_secs(1);
            let sent = beat(&mut peer, Duration::from_millis(100), time).await;
            for _ in 0..sent {
                peer.expect_pong().await;
            }
        });
    }
    sleep(Duration::from_secs(1)).await;
    cut.send_replace(true);
    sleep(CUT).await;
    cut.send_replace(false);
    clients.join_all().await;
}
