//! The schedule of a round. Whatever disturbs a measurement must not coincide with it, and the bare
//! loop must have the same history as the tick.
//!
//! Heartbeats in the half second before a fan-out make it some 10 to 20 % more expensive, so there
//! are none: both the tick and the bare loop come after another fan-out and then the same length of
//! silence.

use std::ops::Range;
use std::time::Duration;

use tickstorm_client::Mode;

/// The silence before a release, in milliseconds: as long as the answers to the last heartbeats
/// take.
const QUIET_MS: i64 = 150;

/// When clients of both of two edges that are compared send heartbeats, in milliseconds after the
/// first edge's tick was due.
const HEARTBEATS_BESIDE_MS: Range<i64> = 1_450..1_900;

/// The moments of a round, in milliseconds after its tick was due.
#[derive(Debug)]
pub(super) struct RoundSchedule {
    /// The time from one round to the next.
    pub(super) period_ms: i64,
    /// When CPU time is read again at the latest.
    pub(super) window_ends: i64,
    /// When clients may send heartbeats: before the bare loop, and after it.
    pub(super) heartbeats: [Range<i64>; 2],
    /// When the bare loop sends, if there is one.
    pub(super) bare_at: Option<i64>,
    /// When the bare loop sends once more, which is not measured.
    pub(super) repeat_at: Option<i64>,
    /// When arrivals are counted.
    pub(super) ends: i64,
}

impl RoundSchedule {
    /// Returns the schedule for a mode. In mode SECOND with the bare loop, a round takes two
    /// seconds: a tick that is measured, heartbeats, a tick that is not measured, the bare loop.
    pub(super) fn of(mode: Mode, with_limit: bool) -> Self {
        match (mode, with_limit) {
            (Mode::Second, false) => Self {
                period_ms: 1_000,
                window_ends: 460,
                heartbeats: [480..900, 0..0],
                bare_at: None,
                repeat_at: None,
                ends: 900,
            },
            (Mode::Second, true) => Self {
                period_ms: 2_000,
                window_ends: 460,
                heartbeats: [480..960, 0..0],
                bare_at: Some(1_500),
                repeat_at: None,
                ends: 1_900,
            },
            (Mode::Minute, with_limit) => Self {
                period_ms: 60_000,
                window_ends: 2_000,
                heartbeats: [3_000..27_000, 33_000..57_000],
                bare_at: with_limit.then_some(30_000),
                repeat_at: None,
                ends: 59_000,
            },
        }
    }

    /// Returns the schedule of two edges that are compared in one run, one of which is `behind` the
    /// other by a quarter of a second. A round takes three seconds. In the first, the two edges and
    /// the two bare loops send in turn, each a quarter of a second after the one before. In the
    /// second, there are heartbeats. In the third, all four send in turn without being measured, so
    /// that each measured one follows the same activity.
    pub(super) fn compared(behind: Duration) -> Self {
        let behind_ms = i64::try_from(behind.as_millis()).unwrap_or(0);
        let heartbeats =
            HEARTBEATS_BESIDE_MS.start - behind_ms..HEARTBEATS_BESIDE_MS.end - behind_ms;
        Self {
            period_ms: 3_000,
            window_ends: 240,
            heartbeats: [0..0, heartbeats],
            bare_at: Some(500),
            repeat_at: Some(2_500),
            ends: 2_800,
        }
    }

    /// Makes heartbeats stop before the release of ticks that were sent `lead` ahead: their answers
    /// would occupy CPUs that clients on their own hosts do not share.
    pub(super) fn keep_quiet_before(&mut self, lead: Duration) {
        let lead_ms = i64::try_from(lead.as_millis()).unwrap_or(0);
        let latest = lead_ms.rem_euclid(self.period_ms) - QUIET_MS;
        for heartbeats in &mut self.heartbeats {
            if latest > heartbeats.start {
                heartbeats.end = heartbeats.end.min(latest);
            }
        }
    }

    /// Returns the length of the silence before a round's tick.
    pub(super) fn silence_ms(&self) -> i64 {
        let [before, after] = &self.heartbeats;
        self.period_ms - before.end.max(after.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_end_before_a_release_that_comes_after_their_start() {
        for (lead_ms, end) in [(950, 800), (1_950, 800), (700, 550), (400, 900), (600, 900)] {
            let mut schedule = RoundSchedule::of(Mode::Second, false);
            schedule.keep_quiet_before(Duration::from_millis(lead_ms));
            assert_eq!(schedule.heartbeats[0], 480..end, "{lead_ms}");
        }
    }

    #[test]
    fn compared_edges_and_their_bare_loops_send_in_turn() {
        let mut sends = Vec::new();
        for behind_ms in [0, 250] {
            let schedule = RoundSchedule::compared(Duration::from_millis(behind_ms));
            let behind_ms = i64::try_from(behind_ms).unwrap();
            let [before, after] = &schedule.heartbeats;
            assert!(before.is_empty());
            assert_eq!(after.start + behind_ms, HEARTBEATS_BESIDE_MS.start);
            assert!(schedule.window_ends < 250);
            let bare = [schedule.bare_at, schedule.repeat_at].map(Option::unwrap);
            let all = [0, 1_000, 2_000].iter().chain(&bare);
            sends.extend(all.map(|at| at + behind_ms));
        }
        sends.sort_unstable();
        let measured = [0, 250, 500, 750];
        let repeated = measured.map(|at| at + 2_000);
        assert_eq!(sends, [&measured[..], &[1_000, 1_250], &repeated].concat());
        assert!(sends.iter().all(|at| !HEARTBEATS_BESIDE_MS.contains(at)));
    }

    #[test]
    fn the_tick_and_the_bare_loop_come_after_the_same_silence() {
        for mode in [Mode::Second, Mode::Minute] {
            let RoundSchedule {
                period_ms,
                heartbeats: [before, after],
                bare_at,
                ..
            } = RoundSchedule::of(mode, true);
            let bare_at = bare_at.unwrap();
            let grid = mode.period_ms();
            // The last event before each: a fan-out of the grid, the bare loop, or heartbeats.
            let last_tick = (bare_at - 1).div_euclid(grid) * grid;
            let before_bare = bare_at - before.end.max(last_tick);
            let before_tick = period_ms - after.end.max(bare_at);
            assert_eq!(before_bare, before_tick, "{mode:?}");
        }
    }
}
