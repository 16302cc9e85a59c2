//! [`Moves`]: clients that an operator sends to other edges: a single one, or a share of all of
//! them. Each is told so, and its connection is closed some time later unless it has left by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;
use tokio::sync::oneshot;

use super::connections::{Connections, Walk};
use super::driver::Driver;
use super::going_away::{self, MoveCause};
use super::key::Key;
use super::leaving::Leaving;
use super::slots::close_if_open;
use super::time::Moment;
use crate::sys::network::Network;

/// The shard's answer to a request to move one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveAnswer {
    /// It was told that its connection will be closed within this time, now or before.
    Told(Duration),
    /// It has not authenticated, so it can't be told.
    Unauthenticated,
    /// The shard drains, which moves every client.
    Draining,
    /// The shard has no such client.
    Unknown,
}

/// An order to move a share of a shard's clients.
pub(crate) struct RebalanceOrder {
    /// The share, above 0 and at most 1.
    pub(crate) share: f64,
    /// The part of a client by which the shards before this one have moved too few.
    pub(crate) carry: f64,
    /// The time within which all of them have left.
    pub(crate) over: Duration,
    /// The time that each of them has to leave.
    pub(crate) grace: Duration,
    /// Counts the clients that were told. The shard holds it as long as it is moving clients.
    pub(crate) told: Arc<AtomicUsize>,
    pub(crate) reply: oneshot::Sender<Chosen>,
}

/// How many clients a shard moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    pub(crate) connections: usize,
    /// The carry for the next shard.
    pub(crate) carry: f64,
}

/// The moves in progress.
#[derive(Default)]
pub(super) struct Moves {
    /// Clients that are moved one at a time.
    single: Leaving,
    rebalance: Option<Rebalance>,
}

struct Rebalance {
    order: RebalanceStart,
    stage: RebalanceStage,
    /// The time at which the next step is due, while clients are being collected.
    due: Mono,
}

/// What is left of the order once it was answered.
struct RebalanceStart {
    share: f64,
    carry: f64,
    over: Duration,
    grace: Duration,
    told: Arc<AtomicUsize>,
    reply: Option<oneshot::Sender<Chosen>>,
}

enum RebalanceStage {
    /// Collects the keys of all clients.
    Collecting { walk: Walk, keys: Vec<Key> },
    /// Tells some of them, chosen at random, and closes those that have not left.
    Moving {
        started: Mono,
        /// The clients that may still be chosen.
        candidates: Vec<Key>,
        chosen: usize,
        told: usize,
        leaving: Leaving,
    },
}

impl Moves {
    /// Returns when the next step is due.
    pub(super) fn due(&self) -> Mono {
        let rebalance = self.rebalance.as_ref();
        let due = rebalance.map_or(Mono::NEVER, Rebalance::due);
        due.min(self.single.due())
    }

    /// Tells one client, unless it was told before.
    pub(super) fn move_one<N: Network>(
        &mut self,
        key: Key,
        within: Duration,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) -> MoveAnswer {
        if let Some(close_at) = self.close_at(key) {
            return MoveAnswer::Told(close_at.since(at.mono));
        }
        if !going_away::tell(key, MoveCause::Operator, within, connections, driver, at) {
            return MoveAnswer::Unauthenticated;
        }
        self.single.push(key, at.mono + within);
        MoveAnswer::Told(within)
    }

    /// Starts to move a share of the clients.
    pub(super) fn rebalance(&mut self, order: RebalanceOrder, at: Moment) {
        let RebalanceOrder {
            share,
            carry,
            over,
            grace,
            told,
            reply,
        } = order;
        self.rebalance = Some(Rebalance {
            order: RebalanceStart {
                share,
                carry,
                over,
                grace,
                told,
                reply: Some(reply),
            },
            stage: RebalanceStage::Collecting {
                walk: Walk::default(),
                keys: Vec::new(),
            },
            due: at.mono,
        });
    }

    /// Collects, tells or closes one connection.
    pub(super) fn step<N: Network>(
        &mut self,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        if let Some(key) = self.single.pop(at.mono) {
            close_if_open(key, CloseReason::MovedAway, connections, driver, at);
            return;
        }
        if let Some(rebalance) = &mut self.rebalance {
            rebalance.step(&self.single, connections, driver, at);
            if rebalance.is_over() {
                self.rebalance = None;
            }
        }
    }

    /// Returns when a client that was told is closed.
    fn close_at(&self, key: Key) -> Option<Mono> {
        let rebalance = self.rebalance.as_ref();
        let in_rebalance = || rebalance.and_then(|rebalance| rebalance.close_at(key));
        self.single.close_at(key).or_else(in_rebalance)
    }
}

impl Rebalance {
    fn due(&self) -> Mono {
        match &self.stage {
            RebalanceStage::Collecting { .. } => self.due,
            RebalanceStage::Moving { leaving, .. } => self.telling_due().min(leaving.due()),
        }
    }

    /// Returns when to tell the next client. All have their grace within the time of the order.
    fn telling_due(&self) -> Mono {
        match &self.stage {
            RebalanceStage::Moving {
                started,
                chosen,
                told,
                ..
            } if told < chosen => {
                let over = self.order.over.saturating_sub(self.order.grace);
                let nanos = over.as_nanos() * *told as u128 / *chosen as u128;
                *started + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            RebalanceStage::Moving { .. } | RebalanceStage::Collecting { .. } => Mono::NEVER,
        }
    }

    fn is_over(&self) -> bool {
        match &self.stage {
            RebalanceStage::Collecting { .. } => false,
            RebalanceStage::Moving {
                chosen,
                told,
                leaving,
                ..
            } => told >= chosen && leaving.is_empty(),
        }
    }

    fn close_at(&self, key: Key) -> Option<Mono> {
        match &self.stage {
            RebalanceStage::Collecting { .. } => None,
            RebalanceStage::Moving { leaving, .. } => leaving.close_at(key),
        }
    }

    fn step<N: Network>(
        &mut self,
        single: &Leaving,
        connections: &mut Connections<N::Socket>,
        driver: &mut Driver<N>,
        at: Moment,
    ) {
        let telling_due = self.telling_due();
        match &mut self.stage {
            RebalanceStage::Collecting { walk, keys } => match connections.step(walk) {
                Some(connection) => {
                    if connection.served().is_some() {
                        keys.push(connection.key);
                    }
                }
                None => {
                    let candidates = std::mem::take(keys);
                    self.stage = RebalanceStage::Moving {
                        started: at.mono,
                        chosen: self.order.choose(candidates.len()),
                        candidates,
                        told: 0,
                        leaving: Leaving::default(),
                    };
                }
            },
            RebalanceStage::Moving {
                candidates,
                chosen,
                told,
                leaving,
                ..
            } => {
                if let Some(key) = leaving.pop(at.mono) {
                    close_if_open(key, CloseReason::MovedAway, connections, driver, at);
                    return;
                }
                if at.mono < telling_due {
                    return;
                }
                if candidates.is_empty() {
                    // The others have left by themselves.
                    *chosen = *told;
                    return;
                }
                let key = candidates.swap_remove(rand::random_range(0..candidates.len()));
                let within = self.order.grace;
                if single.close_at(key).is_none()
                    && going_away::tell(key, MoveCause::Rebalance, within, connections, driver, at)
                {
                    leaving.push(key, at.mono + within);
                    *told += 1;
                    self.order.told.fetch_add(1, Ordering::Relaxed);
                }
                if told == chosen {
                    *candidates = Vec::new();
                }
            }
        }
    }
}

impl RebalanceStart {
    /// Returns how many of this many clients are moved, and answers the order. The shards together
    /// move the share of all clients, rounded.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a shard has far fewer than 2^52 clients, and the number is not negative"
    )]
    fn choose(&mut self, clients: usize) -> usize {
        let exact = self.share * clients as f64 + self.carry;
        let connections = (exact.max(0.0).floor() as usize).min(clients);
        if let Some(reply) = self.reply.take() {
            // The requester may have gone away meanwhile.
            let _ = reply.send(Chosen {
                connections,
                carry: exact - connections as f64,
            });
        }
        connections
    }
}
