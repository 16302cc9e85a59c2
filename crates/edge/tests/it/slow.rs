//! Clients that do not read. A client that recovers in time gets every byte exactly once, any other
//! is closed, and the rest of the clients are not affected.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tickstorm_edge::Config;
use tickstorm_protocol::message::{Ack, DataBatch};
use tickstorm_testkit::frame::{ACK, AUTH, SUBSCRIBE};
use tickstorm_testkit::{Peer, PeerOptions, Received, peer};
use tickstorm_timebase::{Clock, Mode, SystemClock};
use tokio::task::JoinSet;

use crate::flow::{Account, Burst, enter};
use crate::support::{PASSWORD, TestEdge, USER, config, wall_ms};

const CLOSED: &str = "tickstorm_connections_closed_total";

/// Returns the configuration of an edge whose sockets are soon full.
fn tight() -> Config {
    Config {
        write_buffer: 4_096,
        batch_window: Duration::from_millis(1),
        frame_rate: 100_000,
        queue_frames_max: 100_000,
        write_deadline: Duration::from_secs(30),
        ..config()
    }
}

#[tokio::test]
async fn a_client_too_many_frames_behind_is_closed_and_no_other_misses_a_tick() {
    let edge = TestEdge::start(Config {
        queue_frames_max: 8,
        ..tight()
    })
    .await;
    let mut burst = Burst::new();
    let mut stalled = edge.narrow_peer().await;
    let mut of_stalled = enter(&mut stalled, &burst).await;
    let mut others = Vec::new();
    for _ in 0..6 {
        let mut peer = edge.narrow_peer().await;
        let account = enter(&mut peer, &burst).await;
        others.push((peer, account));
    }
    // Each burst is one frame, and the next one is sent only when all others have received it.
    for _ in 0..30 {
        burst.send(&edge.edge, 1_000);
        for (peer, account) in &mut others {
            account.follow(peer, burst.last()).await;
        }
    }
    edge.metric_reaches(CLOSED, "slow_consumer", 1.0).await;
    of_stalled.follow_to_end(&mut stalled).await;
    assert!(of_stalled.last < burst.last(), "{of_stalled:?}");
    for (peer, account) in &mut others {
        burst.send(&edge.edge, 1);
        account.follow(peer, burst.last()).await;
    }
    assert!(edge.metric(CLOSED, "") <= 1.0, "only one client is closed");
    edge.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_at_the_write_deadline_and_no_other_misses_a_tick() {
    const DEADLINE: Duration = Duration::from_millis(600);
    // The protocol's 500 ms, and what a busy machine may add. This is far below the deadlines that
    // other tests here wait for.
    const LATE: Duration = Duration::from_millis(500 + 10_000);
    let edge = TestEdge::start(Config {
        write_deadline: DEADLINE,
        ..tight()
    })
    .await;
    let mut burst = Burst::new();
    let mut stalled = edge.narrow_peer().await;
    let mut of_stalled = enter(&mut stalled, &burst).await;
    let mut other = Peer::connect(edge.addr()).await;
    let mut of_other = enter(&mut other, &burst).await;
    let before = SystemClock.now();
    burst.send(&edge.edge, 60_000);
    of_other.follow(&mut other, burst.last()).await;
    let sent = SystemClock.now();
    edge.metric_reaches(CLOSED, "slow_consumer", 1.0).await;
    let closed = SystemClock.now();
    assert!(
        closed.since(before) >= DEADLINE,
        "after {:?}",
        closed.since(before)
    );
    assert!(
        closed.since(sent) <= DEADLINE + LATE,
        "after {:?}",
        closed.since(sent)
    );
    of_stalled.follow_to_end(&mut stalled).await;
    assert!(of_stalled.last < burst.last(), "{of_stalled:?}");
    burst.send(&edge.edge, 1);
    of_other.follow(&mut other, burst.last()).await;
    edge.stop().await;
}

/// Reads in intervals with stalls in between, at random from `seed`, and sends heartbeats before
/// each stall.
async fn stall_and_recover(mut peer: Peer, mut account: Account, last: i64, seed: u64) -> Account {
    const STALL_MAX_MS: u64 = 60;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut asked = 0;
    while account.last < last {
        for _ in 0..rng.random_range(0..4) {
            asked += 1;
            peer.heartbeat(asked).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..STALL_MAX_MS))).await;
        for _ in 0..rng.random_range(1..100) {
            if account.last < last {
                account.record(&peer.expect_frame().await);
            }
        }
    }
    while account.pongs.len() < usize::try_from(asked).unwrap() {
        account.record(&peer.expect_frame().await);
    }
    assert!(
        account.pongs.iter().copied().eq(1..=asked),
        "{:?}",
        account.pongs
    );
    // No bytes are left over, so nothing was sent twice at the end.
    assert_eq!(peer.next_frame(Duration::ZERO).await, Received::Timeout);
    account
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stall_and_recover_get_every_frame_and_every_answer_once() {
    const CLIENTS: u64 = 24;
    const BURSTS: i64 = 300;
    let edge = TestEdge::start(tight()).await;
    let mut burst = Burst::new();
    let mut rng = StdRng::seed_from_u64(7);
    let sizes: Vec<usize> = (0..BURSTS).map(|_| rng.random_range(1..200)).collect();
    let all = i64::try_from(sizes.iter().sum::<usize>()).unwrap();
    let last = burst.first + (all - 1) * 1_000;
    let mut clients = JoinSet::new();
    for seed in 0..CLIENTS {
        let socket = PeerOptions {
            receive_buffer: Some(rng.random_range(2_048..32_768)),
            ..PeerOptions::default()
        };
        let mut peer = Peer::connect_with(edge.addr(), socket).await;
        let account = enter(&mut peer, &burst).await;
        clients.spawn(stall_and_recover(peer, account, last, seed));
    }
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    for size in sizes {
        pace.tick().await;
        burst.send(&edge.edge, size);
    }
    let accounts = clients.join_all().await;
    let sum = |of: fn(&Account) -> usize| accounts.iter().map(of).sum();
    let frames = sum(|account| account.frames);
    edge.counts("tickstorm_messages_sent_total", frames).await;
    edge.counts("tickstorm_publish_latency_ms", frames).await;
    edge.counts("tickstorm_ticks_sent_total", sum(|account| account.ticks))
        .await;
    edge.counts("tickstorm_bytes_sent_total", sum(|account| account.bytes))
        .await;
    assert!(edge.metric(CLOSED, "slow_consumer") <= 0.0);
    edge.stop().await;
}

/// Lets a client with a long backlog subscribe again, with `resume_after_ms` as its resume point.
/// Returns its account after the ACK, and the last tick released before the new SUBSCRIBE.
async fn subscribe_again_in_a_stall(resume_after_ms: Option<i64>) -> (Account, i64) {
    /// More than the sockets hold.
    const BACKLOG: usize = 3_000;
    let edge = TestEdge::start(Config {
        shards: 1,
        // The replay includes the hour that the burst leaps over.
        resume_window: Duration::from_secs(3_600),
        ..tight()
    })
    .await;
    let mut burst = Burst::new();
    let mut stalled = edge.narrow_peer().await;
    let mut before = enter(&mut stalled, &burst).await;
    let mut other = Peer::connect(edge.addr()).await;
    let mut of_other = enter(&mut other, &burst).await;
    burst.send(&edge.edge, BACKLOG);
    of_other.follow(&mut other, burst.last()).await;
    let old = burst.last();
    let again = peer::subscribe(Mode::Second, resume_after_ms, false);
    stalled.send(&again).await;
    // One shard reads both clients, so after two answers it has read the SUBSCRIBE.
    for _ in 0..2 {
        other.heartbeat(1).await;
        other.expect_pong().await;
    }
    burst.send(&edge.edge, 3_000);
    of_other.follow(&mut other, burst.last()).await;
    let ack = loop {
        let frame = stalled.expect_frame().await;
        if frame.kind == ACK {
            break frame.decode::<Ack>();
        }
        before.record(&frame);
    };
    assert_eq!(ack.acked_type, u32::from(SUBSCRIBE));
    assert_eq!(ack.start_epoch_ms, resume_after_ms.unwrap_or(old));
    assert!(before.last < old, "the backlog was not dropped");
    let mut after = Account::new(ack.start_epoch_ms, &burst);
    after.follow(&mut stalled, burst.last()).await;
    edge.stop().await;
    (after, old)
}

#[tokio::test]
async fn a_subscribe_during_a_stall_finishes_the_partial_frame_and_drops_the_backlog() {
    let (after, _) = subscribe_again_in_a_stall(None).await;
    assert_eq!(after.ticks, 3_000);
}

#[tokio::test]
async fn a_subscribe_with_a_resume_point_during_a_stall_gets_the_missing_ticks_as_replay() {
    let resume_after_ms = wall_ms() / 1_000 * 1_000 - 10_000;
    let (after, old) = subscribe_again_in_a_stall(Some(resume_after_ms)).await;
    let replayed = usize::try_from((old - resume_after_ms) / 1_000).unwrap();
    assert_eq!(
        after.ticks,
        replayed + 3_000,
        "the replay includes the leap, since ticks are a function of time"
    );
}

#[tokio::test]
async fn a_replay_larger_than_the_sockets_is_sent_completely_before_new_ticks() {
    let edge = TestEdge::start(Config {
        max_msg_size: 4_096,
        resume_window: Duration::from_secs(3_600),
        shards: 1,
        ..tight()
    })
    .await;
    let mut burst = Burst::new();
    let mut peer = edge.narrow_peer().await;
    let hello = [
        peer::auth(USER, PASSWORD),
        peer::subscribe(Mode::Second, Some(0), false),
    ];
    peer.send(&hello.concat()).await;
    peer.expect_ack(AUTH).await;
    let start = peer.expect_ack(SUBSCRIBE).await.start_epoch_ms;
    // The replay exceeds the socket buffers. Ticks released meanwhile must wait until it is sent.
    burst.send(&edge.edge, 5_000);
    let mut account = Account::new(start, &burst);
    let mut replayed = 0;
    while account.last < burst.last() {
        let frame = peer.expect_frame().await;
        assert!(
            frame.payload.len() <= 4_096,
            "{} bytes",
            frame.payload.len()
        );
        account.record(&frame);
        let batch: DataBatch = frame.decode();
        replayed += batch.ticks.iter().filter(|tick| tick.quality == 2).count();
    }
    assert!(
        (3_590..=3_610).contains(&replayed),
        "{replayed} ticks replayed"
    );
    edge.stop().await;
}

#[tokio::test]
async fn ticks_wait_behind_answers_that_the_socket_has_not_accepted() {
    const HEARTBEATS: i64 = 2_000;
    let edge = TestEdge::start(tight()).await;
    let mut burst = Burst::new();
    let mut peer = edge.narrow_peer().await;
    let mut account = enter(&mut peer, &burst).await;
    let mut other = Peer::connect(edge.addr()).await;
    let mut of_other = enter(&mut other, &burst).await;
    let heartbeats: Vec<u8> = (1..=HEARTBEATS).flat_map(peer::heartbeat).collect();
    peer.send(&heartbeats).await;
    for _ in 0..20 {
        burst.send(&edge.edge, 10);
        of_other.follow(&mut other, burst.last()).await;
    }
    account.follow(&mut peer, burst.last()).await;
    while account.pongs.last() != Some(&HEARTBEATS) {
        account.record(&peer.expect_frame().await);
    }
    assert!(account.pongs.iter().copied().eq(1..=HEARTBEATS));
    edge.stop().await;
}

#[tokio::test]
async fn while_answers_wait_a_connection_is_not_read_and_its_deadline_is_paused() {
    const HEARTBEATS: i64 = 2_000;
    let edge = TestEdge::start(Config {
        heartbeat_interval: Duration::from_millis(200),
        // Long enough for this client to send all heartbeats in time, on a busy machine.
        heartbeat_timeout: Duration::from_millis(1_500),
        ..tight()
    })
    .await;
    let mut peer = edge.narrow_peer().await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_frame().await;
    let heartbeats: Vec<u8> = (1..=HEARTBEATS).flat_map(peer::heartbeat).collect();
    peer.send(&heartbeats).await;
    // Meanwhile silent clients are closed one after the other, which shows that time passes.
    for silent in 1..=3 {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth(USER, PASSWORD).await;
        edge.metric_reaches("tickstorm_heartbeat_timeouts_total", "", f64::from(silent))
            .await;
    }
    let sent = edge.metric("tickstorm_bytes_sent_total", "");
    let first = peer.expect_pong().await;
    assert_eq!(first.client_time_us, 1);
    for n in 2..=HEARTBEATS {
        assert_eq!(
            peer.expect_pong().await.client_time_us,
            n,
            "in order and without loss"
        );
    }
    let all = edge.metric("tickstorm_bytes_sent_total", "");
    assert!(
        sent < all / 2.0,
        "{sent} of {all} bytes were sent: the edge kept reading"
    );
    // Now the edge reads again, and the deadline runs.
    peer.expect_refusal("HEARTBEAT_TIMEOUT").await;
    edge.counts("tickstorm_heartbeat_timeouts_total", 4).await;
    edge.stop().await;
}
