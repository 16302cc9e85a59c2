//! [`NoTimeWatch`]: the alarm of an edge that sends its clients away because it does not know the
//! time. The shards do so by themselves; this only tells operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::IntGauge;
use tickstorm_timebase::Authority;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::shard::SUBSCRIBE_TIME_MAX;

/// An alarm of the time that concerns the edge itself rather than its clocks.
pub(crate) struct EdgeAlarm {
    /// The value of the label `reason` of `tickstorm_time_alarm`.
    pub(crate) label: &'static str,
    /// The sentence in /status.
    pub(crate) message: &'static str,
    /// What to do about it, also in /status.
    pub(crate) action: &'static str,
}

/// The edge does not know the time, and its clients must go elsewhere.
pub(crate) const NO_TIME: EdgeAlarm = EdgeAlarm {
    label: "no_time",
    message: "The edge does not know the time, so it sends subscribers to other edges with \
        NO_TIME.",
    action: "See which clocks are silent, and look for NATS in the log of the edge.",
};

/// Watches whether the time is known.
pub(crate) struct NoTimeWatch {
    authority: watch::Receiver<Option<Authority>>,
    gauge: IntGauge,
    is_raised: Arc<AtomicBool>,
}

impl NoTimeWatch {
    pub(crate) fn new(authority: watch::Receiver<Option<Authority>>, gauge: IntGauge) -> Self {
        Self {
            authority,
            gauge,
            is_raised: Arc::default(),
        }
    }

    /// Returns whether the alarm is raised, now and later.
    pub(crate) fn is_raised(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_raised)
    }

    /// Raises and clears the alarm until the authority's sender is dropped. After the start, the
    /// edge has as long as any SUBSCRIBE to learn the time. The loss of the time is logged where it
    /// is noticed.
    pub(crate) async fn run(mut self) {
        let learnt = self.authority.wait_for(Option::is_some);
        let is_learnt = timeout(SUBSCRIBE_TIME_MAX, learnt).await.is_ok();
        if !is_learnt {
            tracing::warn!(
                "the time is not known {SUBSCRIBE_TIME_MAX:?} after the start: until a clock is \
                 accepted, clients that subscribe are sent to other edges with NO_TIME"
            );
            self.set(true);
        }
        loop {
            if self.authority.wait_for(Option::is_some).await.is_err() {
                return;
            }
            self.set(false);
            if self.authority.wait_for(Option::is_none).await.is_err() {
                return;
            }
            self.set(true);
        }
    }

    fn set(&self, is_raised: bool) {
        self.is_raised.store(is_raised, Ordering::Relaxed);
        self.gauge.set(i64::from(is_raised));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::tests::TestTime;

    #[tokio::test(start_paused = true)]
    async fn the_alarm_is_raised_5_s_after_a_start_without_time_and_at_once_when_time_is_lost() {
        let (known, _) = TestTime::new().run_until(|_| true);
        let (sender, authority) = watch::channel(None);
        let gauge = IntGauge::new("a", "A.").unwrap();
        let watch = NoTimeWatch::new(authority, gauge.clone());
        let is_raised = watch.is_raised();
        let raised = || (is_raised.load(Ordering::Relaxed), gauge.get());
        let watching = tokio::spawn(watch.run());
        let pass = |ms| tokio::time::sleep(Duration::from_millis(ms));
        pass(4_900).await;
        assert_eq!(raised(), (false, 0));
        pass(200).await;
        assert_eq!(raised(), (true, 1));
        for _ in 0..2 {
            sender.send_replace(Some(known));
            pass(1).await;
            assert_eq!(raised(), (false, 0));
            pass(60_000).await;
            sender.send_replace(None);
            pass(1).await;
            assert_eq!(raised(), (true, 1));
        }
        drop(sender);
        watching.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_learns_the_time_soon_after_its_start_raises_no_alarm() {
        let (known, _) = TestTime::new().run_until(|_| true);
        let (sender, authority) = watch::channel(None);
        let gauge = IntGauge::new("a", "A.").unwrap();
        let watch = NoTimeWatch::new(authority, gauge.clone());
        tokio::spawn(watch.run());
        tokio::time::sleep(Duration::from_secs(2)).await;
        sender.send_replace(Some(known));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(gauge.get(), 0);
    }
}
