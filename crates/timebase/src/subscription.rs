//! The ticks that answer a SUBSCRIBE: which is the first, and which must be sent before the feed
//! takes over. This is pure arithmetic; the shard sends the ticks.

use std::time::Duration;

use crate::grid::{Epoch, Mode};
use crate::unix::UnixTime;

/// The maximum lead of a resume point over authority time: an ahead client may have received ticks
/// up to 5 s ahead of their time (AHEAD_MS), and the clock that the edge followed may since have
/// been stepped back by up to 10 s without TIME_STEPPED.
pub const RESUME_AHEAD_MAX: Duration = Duration::from_secs(15);

/// A client's subscription request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The mode of the ticks.
    pub mode: Mode,
    /// Whether each tick is sent ahead of its time.
    pub ahead: bool,
    /// The last tick that the client has, or any other point: it wants the ticks after it. `None`
    /// starts the subscription now.
    pub resume_after: Option<Epoch>,
}

/// The start of a subscription. `start` ≤ `replay_until` ≤ `ahead_until`, and the feed sends the
/// ticks after `ahead_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `Ack.start_epoch_ms`. The subscription consists of the ticks after it.
    pub start: Epoch,
    /// The last tick to be sent as REPLAY. Ticks after `start` up to and including this one come
    /// first.
    pub replay_until: Epoch,
    /// The last tick to be sent ahead of the feed. Ticks after `replay_until` up to and including
    /// this one come next, with their own quality ([`crate::Authority::quality`]).
    pub ahead_until: Epoch,
}

/// The error for a resume point more than [`RESUME_AHEAD_MAX`] ahead of authority time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the resume point is more than 15 s ahead of authority time")]
pub struct ResumeTooFar;

/// Plans a subscription at authority time `time`, given that its mode's feed has sent the ticks up
/// to `released`, and the ahead feed those up to `released_ahead`.
///
/// # Errors
/// Returns [`ResumeTooFar`] if the resume point is more than [`RESUME_AHEAD_MAX`] ahead of `time`.
pub fn plan(
    request: &Request,
    time: UnixTime,
    released: Epoch,
    released_ahead: Option<Epoch>,
    resume_window: Duration,
) -> Result<Plan, ResumeTooFar> {
    let start = match request.resume_after {
        // Start now, even if the feed has yet to send ticks that became due while the edge stalled
        // or heard no clock. If authority time has gone back a little, so that the feed is ahead of
        // it, start at the feed's position.
        None => released.max(request.mode.last_at(time)),
        Some(point) if point.time() > time.saturating_add(RESUME_AHEAD_MAX) => {
            return Err(ResumeTooFar);
        }
        Some(point) => {
            // Ticks that the feed has yet to release must not be skipped, however small the window.
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
    fn a_resume_point_may_be_15_s_ahead_but_no_more() {
        assert_eq!(
            resume(115_400, 100_400, 100_000, 600).unwrap().start,
            Epoch::from_ms(115_400)
        );
        assert_eq!(resume(115_401, 100_400, 100_000, 600), Err(ResumeTooFar));
        assert_eq!(resume(i64::MAX, 100_400, 100_000, 600), Err(ResumeTooFar));
    }

    #[test]
    fn the_earliest_resume_point_starts_at_the_window() {
        let plan = resume(i64::MIN, 1_000_400, 1_000_000, 600).unwrap();
        assert_eq!(plan.start, Epoch::from_ms(400_000));
        assert_eq!(plan.replay_until, Epoch::from_ms(1_000_000));
    }

    #[test]
    fn a_zero_window_skips_no_tick_that_is_yet_to_be_released() {
        // The tick at 100 s is due but not released yet: the feed will send it.
        let plan = resume(90_000, 100_001, 99_000, 0).unwrap();
        assert_eq!(plan.start, Epoch::from_ms(99_000));
        assert_eq!(plan.ahead_until, Epoch::from_ms(99_000));
    }

    #[test]
    fn a_subscription_without_resume_point_starts_now_even_if_the_feed_lags() {
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
        assert_eq!(start(false, 86, None), now(100_000), "the edge stalled");
        assert_eq!(start(true, 86, Some(87)), now(100_000));
        assert_eq!(start(true, 86, Some(101)), now(101_000));
        let back = start(false, 105, None);
        assert_eq!(
            back.start,
            Epoch::from_ms(105_000),
            "authority time stepped back a little"
        );
    }

    #[test]
    fn an_ahead_client_gets_no_ahead_tick_twice() {
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
