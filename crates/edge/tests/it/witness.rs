//! [`Witness`]: a correct subscriber, which must not miss a tick whatever other clients do.

use tickstorm_protocol::message::Tick;
use tickstorm_testkit::Peer;
use tickstorm_timebase::Mode;

use crate::support::{PASSWORD, TestEdge, USER, wall_ms};

/// A subscriber to SECOND ticks that remembers the last tick it received.
pub(crate) struct Witness {
    peer: Peer,
    last: i64,
}

impl Witness {
    /// Connects and subscribes.
    pub(crate) async fn enter(edge: &TestEdge) -> Self {
        let mut peer = Peer::connect(edge.addr()).await;
        let ack = peer.enter(USER, PASSWORD, Mode::Second).await;
        Self {
            peer,
            last: ack.start_epoch_ms,
        }
    }

    /// Receives ticks up to the one of the current second or later, and panics if one is missing.
    pub(crate) async fn missed_nothing(&mut self) {
        let until = wall_ms().div_euclid(1_000) * 1_000;
        while self.last < until {
            let batch = self.peer.expect_batch().await;
            self.last = expect_gapless(&batch.ticks, self.last, Mode::Second);
        }
    }
}

/// Checks that `ticks` are the ticks of `mode` that follow `last`, without a gap, and returns the
/// last one.
pub(crate) fn expect_gapless(ticks: &[Tick], last: i64, mode: Mode) -> i64 {
    let number = match mode {
        Mode::Second => 0,
        Mode::Minute => 1,
    };
    let period = mode.period_ms();
    let mut last = last;
    for tick in ticks {
        let next = (last.div_euclid(period) + 1) * period;
        assert_eq!(tick.epoch_ms, next, "no gap, no duplicate after {last}");
        assert_eq!(tick.mode, number, "mode of {tick:?}");
        last = tick.epoch_ms;
    }
    last
}
