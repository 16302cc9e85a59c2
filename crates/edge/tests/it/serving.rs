//! The answers and ticks that a correct client gets.

use tickstorm_testkit::Peer;
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, TestEdge, USER, config, wall_ms};

#[tokio::test]
async fn auth_and_subscribe_get_two_acks_and_then_ticks_on_the_grid() {
    let edge = TestEdge::start(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
    assert_eq!(ack.edge_id, "edge-under-test");
    assert_eq!(
        (ack.heartbeat_interval_ms, ack.heartbeat_timeout_ms),
        (15_000, 20_000)
    );
    assert_eq!(ack.start_epoch_ms % 1_000, 0);
    let mut last = ack.start_epoch_ms;
    for _ in 0..3 {
        let batch = peer.expect_batch().await;
        let now = wall_ms();
        for tick in &batch.ticks {
            assert_eq!(tick.epoch_ms, last + 1_000, "no gap, no duplicate");
            assert!(
                tick.epoch_ms <= now,
                "{} arrived before its time ({now})",
                tick.epoch_ms
            );
            assert!(batch.sent_unix_us >= tick.epoch_ms * 1_000, "{batch:?}");
            last = tick.epoch_ms;
        }
    }
    edge.stop().await;
}
