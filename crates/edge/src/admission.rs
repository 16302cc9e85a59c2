//! Who may come in: connections and handshakes in progress, counted for the whole process. Touched
//! at accept, AUTH and close only, never on the way of a tick. What is limited by address stands in
//! [`attempts`].

mod attempts;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tickstorm_timebase::Mono;

use crate::sys::waker::Waker;
pub(crate) use attempts::{Address, Attempts, Authenticated, FailureAnswer};

/// Connections over the limit that may linger at once after SERVER_FULL; any more are told and
/// closed at once.
pub(crate) const OVERFLOW_MAX: usize = 128;
/// A handshake younger than this is never closed for another's sake.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// The process-wide limits and what counts against them.
pub(crate) struct Admission {
    connections_max: usize,
    connections: AtomicUsize,
    overflow: AtomicUsize,
    shown: IntGauge,
    ids: AtomicU64,
    handshakes_max: usize,
    handshakes: Mutex<BTreeMap<u64, Handshake>>,
    /// Shards that wait for a handshake to leave, by their numbers.
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
    /// From when on it may be closed for another's sake.
    fn due(&self) -> Mono {
        self.accepted + HANDSHAKE_GRACE
    }
}

/// Whether one more connection may be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes; if it makes one too many, another goes for it.
    Free,
    /// Not before one leaves or this moment has come.
    NotBefore(Mono),
}

/// A handshake that has to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) shard: usize,
    pub(crate) slot: u32,
    pub(crate) id: u64,
}

/// A connection's place; given back when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    overflow: bool,
}

/// A handshake's place; given back when dropped.
pub(crate) struct HandshakePermit {
    admission: Arc<Admission>,
    id: u64,
}

impl Admission {
    /// `shown` is to say how many connections there are.
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

    /// Accepted sockets that are open, those over the limit not counted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A number that no other connection of this process has had.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether MAX_HANDSHAKES leaves room for one more, or the oldest one may be closed for it.
    pub(crate) fn room(&self, now: Mono) -> Room {
        let handshakes = self.handshakes();
        match handshakes.first_key_value() {
            Some((_, oldest)) if handshakes.len() >= self.handshakes_max && now < oldest.due() => {
                Room::NotBefore(oldest.due())
            }
            Some(_) | None => Room::Free,
        }
    }

    /// Wakes shard `index` once when the next handshake leaves.
    pub(crate) fn wake_when_one_leaves(&self, index: usize, shard: &Waker) {
        self.waiting().insert(index, shard.clone());
    }

    /// A place for one more connection; none where MAX_CONNECTIONS and the overflow are used up.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Permit> {
        if !take(&self.connections, self.connections_max) {
            return self.enter_overflow();
        }
        self.shown.inc();
        Some(Permit {
            admission: Arc::clone(self),
            overflow: false,
        })
    }

    /// A place to be told SERVER_FULL, whatever room there is; none where too many are being told.
    pub(crate) fn enter_overflow(self: &Arc<Self>) -> Option<Permit> {
        take(&self.overflow, OVERFLOW_MAX).then(|| Permit {
            admission: Arc::clone(self),
            overflow: true,
        })
    }

    /// Enters connection `id` as one that has not authenticated yet. Where that makes one too many,
    /// names the oldest, which is to be closed for it and counts no longer.
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
    /// Whether this one is over the limit: to be told SERVER_FULL.
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

fn take(counter: &AtomicUsize, most: usize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < most).then_some(count + 1)
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
    fn above_the_limit_some_are_told_and_the_rest_are_not() {
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
    fn at_the_limit_of_handshakes_the_oldest_over_a_second_makes_room() {
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
            "asking takes nobody's place"
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
    fn a_handshake_that_leaves_wakes_the_shards_that_wait_once() {
        let admission = admission(10, 1);
        let (permit, _) = admission.begin_handshake(1, at(0), 0, 0);
        let mut kernel = Kernel::new().unwrap();
        admission.wake_when_one_leaves(0, &kernel.waker());
        admission.wake_when_one_leaves(0, &kernel.waker());
        assert_eq!(admission.waiting().len(), 1, "a shard waits once");
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
