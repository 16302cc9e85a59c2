//! How a clock is, for its admin port. The replica writes it at each turn of its loop; whoever asks reads it from elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tickstorm_service::admin::Health;
use tickstorm_timebase::{ClockId, Epoch, Mono};

use crate::discipline::Discipline;
use crate::machine::Machine;

/// A loop that has not turned for this long is stuck: it turns at least once a second, for its next announcement.
const TURN_MAX: Duration = Duration::from_secs(10);

/// What the replica last wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaState {
    pub(crate) turned: Mono,
    pub(crate) connected: bool,
    pub(crate) timeline: u64,
    pub(crate) discipline: Discipline,
    pub(crate) last_announced: Option<Epoch>,
}

/// A clock's state, shared between the replica and the admin port.
pub(crate) struct ClockHealth {
    id: ClockId,
    require_sync: bool,
    machine: Arc<dyn Machine>,
    state: Mutex<ReplicaState>,
}

impl ClockHealth {
    pub(crate) fn new(
        id: ClockId,
        require_sync: bool,
        machine: Arc<dyn Machine>,
        state: ReplicaState,
    ) -> Self {
        Self {
            id,
            require_sync,
            machine,
            state: Mutex::new(state),
        }
    }

    /// Whether REQUIRE_SYNC forbids the clock to say anything now.
    pub(crate) fn is_silenced(&self) -> bool {
        self.require_sync && !self.state().discipline.synchronized
    }

    /// The state, to look at or to change. Nothing is awaited and nothing can panic while it is held.
    pub(crate) fn state(&self) -> MutexGuard<'_, ReplicaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health for ClockHealth {
    fn live(&self) -> Vec<String> {
        let turned = self.state().turned;
        let still = self.machine.now().since(turned);
        if still <= TURN_MAX {
            return Vec::new();
        }
        vec![format!("the loop has not turned for {} s", still.as_secs())]
    }

    fn ready(&self) -> Vec<String> {
        let silenced = self.is_silenced();
        let connected = self.state().connected;
        let reasons = [
            (!connected).then_some("not connected to the bus"),
            silenced.then_some("the host's clock is not disciplined (REQUIRE_SYNC)"),
        ];
        reasons.into_iter().flatten().map(str::to_owned).collect()
    }

    fn status(&self) -> Value {
        let state = *self.state();
        json!({
            "id": self.id.as_str(),
            "nats": state.connected,
            "timeline": state.timeline,
            "synchronized": state.discipline.synchronized,
            "clock_error_us": state.discipline.clock_error_us,
            "last_announced_epoch_ms": state.last_announced.map(Epoch::as_ms),
        })
    }
}
