//! [`Mover`]: a move to another edge that is planned or under way, while the connection to the old
//! edge is in use. [`Move`] determines when attempts are made.

use std::future::pending;
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};
use tokio::time::sleep;

use super::attempt::{Dialled, Dialling, Subscribing};
use crate::connection::Subscribed;
use crate::error::Error;
use crate::moving::Move;

/// The next step of a move.
pub(super) enum Progress<S> {
    /// The next attempt is due.
    Due,
    /// An attempt is connected, or not.
    Dialled(Result<Dialled<S>, Error>),
    /// An attempt is subscribed, or not.
    Subscribed(Result<Box<Subscribed<S>>, Error>),
}

/// The move away from one connection.
pub(super) struct Mover<S> {
    plan: Option<Move>,
    step: Step<S>,
    /// The index of the address of the last attempt.
    target: Option<usize>,
}

enum Step<S> {
    Waiting,
    Dialling(Dialling<S>),
    Subscribing(Subscribing<S>),
}

impl<S> Default for Mover<S> {
    fn default() -> Self {
        Self {
            plan: None,
            step: Step::Waiting,
            target: None,
        }
    }
}

impl<S> Mover<S> {
    /// Plans a move, or adapts the plan, because the edge closes the connection `within` from now.
    pub(super) fn handle_going_away(&mut self, within: Duration, now: Mono) {
        match &mut self.plan {
            Some(plan) => plan.handle_again(within, now, rand::random()),
            None => self.plan = Some(Move::new(within, now, rand::random())),
        }
    }

    /// Waits for the next step. It is cancel safe. The caller must take the step before it calls
    /// this again.
    pub(super) async fn progress(&mut self, clock: &impl Clock) -> Progress<S> {
        match &mut self.step {
            Step::Dialling(dialling) => Progress::Dialled(dialling.await),
            Step::Subscribing(subscribing) => Progress::Subscribed(subscribing.await),
            Step::Waiting => match self.plan.as_ref().and_then(Move::next_attempt) {
                Some(at) => {
                    sleep(at.since(clock.now())).await;
                    Progress::Due
                }
                None => pending().await,
            },
        }
    }

    pub(super) fn start(&mut self, target: usize, dialling: Dialling<S>) {
        self.target = Some(target);
        self.step = Step::Dialling(dialling);
    }

    pub(super) fn subscribe(&mut self, subscribing: Subscribing<S>) {
        self.step = Step::Subscribing(subscribing);
    }

    /// Drops an attempt whose SUBSCRIBE has been sent, because it was for another mode, and makes
    /// the next one due.
    pub(super) fn subscribe_again(&mut self, now: Mono) {
        if let Step::Subscribing(_) = self.step {
            self.step = Step::Waiting;
            if let Some(plan) = &mut self.plan {
                plan.handle_dropped(now);
            }
        }
    }

    /// Records that an attempt failed, and that the next address may be tried from `rested` on.
    pub(super) fn handle_failure(&mut self, rested: Mono, now: Mono) {
        self.step = Step::Waiting;
        if let Some(plan) = &mut self.plan {
            plan.handle_failure(rested, now, rand::random());
        }
    }

    /// Returns the index of the address of the last attempt.
    pub(super) fn target(&self) -> Option<usize> {
        self.target
    }

    /// Returns whether an attempt is under way.
    pub(super) fn is_under_way(&self) -> bool {
        match self.step {
            Step::Waiting => false,
            Step::Dialling(_) | Step::Subscribing(_) => true,
        }
    }
}
