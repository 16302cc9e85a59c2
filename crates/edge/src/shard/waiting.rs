//! [`Waiting`]: the work of a shard that waits for its turn, and when there will be more.

use std::collections::VecDeque;

use tickstorm_timebase::Mono;

use super::drain::Drain;
use super::key::Key;
use super::tasks::ShardTasks;
use super::wheel::Turn;
use crate::sys::network::NetworkEvent;

/// Work that waits for its turn.
pub(super) struct Waiting {
    /// What the last wait reported, and how much of it has been dealt with.
    pub(super) events: Vec<NetworkEvent>,
    dealt_with: usize,
    /// The waker was used: there may be commands.
    pub(super) commands: bool,
    /// When the wheel turns next, in the machine's time.
    pub(super) wheel: Mono,
    /// Whose turns of the wheel have come, the earliest first.
    pub(super) passed: VecDeque<Vec<(Key, Turn)>>,
    pub(super) tasks: ShardTasks,
    pub(super) drain: Option<Drain>,
}

impl Waiting {
    pub(super) fn new(wheel: Mono) -> Self {
        Self {
            events: Vec::new(),
            dealt_with: 0,
            commands: false,
            wheel,
            passed: VecDeque::new(),
            tasks: ShardTasks::default(),
            drain: None,
        }
    }

    pub(super) fn drain_due(&self) -> Mono {
        self.drain.as_ref().map_or(Mono::NEVER, Drain::due)
    }

    /// The next connection whose turn of the wheel has come. A slot that many passed through at
    /// once does not keep their memory.
    pub(super) fn next_passed(&mut self) -> Option<(Key, Turn)> {
        let slot = self.passed.front_mut()?;
        let next = slot.pop();
        if slot.is_empty() {
            self.passed.pop_front();
        }
        next
    }

    /// The next event that the last wait has reported.
    pub(super) fn next_event(&mut self) -> Option<NetworkEvent> {
        let event = self.events.get(self.dealt_with).copied();
        self.dealt_with += 1;
        if event.is_none() {
            self.events.clear();
            self.dealt_with = 0;
        }
        event
    }
}
