//! What a SUBSCRIBE gets: where its ticks begin, and which of them have to be made up for. Pure arithmetic; the shard sends them.

use std::time::Duration;

use crate::grid::{Epoch, Mode};
use crate::unix::UnixTime;

/// How far ahead of authority time a resume point may lie: an ahead client has ticks of up to 5 s ahead (AHEAD_MS), and the clock
/// it followed may since have been stepped by up to 10 s without TIME_STEPPED.
pub const RESUME_AHEAD_MAX: Duration = Duration::from_secs(15);

/// What a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which ticks.
    pub mode: Mode,
    /// Whether each tick is to be sent ahead of its time.
    pub ahead: bool,
    /// The last tick that the client has, or any other point: it wants what comes after. None: from now on.
    pub resume_after: Option<Epoch>,
}

/// How a subscription begins. `start` ≤ `replay_until` ≤ `ahead_until`, and the feed adds the ticks after `ahead_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `Ack.start_epoch_ms`: the subscription's ticks are those after it.
    pub start: Epoch,
    /// Ticks after `start` up to and including this come first, as REPLAY.
    pub replay_until: Epoch,
    /// Then those up to and including this, with their own quality ([`crate::Authority::quality`]).
    pub ahead_until: Epoch,
}

/// The resume point lies more than [`RESUME_AHEAD_MAX`] ahead of authority time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the resume point lies more than 15 s ahead of authority time")]
pub struct ResumeTooFar;

/// Plans a subscription at authority time `time`, when the feed of its mode has sent the ticks up to `released`, and the ahead
/// feed those up to `released_ahead`.
///
/// # Errors
/// The resume point is too far ahead.
pub fn plan(
    request: &Request,
    time: UnixTime,
    released: Epoch,
    released_ahead: Option<Epoch>,
    resume_window: Duration,
) -> Result<Plan, ResumeTooFar> {
    let start = match request.resume_after {
        // Now, though the feed may have yet to send what became due while the edge stood still or heard no clock. A feed that
        // is further than authority time, which has gone back a little, goes on from where it is.
        None => released.max(request.mode.last_at(time)),
        Some(point) if point.time() > time.saturating_add(RESUME_AHEAD_MAX) => {
            return Err(ResumeTooFar);
        }
        Some(point) => {
            // What the feed has yet to release must not be skipped, however small the window.
            let window_edge = request
                .mode
                .last_at(time.saturating_sub(resume_window))
                .min(released);
            point.max(window_edge)
        }
    };
    let replay_until = start.max(released);
    let ahead_until = match released_ahead {
        Some(released_ahead) if request.ahead => replay_until.max(released_ahead),
        Some(_) | None => replay_until,
    };
    Ok(Plan {
        start,
        replay_until,
        ahead_until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume(
        point_ms: i64,
        time_ms: i64,
        released_ms: i64,
        window_s: u64,
    ) -> Result<Plan, ResumeTooFar> {
        let resume_after = Some(Epoch::from_ms(point_ms));
        let request = Request {
            mode: Mode::Second,
            ahead: false,
            resume_after,
        };
        let time = Epoch::from_ms(time_ms).time();
        plan(
            &request,
            time,
            Epoch::from_ms(released_ms),
            None,
            Duration::from_secs(window_s),
        )
    }

    #[test]
    fn a_resume_point_may_lie_15_s_ahead_and_no_more() {
        assert_eq!(
            resume(115_400, 100_400, 100_000, 600).unwrap().start,
            Epoch::from_ms(115_400)
        );
        assert_eq!(resume(115_401, 100_400, 100_000, 600), Err(ResumeTooFar));
        assert_eq!(resume(i64::MAX, 100_400, 100_000, 600), Err(ResumeTooFar));
    }

    #[test]
    fn the_least_resume_point_starts_at_the_window() {
        let plan = resume(i64::MIN, 1_000_400, 1_000_000, 600).unwrap();
        assert_eq!(plan.start, Epoch::from_ms(400_000));
        assert_eq!(plan.replay_until, Epoch::from_ms(1_000_000));
    }

    #[test]
    fn a_window_of_nothing_skips_no_tick_that_is_still_to_come() {
        // The tick at 100 s is due and not released yet: the feed will add it.
        let plan = resume(90_000, 100_001, 99_000, 0).unwrap();
        assert_eq!(plan.start, Epoch::from_ms(99_000));
        assert_eq!(plan.ahead_until, Epoch::from_ms(99_000));
    }

    #[test]
    fn without_a_resume_point_it_starts_now_whatever_the_feed_has_yet_to_send() {
        let start = |ahead, released_s: i64, released_ahead_s: Option<i64>| {
            let request = Request {
                mode: Mode::Second,
                ahead,
                resume_after: None,
            };
            let time = Epoch::from_ms(100_400).time();
            let epoch = |second| Epoch::from_ms(second * 1_000);
            let window = Duration::from_secs(600);
            plan(
                &request,
                time,
                epoch(released_s),
                released_ahead_s.map(epoch),
                window,
            )
            .unwrap()
        };
        let now = |until| Plan {
            start: Epoch::from_ms(100_000),
            replay_until: Epoch::from_ms(100_000),
            ahead_until: Epoch::from_ms(until),
        };
        assert_eq!(start(false, 100, None), now(100_000));
        assert_eq!(start(false, 86, None), now(100_000), "it stood still");
        assert_eq!(start(true, 86, Some(87)), now(100_000));
        assert_eq!(start(true, 86, Some(101)), now(101_000));
        let back = start(false, 105, None);
        assert_eq!(back.start, Epoch::from_ms(105_000), "a small step back");
    }

    #[test]
    fn an_ahead_client_gets_nothing_ahead_twice() {
        let request = |resume_after| Request {
            mode: Mode::Second,
            ahead: true,
            resume_after,
        };
        let plan_after = |resume_after: Option<i64>| {
            let request = request(resume_after.map(Epoch::from_ms));
            let (released, ahead) = (Epoch::from_ms(100_000), Some(Epoch::from_ms(101_000)));
            plan(
                &request,
                Epoch::from_ms(100_400).time(),
                released,
                ahead,
                Duration::ZERO,
            )
        };
        let at = |start, replay, ahead| {
            Ok(Plan {
                start: Epoch::from_ms(start),
                replay_until: Epoch::from_ms(replay),
                ahead_until: Epoch::from_ms(ahead),
            })
        };
        assert_eq!(plan_after(None), at(100_000, 100_000, 101_000));
        assert_eq!(plan_after(Some(100_500)), at(100_500, 100_500, 101_000));
        assert_eq!(plan_after(Some(102_000)), at(102_000, 102_000, 102_000));
    }
}
