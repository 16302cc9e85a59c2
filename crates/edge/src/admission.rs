//! Admission of connections: process-wide limits on open connections and on handshakes in progress.
//! They are touched only at accept, AUTH and close, never while a tick is sent. Limits per address
//! are in [`attempts`].

mod attempts;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tickstorm_timebase::Mono;

use crate::sys::waker::Waker;
pub(crate) use attempts::{Address, Attempts, Authenticated, FailureAnswer};

/// The most connections over the limit that may linger after SERVER_FULL at any one time. Any
/// further ones are sent SERVER_FULL and closed immediately.
pub(crate) const OVERFLOW_MAX: usize = 128;
/// A handshake younger than this is never closed to make room for another.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// The process-wide limits, and the counts that they bound.
pub(crate) struct Admission {
    connections_max: usize,
    connections: AtomicUsize,
    overflow: AtomicUsize,
    shown: IntGauge,
    ids: AtomicU64,
    handshakes_max: usize,
    handshakes: Mutex<BTreeMap<u64, Handshake>>,
    /// Wakers of the shards that wait for a handshake to leave, by shard number.
    waiting: Mutex<BTreeMap<usize, Waker>>,
}

/// A connection that has not authenticated yet.
#[derive(Clone, Copy, Debug)]
struct Handshake {
    accepted: Mono,
    shard: usize,
    slot: u32,
}

impl Handshake {
    /// Returns the earliest moment at which it may be closed to make room for another handshake.
    fn due(&self) -> Mono {
        self.accepted + HANDSHAKE_GRACE
    }
}

/// The answer to whether one more connection may be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes. If it exceeds the limit, the oldest handshake is closed for it.
    Free,
    /// Not until a handshake leaves or this moment is reached.
    NotBefore(Mono),
}

/// A handshake that must be closed to make room for a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) shard: usize,
    pub(crate) slot: u32,
    pub(crate) id: u64,
}

/// A connection's share of MAX_CONNECTIONS or of the overflow, returned when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    overflow: bool,
}

/// A handshake's share of MAX_HANDSHAKES, returned when dropped.
pub(crate) struct HandshakePermit {
    admission: Arc<Admission>,
    id: u64,
}

impl Admission {
    /// Creates the limits. `shown` is kept equal to the number of connections.
    pub(crate) fn new(connections_max: usize, handshakes_max: usize, shown: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            connections_max,
            connections: AtomicUsize::new(0),
            overflow: AtomicUsize::new(0),
            shown,
            ids: AtomicU64::new(1),
            handshakes_max,
            handshakes: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// Returns the number of accepted sockets that are open, not counting those over the limit.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns a number that no other connection of this process has had.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns whether MAX_HANDSHAKES leaves room for one more handshake, or the oldest one may be
    /// closed for it.
    pub(crate) fn room(&self, now: Mono) -> Room {
        let handshakes = self.handshakes();
        match handshakes.first_key_value() {
            Some((_, oldest)) if handshakes.len() >= self.handshakes_max && now < oldest.due() => {
                Room::NotBefore(oldest.due())
            }
            Some(_) | None => Room::Free,
        }
    }

    /// Arranges for shard `index` to be woken once, when the next handshake leaves.
    pub(crate) fn wake_when_one_leaves(&self, index: usize, shard: &Waker) {
        self.waiting().insert(index, shard.clone());
    }

    /// Returns a permit for one more connection, or `None` if both MAX_CONNECTIONS and the overflow
    /// are used up.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Permit> {
        if !increment_below(&self.connections, self.connections_max) {
            return self.enter_overflow();
        }
        self.shown.inc();
        Some(Permit {
            admission: Arc::clone(self),
            overflow: false,
        })
    }

    /// Returns a permit for a connection that will be refused with SERVER_FULL, even if there is
    /// room for it. Returns `None` if [`OVERFLOW_MAX`] connections are being refused already.
    pub(crate) fn enter_overflow(self: &Arc<Self>) -> Option<Permit> {
        increment_below(&self.overflow, OVERFLOW_MAX).then(|| Permit {
            admission: Arc::clone(self),
            overflow: true,
        })
    }

    /// Records that connection `id` has not authenticated yet. If this exceeds MAX_HANDSHAKES, also
    /// returns the oldest handshake, which no longer counts and which the caller must close.
    pub(crate) fn begin_handshake(
        self: &Arc<Self>,
        id: u64,
        accepted: Mono,
        shard: usize,
        slot: u32,
    ) -> (HandshakePermit, Option<Evicted>) {
        let mut handshakes = self.handshakes();
        handshakes.insert(
            id,
            Handshake {
                accepted,
                shard,
                slot,
            },
        );
        let is_full = handshakes.len() > self.handshakes_max;
        let oldest = handshakes
            .first_entry()
            .filter(|oldest| is_full && oldest.get().due() <= accepted);
        let evicted = oldest.map(|oldest| {
            let (id, Handshake { shard, slot, .. }) = oldest.remove_entry();
            Evicted { shard, slot, id }
        });
        let admission = Arc::clone(self);
        (HandshakePermit { admission, id }, evicted)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<usize, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handshakes(&self) -> MutexGuard<'_, BTreeMap<u64, Handshake>> {
        self.handshakes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Returns whether the connection is over the limit and must be refused with SERVER_FULL.
    pub(crate) fn is_overflow(&self) -> bool {
        self.overflow
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.overflow {
            self.admission.overflow.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.admission.connections.fetch_sub(1, Ordering::Relaxed);
            self.admission.shown.dec();
        }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        if self.admission.handshakes().remove(&self.id).is_some() {
            let waiting = std::mem::take(&mut *self.admission.waiting());
            waiting.into_values().for_each(|shard| shard.wake());
        }
    }
}

/// Increments `counter` unless it has reached `max`; returns whether it did.
fn increment_below(counter: &AtomicUsize, max: usize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < max).then_some(count + 1)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::kernel::Kernel;
    use crate::sys::network::{Network, NetworkEvent, WaitFor};

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn admission(connections_max: usize, handshakes_max: usize) -> Arc<Admission> {
        let shown = IntGauge::new("connections", "Shown.").unwrap();
        Admission::new(connections_max, handshakes_max, shown)
    }

    #[test]
    fn connections_over_the_limit_get_overflow_permits_until_those_are_used_up() {
        let admission = admission(2, 10);
        let kept: Vec<_> = (0..2 + OVERFLOW_MAX)
            .map(|_| admission.enter().unwrap())
            .collect();
        assert_eq!(
            kept.iter().filter(|permit| permit.is_overflow()).count(),
            OVERFLOW_MAX
        );
        assert!(admission.enter().is_none());
        assert_eq!((admission.connections(), admission.shown.get()), (2, 2));
        drop(kept);
        assert_eq!((admission.connections(), admission.shown.get()), (0, 0));
        assert!(!admission.enter().unwrap().is_overflow());
    }

    #[test]
    fn at_the_handshake_limit_the_oldest_handshake_over_a_second_old_makes_room() {
        let admission = admission(10, 2);
        let (first, none) = admission.begin_handshake(1, at(0), 3, 7);
        assert_eq!((none, admission.room(at(10))), (None, Room::Free));
        let (second, none) = admission.begin_handshake(2, at(100), 0, 8);
        assert_eq!(
            (none, admission.room(at(999))),
            (None, Room::NotBefore(at(1_000)))
        );
        assert_eq!(admission.room(at(1_000)), Room::Free);
        assert_eq!(
            admission.room(at(1_000)),
            Room::Free,
            "asking evicts no handshake"
        );
        let (_third, evicted) = admission.begin_handshake(3, at(1_000), 0, 9);
        assert_eq!(
            evicted,
            Some(Evicted {
                shard: 3,
                slot: 7,
                id: 1
            })
        );
        drop(first);
        assert_eq!(admission.room(at(1_050)), Room::NotBefore(at(1_100)));
        drop(second);
        assert_eq!(admission.room(at(1_050)), Room::Free);
    }

    #[test]
    fn a_handshake_that_leaves_wakes_each_waiting_shard_once() {
        let admission = admission(10, 1);
        let (permit, _) = admission.begin_handshake(1, at(0), 0, 0);
        let mut kernel = Kernel::new().unwrap();
        admission.wake_when_one_leaves(0, &kernel.waker());
        admission.wake_when_one_leaves(0, &kernel.waker());
        assert_eq!(admission.waiting().len(), 1, "a shard is listed once");
        let woken = |kernel: &mut Kernel| {
            let mut events = Vec::new();
            kernel.wait(WaitFor::None, &mut events).unwrap();
            events.contains(&NetworkEvent::Woken)
        };
        assert!(!woken(&mut kernel));
        drop(permit);
        assert!(woken(&mut kernel));
        assert_eq!(admission.room(at(0)), Room::Free);
        drop(admission.begin_handshake(2, at(0), 0, 0));
        assert!(!woken(&mut kernel));
    }
}
