//! [`Pace`]: whether a client sends often enough, and not too often, on one connection.

use std::time::Duration;

use tickstorm_timebase::Mono;

use super::rule::{Fault, Rule};

/// What the ACKs say: short, so that a scenario of some seconds shows whether a client obeys.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(4);
pub(super) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(8);
pub(super) const FRAME_RATE: u32 = 10;
/// How often a client asks an edge that does not know the time.
const TIMELESS_INTERVAL: Duration = Duration::from_secs(1);
/// The frames as which a SUBSCRIBE counts.
pub(super) const SUBSCRIBE_COST: u32 = 10;

/// The pace of one connection, since the ACK of AUTH.
#[derive(Debug)]
pub(super) struct Pace {
    /// The last sign of life.
    last_sign: Mono,
    last_heartbeat: Mono,
    /// Since when the last PONG has carried no time.
    timeless_since: Option<Mono>,
    /// The time at which all saved frames are available again, as in GCRA.
    full_at: Mono,
    last_t1_us: i64,
    is_late_reported: bool,
    is_timeless_reported: bool,
}

/// The connection has exceeded a limit and must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    FrameRate,
    HeartbeatTimeout,
}

impl Pace {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            last_sign: now,
            last_heartbeat: now,
            timeless_since: None,
            full_at: now,
            last_t1_us: 0,
            is_late_reported: false,
            is_timeless_reported: false,
        }
    }

    /// Records a frame that counts as `cost` frames.
    pub(super) fn handle_frame(&mut self, cost: u32, now: Mono) -> Result<(), Exceeded> {
        let per_frame = Duration::from_secs(1) / FRAME_RATE;
        self.full_at = self.full_at.max(now) + per_frame * cost;
        if self.full_at.since(now) > HEARTBEAT_TIMEOUT {
            return Err(Exceeded::FrameRate);
        }
        Ok(())
    }

    /// Records a SUBSCRIBE or HEARTBEAT.
    pub(super) fn handle_sign_of_life(&mut self, now: Mono) {
        self.last_sign = now;
        self.is_late_reported = false;
    }

    /// Records a HEARTBEAT, with the client's time if it has one, and whether the PONG carries the
    /// time.
    pub(super) fn handle_heartbeat(
        &mut self,
        t1_us: i64,
        has_time: bool,
        now: Mono,
    ) -> Option<Fault> {
        self.last_heartbeat = now;
        self.is_timeless_reported = false;
        self.timeless_since = (!has_time).then_some(now);
        let last_us = self.last_t1_us;
        if t1_us != 0 {
            self.last_t1_us = t1_us;
        }
        (t1_us != 0 && t1_us < last_us).then(|| {
            let text = format!(
                "client_time_us went back from {last_us} to {t1_us}: take it from a monotonic clock"
            );
            Fault::new(Rule::AuthorityTime, text)
        })
    }

    /// Returns a fault if a HEARTBEAT is overdue by more than `slack`.
    pub(super) fn poll(&mut self, slack: Duration, now: Mono) -> Option<Fault> {
        let silence = now.since(self.last_sign);
        if silence > HEARTBEAT_INTERVAL + slack && !self.is_late_reported {
            self.is_late_reported = true;
            let text = format!(
                "no HEARTBEAT for {:.1} s, although heartbeat_interval_ms is {}",
                silence.as_secs_f64(),
                HEARTBEAT_INTERVAL.as_millis()
            );
            return Some(Fault::new(Rule::Heartbeats, text));
        }
        let silence = now.since(self.last_heartbeat.max(self.timeless_since?));
        if silence > TIMELESS_INTERVAL + slack && !self.is_timeless_reported {
            self.is_timeless_reported = true;
            let text = format!(
                "no HEARTBEAT for {:.1} s, although the last PONG carried no time: send one per \
                 second until a PONG does",
                silence.as_secs_f64()
            );
            return Some(Fault::new(Rule::AuthorityTime, text));
        }
        None
    }

    /// Returns whether the silence has lasted for the heartbeat timeout.
    pub(super) fn timed_out(&self, now: Mono) -> bool {
        now.since(self.last_sign) >= HEARTBEAT_TIMEOUT
    }

    /// Returns when [`Pace::poll`] or [`Pace::timed_out`] may next have another result.
    pub(super) fn next_change(&self, slack: Duration, now: Mono) -> Mono {
        let timeless = self.timeless_since.map_or(Mono::NEVER, |since| {
            self.last_heartbeat.max(since) + TIMELESS_INTERVAL + slack
        });
        [
            self.last_sign + HEARTBEAT_INTERVAL + slack,
            self.last_sign + HEARTBEAT_TIMEOUT,
            timeless,
        ]
        .into_iter()
        .map(|at| at + Duration::from_millis(1))
        .filter(|&at| at > now)
        .min()
        .unwrap_or(Mono::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_nanos(1_000_000_000_000);
    const SLACK: Duration = Duration::from_millis(500);

    fn after(ms: u64) -> Mono {
        NOW + Duration::from_millis(ms)
    }

    #[test]
    fn a_late_heartbeat_is_one_fault_and_a_longer_silence_ends_the_connection() {
        let mut pace = Pace::new(NOW);
        assert_eq!(pace.poll(SLACK, after(4_500)), None);
        let fault = pace.poll(SLACK, after(4_600)).unwrap();
        assert_eq!(fault.rule, Rule::Heartbeats);
        assert_eq!(pace.poll(SLACK, after(7_000)), None);
        assert!(!pace.timed_out(after(7_999)) && pace.timed_out(after(8_000)));
        pace.handle_sign_of_life(after(7_999));
        assert!(!pace.timed_out(after(8_000)));
        assert!(pace.poll(SLACK, after(12_600)).is_some());
    }

    #[test]
    fn an_edge_without_the_time_is_asked_each_second() {
        let mut pace = Pace::new(NOW);
        assert_eq!(pace.handle_heartbeat(0, false, after(100)), None);
        assert_eq!(pace.poll(SLACK, after(1_600)), None);
        let fault = pace.poll(SLACK, after(1_601)).unwrap();
        assert_eq!(fault.rule, Rule::AuthorityTime);
        pace.handle_heartbeat(0, true, after(1_700));
        assert_eq!(pace.poll(SLACK, after(4_000)), None);
    }

    #[test]
    fn a_burst_of_eighty_frames_is_accepted_and_ten_per_second_after_it() {
        let mut pace = Pace::new(NOW);
        pace.handle_frame(SUBSCRIBE_COST, NOW).unwrap();
        for _ in 0..70 {
            pace.handle_frame(1, NOW).unwrap();
        }
        for tenth in 1..50 {
            pace.handle_frame(1, after(tenth * 100)).unwrap();
        }
        assert_eq!(pace.handle_frame(1, after(4_900)), Err(Exceeded::FrameRate));
    }

    #[test]
    fn the_time_of_a_client_does_not_go_back() {
        let mut pace = Pace::new(NOW);
        assert_eq!(pace.handle_heartbeat(7, true, NOW), None);
        assert_eq!(pace.handle_heartbeat(0, true, NOW), None);
        let fault = pace.handle_heartbeat(6, true, NOW).unwrap();
        assert_eq!(fault.rule, Rule::AuthorityTime);
    }
}
