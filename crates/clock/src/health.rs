//! The health of a clock, for its admin port. The replica writes it at each turn of its loop, and
//! the admin port reads it from other tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tickstorm_bus::Bus;
use tickstorm_service::admin::Health;
use tickstorm_service::nats_link::{self, LinkAlarm};
use tickstorm_timebase::{ClockId, Epoch, Mono};

use crate::alarms::ClockAlarm;
use crate::discipline::Discipline;
use crate::machine::Machine;

/// The time without a turn after which the replica's loop counts as stuck. It normally turns at
/// least once per second, for the next announcement.
const TURN_MAX: Duration = Duration::from_secs(10);

/// The time after the last message of another clock with the same id for which it counts as there:
/// several times the interval at which clocks announce.
const TWIN_FOR: Duration = Duration::from_secs(10);

/// The state as last written by the replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaState {
    pub(crate) last_turn: Mono,
    pub(crate) connected: bool,
    pub(crate) timeline: u64,
    pub(crate) discipline: Discipline,
    pub(crate) last_announced: Option<Epoch>,
    /// When another clock last announced a tick under this clock's id.
    pub(crate) twin_heard: Option<Mono>,
}

/// A clock's state, shared between the replica and the admin port.
pub(crate) struct ClockHealth {
    id: ClockId,
    require_sync: bool,
    machine: Arc<dyn Machine>,
    bus: Arc<dyn Bus>,
    state: Mutex<ReplicaState>,
}

impl ClockHealth {
    pub(crate) fn new(
        id: ClockId,
        require_sync: bool,
        machine: Arc<dyn Machine>,
        bus: Arc<dyn Bus>,
        state: ReplicaState,
    ) -> Self {
        Self {
            id,
            require_sync,
            machine,
            bus,
            state: Mutex::new(state),
        }
    }

    /// Returns whether REQUIRE_SYNC currently forbids the clock to send anything.
    pub(crate) fn is_silenced(&self) -> bool {
        self.require_sync && !self.state().discipline.synchronized
    }

    /// Returns the alarms that are raised at `now`.
    pub(crate) fn alarms(&self, now: Mono) -> Vec<ClockAlarm> {
        let state = *self.state();
        let is_twin_there = |heard: Mono| now.since(heard) < TWIN_FOR;
        let is_raised = |alarm: &ClockAlarm| match alarm {
            ClockAlarm::Undisciplined => !state.discipline.synchronized,
            ClockAlarm::SharedId => state.twin_heard.is_some_and(is_twin_there),
        };
        ClockAlarm::ALL.into_iter().filter(is_raised).collect()
    }

    /// Locks the state for reading or changing. The holder must not await, and nothing can panic
    /// while the lock is held.
    pub(crate) fn state(&self) -> MutexGuard<'_, ReplicaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health for ClockHealth {
    fn live(&self) -> Vec<String> {
        let last_turn = self.state().last_turn;
        let stuck_for = self.machine.now().since(last_turn);
        if stuck_for <= TURN_MAX {
            return Vec::new();
        }
        vec![format!(
            "the clock's loop has been stuck for {} s",
            stuck_for.as_secs()
        )]
    }

    fn ready(&self) -> Vec<String> {
        let silenced = self.is_silenced();
        let connected = self.state().connected;
        let link = self.bus.link_report();
        // Every clock announces, and hears what it announces, unless nobody else can.
        let is_unheard = connected && !silenced && !link.is_heard;
        let reasons = [
            (!connected).then_some("not connected to the bus"),
            silenced.then_some("the host's clock is not disciplined, but REQUIRE_SYNC requires it"),
            is_unheard.then_some("the clock's own announcements do not come back from NATS"),
        ];
        let reasons = reasons.into_iter().flatten().map(str::to_owned);
        let refused = link.refused.iter();
        let refused = refused.map(|subject| format!("NATS refuses the subscription to {subject}"));
        let publishes = link.refused_publishes.iter();
        let publishes = publishes
            .map(|publish| format!("NATS refuses what the clock sends to {}", publish.subject));
        reasons.chain(refused).chain(publishes).collect()
    }

    fn status(&self) -> Value {
        let state = *self.state();
        let link = self.bus.link_report();
        let own_alarms = self.alarms(self.machine.now()).into_iter().map(alarm);
        let alarms = own_alarms.chain(nats_link::alarms(&link).map(link_alarm));
        json!({
            "id": self.id.as_str(),
            "nats": state.connected,
            "nats_link": nats_link::status(&link),
            "timeline": state.timeline,
            "synchronized": state.discipline.synchronized,
            "clock_error_us": state.discipline.clock_error_us,
            "alarms": alarms.collect::<Vec<_>>(),
            "last_announced_epoch_ms": state.last_announced.map(Epoch::as_ms),
        })
    }
}

fn alarm(alarm: ClockAlarm) -> Value {
    let (reason, message, action) = (alarm.label(), alarm.message(), alarm.action());
    json!({ "reason": reason, "message": message, "action": action })
}

fn link_alarm(alarm: LinkAlarm) -> Value {
    let (reason, message, action) = (alarm.label(), alarm.message(), alarm.action());
    json!({ "reason": reason, "message": message, "action": action })
}
