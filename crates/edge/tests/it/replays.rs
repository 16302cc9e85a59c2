//! Clients that ask for all the replays that they can get, beside others that must not notice.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tickstorm_edge::Config;
use tickstorm_protocol::message::ErrorMsg;
use tickstorm_testkit::frame::{AUTH, ERROR, SUBSCRIBE};
use tickstorm_testkit::{Peer, PeerOptions};
use tickstorm_timebase::Mode;
use tokio::task::JoinSet;

use crate::support::{PASSWORD, TestEdge, USER, config, wall_ms};
use crate::witness::{Witness, expect_gapless};

/// A resume point so far back that the whole window is replayed.
const FULL: Option<i64> = Some(0);

async fn authenticated(addr: SocketAddr, from: IpAddr) -> Peer {
    let options = PeerOptions {
        from: Some(from),
        ..PeerOptions::default()
    };
    let mut peer = Peer::connect_with(addr, options).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(AUTH).await;
    peer
}

/// Asks for a replay, and checks that all ticks arrive, up to the present.
async fn expect_replay(peer: &mut Peer, resume_after_ms: Option<i64>) {
    let asked = wall_ms();
    peer.subscribe_with(Mode::Second, resume_after_ms, false)
        .await;
    let mut last = peer.expect_ack(SUBSCRIBE).await.start_epoch_ms;
    while last <= asked - 1_000 {
        let batch = peer.expect_batch().await;
        last = expect_gapless(&batch.ticks, last, Mode::Second);
    }
}

/// Asks for full replays until they are refused.
async fn ask_for_all(addr: SocketAddr, from: IpAddr) {
    let mut peer = authenticated(addr, from).await;
    expect_replay(&mut peer, FULL).await;
    // The live ticks of the first subscription precede the next ACK.
    for replays in 1.. {
        peer.subscribe_with(Mode::Second, FULL, false).await;
        let (_, answer) = peer.skip_batches().await;
        if answer.kind == ERROR {
            let error: ErrorMsg = answer.decode();
            assert_eq!(error.code, "RATE_LIMITED", "{error:?}");
            assert!(error.message.contains("replay"), "{error:?}");
            assert!(replays >= 2, "{error:?}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_ask_for_all_replays_cost_the_others_no_tick() {
    const HONEST: usize = 20;
    const GREEDY: u16 = 2_000;
    let edge = TestEdge::start(Config {
        // Greedy clients send no heartbeats.
        heartbeat_timeout: Duration::from_secs(120),
        ..config()
    })
    .await;
    let addr = edge.addr();
    let mut honest = Vec::new();
    for _ in 0..HONEST {
        honest.push(Witness::enter(&edge).await);
    }
    let mut greedy = JoinSet::new();
    for number in 0..GREEDY {
        let [high, low] = number.to_be_bytes();
        greedy.spawn(ask_for_all(addr, Ipv4Addr::new(127, 1, high, low).into()));
    }
    let mut returned = 0_u8;
    while let Some(done) = greedy.join_next().await {
        done.unwrap();
        if greedy.len() % 200 == 0 {
            // A client comes back after a few seconds.
            returned += 1;
            let mut peer = authenticated(addr, Ipv4Addr::new(127, 2, 0, returned).into()).await;
            expect_replay(&mut peer, Some(wall_ms() - 5_000)).await;
            for witness in &mut honest {
                witness.missed_nothing().await;
            }
        }
    }
    for witness in &mut honest {
        witness.missed_nothing().await;
    }
    assert!(edge.metric("tickstorm_connections_closed_total", "slow_consumer") <= 0.0);
    edge.stop().await;
}
