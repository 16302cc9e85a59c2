//! [`Departures`]: the clients that the edge sends away: because it drains, because an operator
//! moves them, or because it has lost the time. Clients are told or closed one at a time, and ticks
//! go first: nobody is sent away while a tick is being sent or almost due.

use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

use super::connections::Connections;
use super::drain::Drain;
use super::driver::Driver;
use super::moves::{MoveAnswer, Moves, RebalanceOrder};
use super::time::Moment;
use super::time_loss::TimeLoss;
use super::turn::Shard;
use crate::sys::network::Network;

/// The time before a tick in which nobody is sent away. Telling or closing one client takes less
/// than 0.1 ms.
const MARGIN: Duration = Duration::from_micros(500);
/// The longest time for which clients that must be told or closed wait for a fan-out. A drain of an
/// edge that sends without a pause would otherwise not end in time.
const PATIENCE: Duration = Duration::from_millis(500);

/// The departures in progress.
#[derive(Default)]
pub(super) struct Departures {
    drain: Option<Drain>,
    moves: Moves,
    time_loss: Option<TimeLoss>,
}

impl Departures {
    /// Starts a drain, which replaces everything else: it sends all clients away.
    pub(super) fn drain(&mut self, drain: Drain) {
        *self = Self {
            drain: Some(drain),
            ..Self::default()
        };
    }

    /// Notes whether the edge has lost the time that it knew. If so, its subscribers are closed
    /// over `over`, unless it drains.
    pub(super) fn set_time_lost(&mut self, is_lost: bool, over: Duration, at: Moment) {
        if !is_lost {
            self.time_loss = None;
        } else if self.time_loss.is_none() && self.drain.is_none() {
            self.time_loss = Some(TimeLoss::new(over, at));
        }
    }

    /// Tells one client, with this key, that its connection will be closed `within` this time.
    pub(super) fn move_one<N: Network>(
        &mut self,
        key: super::key::Key,
        within: Duration,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> MoveAnswer {
        if self.drain.is_some() {
            return MoveAnswer::Draining;
        }
        self.moves.move_one(key, within, connections, driver, at)
    }

    /// Starts to move a share of the clients. A shard that drains does not answer.
    pub(super) fn rebalance(&mut self, order: RebalanceOrder, at: Moment) {
        if self.drain.is_none() {
            self.moves.rebalance(order, at);
        }
    }

    /// Returns when the next step is due.
    fn due(&self) -> Mono {
        let drain = self.drain.as_ref().map_or(Mono::NEVER, Drain::due);
        let time_loss = self.time_loss.as_ref().map_or(Mono::NEVER, TimeLoss::due);
        drain.min(time_loss).min(self.moves.due())
    }

    /// Takes the step that is due first.
    fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        let due = self.due();
        if let Some(drain) = &mut self.drain
            && drain.due() == due
        {
            drain.step(connections, driver, at);
        } else if let Some(loss) = &mut self.time_loss
            && loss.due() == due
        {
            loss.step(connections, driver, at);
        } else {
            self.moves.step(connections, driver, at);
        }
    }
}

impl<N: Network, C: Clock> Shard<N, C> {
    /// Returns when the next client is sent away, at `mono` or later: not during a fan-out, unless
    /// that takes too long. [`Mono::NEVER`] if a tick comes first.
    pub(super) fn departures_due(&self, mono: Mono) -> Mono {
        let due = self.waiting.departures.due();
        let waited = match self.sending.busy_since {
            Some(_) => due + PATIENCE,
            None => due,
        };
        let due = mono.max(waited);
        if due + MARGIN < self.due.next_tick() {
            due
        } else {
            Mono::NEVER
        }
    }

    /// Takes the next steps of the departures in progress.
    pub(super) fn send_away(&mut self, until: Mono) {
        loop {
            let at = self.time.read_clock();
            if at.mono < self.departures_due(at.mono) {
                return;
            }
            let departures = &mut self.waiting.departures;
            departures.step(&mut self.connections, &mut self.driver, at);
            if at.mono >= until {
                return;
            }
        }
    }

    /// Looks whether the edge has lost the time.
    pub(super) fn look_at_time(&mut self, at: Moment) {
        let env = &self.driver.env;
        let is_lost = env.generation().is_some() && env.authority(at.mono).is_none();
        let over = env.settings().drain_timeout;
        self.waiting.departures.set_time_lost(is_lost, over, at);
    }
}
