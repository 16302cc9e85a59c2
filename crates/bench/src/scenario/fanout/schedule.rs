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
                ends: 900,
            },
            (Mode::Second, true) => Self {
                period_ms: 2_000,
                window_ends: 460,
                heartbeats: [480..960, 0..0],
                bare_at: Some(1_500),
                ends: 1_900,
            },
            (Mode::Minute, with_limit) => Self {
                period_ms: 60_000,
                window_ends: 2_000,
                heartbeats: [3_000..27_000, 33_000..57_000],
                bare_at: with_limit.then_some(30_000),
                ends: 59_000,
            },
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
