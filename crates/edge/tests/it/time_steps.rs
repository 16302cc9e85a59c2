//! Clocks that are stepped, fall silent or come back: clients notice nothing, except for what the
//! protocol specifies.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tickstorm_bus::{Bus, ClockEvent, MemoryLink};
use tickstorm_edge::Config;
use tickstorm_protocol::message::DataBatch;
use tickstorm_testkit::frame::{AUTH, SUBSCRIBE};
use tickstorm_testkit::{Peer, Received, poll_until_async};
use tickstorm_timebase::{
    Announcement, Epoch, HostClock, Mode, Reply, SystemHost, TimekeeperConfig, UnixTime,
};
use tokio::task::JoinSet;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

const CLOCKS: [&str; 3] = ["clock-0", "clock-1", "clock-2"];

const NORMAL: i32 = 0;
const HOLDOVER: i32 = 1;
const REPLAY: i32 = 2;

/// Three clocks that always agree.
struct Clocks {
    ahead_ms: Arc<AtomicI64>,
    _tasks: JoinSet<()>,
}

impl Clocks {
    fn start(edge: &TestEdge) -> Self {
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        for id in CLOCKS {
            tasks.spawn(run(id, edge.bus.link(id), Arc::clone(&ahead_ms)));
        }
        Self {
            ahead_ms,
            _tasks: tasks,
        }
    }

    /// Steps all clocks by `by_ms`.
    fn step(&self, by_ms: i64) {
        self.ahead_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Returns the clocks' time.
    fn now_ms(&self) -> i64 {
        time(&self.ahead_ms).as_millis()
    }
}

fn time(ahead_ms: &AtomicI64) -> UnixTime {
    let ahead_ns = ahead_ms.load(Ordering::SeqCst) * 1_000_000;
    UnixTime::from_nanos(SystemHost::new(0).read().unix.as_nanos() + ahead_ns)
}

/// Runs a clock whose timeline changes with each step.
async fn run(id: &'static str, link: MemoryLink, ahead_ms: Arc<AtomicI64>) {
    let mut events = link.clock_events(&id.parse().unwrap());
    let mut announce = tokio::time::interval(Duration::from_millis(300));
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = announce.tick() => {
                let now = time(&ahead_ms);
                // Fails if the clock is not connected, which is expected.
                let _ = link.announce(&Announcement {
                    mode: Mode::Second,
                    epoch: Epoch::from_ms(Mode::Second.last_at(now).as_ms() + 2_000),
                    clock_id: id.parse().unwrap(),
                    rank: 0,
                    sent_unix_us: now.as_micros(),
                    timeline: timeline(&ahead_ms),
                });
                continue;
            }
        };
        match event {
            Some(ClockEvent::Request { nonce, reply_to }) => {
                let now = time(&ahead_ms);
                let _ = link.answer(
                    &reply_to,
                    &Reply {
                        nonce,
                        clock_id: id.parse().unwrap(),
                        rank: 0,
                        received_unix_us: now.as_micros(),
                        sent_unix_us: now.as_micros(),
                        clock_error_us: 1_000,
                        synchronized: true,
                        timeline: timeline(&ahead_ms),
                    },
                );
            }
            Some(_) => {}
            None => return,
        }
    }
}

fn timeline(ahead_ms: &AtomicI64) -> u64 {
    ahead_ms.load(Ordering::SeqCst).unsigned_abs() + 1
}

fn config_with_three_clocks(holdover_max: Duration) -> Config {
    let config = config();
    Config {
        time: TimekeeperConfig {
            clocks: CLOCKS.iter().map(|id| id.parse().unwrap()).collect(),
            holdover_max,
            ..config.time
        },
        // The tests have enough time before a client is closed because the time is lost.
        drain_timeout: Duration::from_secs(600),
        ..config
    }
}

async fn start(holdover_max: Duration) -> (TestEdge, Clocks) {
    let edge = TestEdge::start_without_clock(config_with_three_clocks(holdover_max)).await;
    let clocks = Clocks::start(&edge);
    edge.ready().await;
    (edge, clocks)
}

/// A subscriber to SECOND ticks that checks that they have no gap and that none is early.
struct Follower<'a> {
    peer: Peer,
    last: i64,
    clocks: &'a Clocks,
}

impl<'a> Follower<'a> {
    async fn enter(edge: &TestEdge, clocks: &'a Clocks) -> Self {
        let mut peer = Peer::connect(edge.addr()).await;
        let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
        Self {
            peer,
            last: ack.start_epoch_ms,
            clocks,
        }
    }

    /// Receives and checks the next batch, and returns the quality of each tick.
    async fn next(&mut self) -> Vec<i32> {
        let batch = self.peer.expect_batch().await;
        self.check(&batch)
    }

    fn check(&mut self, batch: &DataBatch) -> Vec<i32> {
        for tick in &batch.ticks {
            assert_eq!(tick.epoch_ms, self.last + 1_000, "{batch:?}");
            self.last = tick.epoch_ms;
        }
        assert!(
            self.last <= self.clocks.now_ms() + 20,
            "{batch:?} before its time"
        );
        batch.ticks.iter().map(|tick| tick.quality).collect()
    }

    /// Receives batches until one has a tick of this quality.
    async fn until(&mut self, quality: i32) {
        while !self.next().await.contains(&quality) {}
    }
}

#[tokio::test]
async fn a_step_back_by_over_ten_seconds_ends_all_subscriptions_and_new_ones_start_over() {
    let (edge, clocks) = start(Duration::from_secs(60)).await;
    let mut followers = Vec::new();
    for _ in 0..4 {
        followers.push(Follower::enter(&edge, &clocks).await);
    }
    let mut bystander = Peer::connect(edge.addr()).await;
    bystander.auth(USER, PASSWORD).await;
    bystander.expect_ack(AUTH).await;
    for follower in &mut followers {
        follower.next().await;
    }
    clocks.step(-30_000);
    for mut follower in followers {
        let (_, frame) = follower.peer.skip_batches().await;
        let error: tickstorm_protocol::message::ErrorMsg = frame.decode();
        assert_eq!(error.code, "TIME_STEPPED");
        assert!((1..=5_000).contains(&error.retry_after_ms), "{error:?}");
        follower.peer.expect_eof().await;
    }
    edge.metric_reaches("tickstorm_connections_closed_total", "time_stepped", 4.0)
        .await;
    let mut restarted = Follower::enter(&edge, &clocks).await;
    let behind = clocks.now_ms() - restarted.last;
    assert!(
        (-20..15_000).contains(&behind),
        "starts {behind} ms behind the clocks"
    );
    restarted.next().await;
    restarted.next().await;
    // A client that was not subscribed is not affected.
    bystander.subscribe(Mode::Second).await;
    bystander.expect_ack(SUBSCRIBE).await;
    edge.stop().await;
}

#[tokio::test]
async fn a_shorter_step_back_neither_loses_nor_repeats_a_tick() {
    let (edge, clocks) = start(Duration::from_secs(60)).await;
    let mut follower = Follower::enter(&edge, &clocks).await;
    follower.next().await;
    clocks.step(-1_500);
    follower.next().await;
    follower.next().await;
    assert!(edge.metric("tickstorm_connections_closed_total", "") <= 0.0);
    edge.stop().await;
}

#[tokio::test]
async fn after_a_step_forward_the_missed_ticks_are_sent_immediately_without_gap() {
    let (edge, clocks) = start(Duration::from_secs(60)).await;
    let mut follower = Follower::enter(&edge, &clocks).await;
    follower.next().await;
    clocks.step(5_000);
    let qualities = loop {
        let qualities = follower.next().await;
        // Two ticks in one batch only mean that the machine stalled for a moment.
        if qualities.len() > 2 {
            break qualities;
        }
    };
    // On a busy machine, the ticks due until the edge notices the step are added. One tick per
    // frame, or missing ticks, would be a defect.
    assert!((4..=15).contains(&qualities.len()), "{qualities:?}");
    assert!(
        qualities[..3].iter().all(|&quality| quality == REPLAY),
        "{qualities:?}"
    );
    follower.until(NORMAL).await;
    edge.stop().await;
}

#[tokio::test]
async fn while_all_clocks_are_silent_ticks_continue_as_holdover_and_then_become_normal_again() {
    /// Far more lateness than a busy machine adds to each of [`TICKS`], and far less than a period.
    const PUNCTUAL_MS: i64 = 500;
    const TICKS: usize = 5;
    let (edge, clocks) = start(Duration::from_secs(60)).await;
    let mut follower = Follower::enter(&edge, &clocks).await;
    follower.until(NORMAL).await;
    edge.bus.cut("edge");
    follower.until(HOLDOVER).await;
    // Only the smallest lateness counts, since a busy machine may delay any of the ticks.
    let mut least_late = i64::MAX;
    for _ in 0..TICKS {
        for quality in follower.next().await {
            assert_eq!(quality, HOLDOVER);
        }
        least_late = least_late.min(clocks.now_ms() - follower.last);
    }
    assert!(
        (-20..PUNCTUAL_MS).contains(&least_late),
        "{least_late} ms late"
    );
    edge.bus.restore("edge");
    follower.until(NORMAL).await;
    edge.stop().await;
}

#[tokio::test]
async fn beyond_the_longest_holdover_ticks_stop_and_none_is_lost() {
    let (edge, clocks) = start(Duration::from_secs(2)).await;
    let mut follower = Follower::enter(&edge, &clocks).await;
    follower.until(NORMAL).await;
    edge.bus.cut("edge");
    let health = edge.edge.health();
    poll_until_async("the time is unknown", SOON, || {
        health.status()["authority"].is_null()
    })
    .await;
    let mut waits = Peer::connect(edge.addr()).await;
    waits.auth(USER, PASSWORD).await;
    waits.expect_ack(AUTH).await;
    waits.heartbeat(7).await;
    let pong = waits.expect_pong().await;
    assert_eq!(
        (
            pong.client_time_us,
            pong.received_unix_us,
            pong.sent_unix_us
        ),
        (7, 0, 0)
    );
    assert_eq!((pong.error_bound_us, pong.clock_error_us), (u32::MAX, 0));
    // Ticks that were released before still arrive. Then nothing must arrive for more than a
    // second.
    let silence = loop {
        match follower.peer.next_frame(Duration::from_millis(1_500)).await {
            Received::Frame(frame) => drop(follower.check(&frame.decode())),
            silence @ (Received::Timeout | Received::Eof { .. } | Received::Reset { .. }) => {
                break silence;
            }
        }
    };
    assert_eq!(silence, Received::Timeout);
    waits.subscribe(Mode::Second).await;
    waits.heartbeat(8).await;
    assert_eq!(waits.expect_pong().await.client_time_us, 8, "no ACK yet");
    let before = follower.last;
    edge.bus.restore("edge");
    let start = waits.expect_ack(SUBSCRIBE).await.start_epoch_ms;
    assert!(
        start > before,
        "a new subscription starts now, not at {before}"
    );
    let missed = follower.next().await;
    // A single tick may have been missed, by less than the second that makes it a REPLAY.
    assert!(missed.len() == 1 || missed[0] == REPLAY, "{missed:?}");
    follower.until(NORMAL).await;
    let mut waited = Follower {
        peer: waits,
        last: start,
        clocks: &clocks,
    };
    while waited.last < follower.last {
        let qualities = waited.next().await;
        assert!(
            !qualities.contains(&REPLAY),
            "a subscription without a resume point gets no REPLAY"
        );
    }
    edge.stop().await;
}
