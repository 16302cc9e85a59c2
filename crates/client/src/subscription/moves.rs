//! Moves from one edge to another: what a [`Subscription`] does with each step of its [`Mover`],
//! and what becomes of a move when the old connection ends.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_protocol::code::{ErrorCode, Return};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::mover::{Mover, Progress};
use super::{EventSender, Link, ReaderGone, Subscription, attempt, is_refusal_with};
use crate::alarm_clock::AlarmClock;
use crate::backoff::HINT_MAX;
use crate::connection::{Received, Subscribed};
use crate::dial::Dial;
use crate::error::Error;
use crate::event::Event;
use crate::trail;

/// For how long an attempt that is under way may continue after the old connection has ended. A
/// move takes a few round trips, and an attempt that hangs must not keep the client from others.
const RESCUE_MAX: Duration = Duration::from_secs(2);

/// What a step of a move has led to.
pub(super) enum Outcome {
    /// The new connection is in use.
    Moved,
    /// The old connection is still in use.
    Stayed,
    /// The old connection had ended with this error, and the move was not made.
    Ended(Error),
}

impl<D: Dial, C: AlarmClock> Subscription<D, C> {
    /// Takes the next step of a move, without waiting.
    pub(super) async fn move_on(
        &mut self,
        progress: Progress<D::Socket>,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
    ) -> Outcome {
        let now = self.clock.now();
        match progress {
            Progress::Due => {
                let from = mover.target().unwrap_or(self.addresses.current());
                let (target, from) = self.addresses.after(from, now);
                if from > now {
                    mover.handle_failure(from, now);
                } else {
                    let address = self.options.addresses[target].clone();
                    mover.start(target, self.dial.dial(address, None));
                }
            }
            Progress::Dialled(Ok(dialled)) => {
                let target = mover.target().unwrap_or(self.addresses.current());
                self.addresses
                    .handle_connection(target, dialled.ip_addresses);
                // What this edge learns about the time is kept apart until it is the one in use.
                let apart = watch::Sender::new(self.estimator.borrow().apart());
                let terms = self.terms(self.resume, apart);
                mover.subscribe(attempt::subscribe(dialled.socket, terms));
            }
            Progress::Dialled(Err(error)) => self.handle_failed_move(mover, &error),
            Progress::Subscribed(outcome) => match outcome {
                Ok(subscribed) => return self.switch(*subscribed, link, mover, queue).await,
                Err(error) => self.handle_failed_move(mover, &error),
            },
        }
        Outcome::Stayed
    }

    /// Continues with another edge's connection, unless that would not be a move, or would cost
    /// ticks.
    async fn switch(
        &mut self,
        mut subscribed: Subscribed<D::Socket>,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
    ) -> Outcome {
        let now = self.clock.now();
        let target = mover.target().unwrap_or(self.addresses.current());
        // Ticks that have arrived already need not come again as REPLAY.
        let ended = loop {
            match link.connection.next_arrived().await {
                Ok(Some(Received::Ticks(batch))) => self.take(batch, queue),
                Ok(Some(Received::GoingAway { within })) => mover.handle_going_away(within, now),
                Ok(Some(Received::Subscribed { start })) => {
                    self.handle_mode_accepted(link, mover, start);
                    queue.extend(self.mode_event());
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let loses_ticks = self
            .resume
            .point()
            .is_some_and(|point| subscribed.start > point);
        let is_void = ended.as_ref().is_some_and(voids_resume_point);
        let is_other_mode = subscribed.mode != self.resume.mode();
        let is_same_edge = subscribed.welcome.edge_id == link.edge_id;
        if is_same_edge || loses_ticks || is_void || is_other_mode {
            let (_, from) = self.addresses.after(target, now);
            mover.handle_failure(from, now);
            return ended.map_or(Outcome::Stayed, Outcome::Ended);
        }
        subscribed.connection.share(self.estimator.clone());
        self.addresses.handle_success(target);
        self.addresses.select(target);
        self.resume.handle_start(subscribed.start);
        *link = Link {
            since: link.since,
            ..self.link(subscribed)
        };
        *mover = Mover::default();
        queue.push_back(Event::Moved {
            address: self.address().to_owned(),
            edge_id: link.edge_id.clone(),
            connection_id: link.connection_id.clone(),
        });
        Outcome::Moved
    }

    fn handle_failed_move(&mut self, mover: &mut Mover<D::Socket>, error: &Error) {
        let (current, now) = (self.addresses.current(), self.clock.now());
        let target = mover.target().unwrap_or(current);
        trail::write_failed_move(&self.options.addresses[target], error);
        let mut earliest = now;
        // The hint of SERVER_DRAINING is about where to go, and not about that edge.
        let is_draining = is_refusal_with(error, ErrorCode::ServerDraining);
        if matches!(error.come_back(), Return::Later | Return::Elsewhere) && !is_draining {
            earliest = now + error.retry_after().min(HINT_MAX);
        }
        // The name that is in use leads to different edges. What one of them hinted does not keep
        // the client from coming back to that name when its connection has ended.
        if target != current || !is_refusal_with(error, ErrorCode::NoTime) {
            self.handle_failed_address(target, error);
        }
        // Another edge of the name did not give this hint.
        if self.addresses.has_more_edges(target) {
            earliest = now;
        }
        if target != current {
            self.addresses.rest(target, earliest);
            earliest = now;
        }
        let (_, from) = self.addresses.after(target, now);
        mover.handle_failure(from.max(earliest), now);
    }

    /// If the connection ended with `error` while an attempt to move was under way, waits up to
    /// [`RESCUE_MAX`] for the attempt's outcome. Returns the error if the subscription did not
    /// move.
    pub(super) async fn rescue(
        &mut self,
        error: Error,
        link: &mut Link<D::Socket>,
        mover: &mut Mover<D::Socket>,
        queue: &mut VecDeque<Event>,
        events: &EventSender,
    ) -> Result<Option<Error>, ReaderGone> {
        let give_up = Instant::now() + RESCUE_MAX;
        while !voids_resume_point(&error) && mover.is_under_way() {
            let progress = tokio::select! {
                progress = mover.progress(&*self.clock) => progress,
                () = sleep_until(give_up) => break,
                () = events.closed() => return Err(ReaderGone),
            };
            match self.move_on(progress, link, mover, queue).await {
                Outcome::Moved => return Ok(None),
                Outcome::Stayed => {}
                // The first error says more, unless the other one came with a step of time.
                Outcome::Ended(later) if voids_resume_point(&later) => return Ok(Some(later)),
                Outcome::Ended(_) => break,
            }
        }
        Ok(Some(error))
    }
}

/// Returns whether the resume point of an attempt under way is not valid any more after `error`,
/// as after a step of time.
fn voids_resume_point(error: &Error) -> bool {
    match error.come_back() {
        Return::AtOnceWithoutResume | Return::RetryResumeOnce => true,
        Return::No | Return::AtOnce | Return::Later | Return::Elsewhere => false,
    }
}
