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

/// Plans a subscription at authority time `time`, where `released` is the last tick of its mode that was released at its time and
/// `released_ahead` the last one of the ahead feed.
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
        None => released,
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
