//! [`Vitals`]: whether an edge is still of use to a subscription. An edge may be connected and yet
//! send no ticks, because it has lost the time, or because it or the path to it has died without a
//! word. This module does no I/O and reads no clock.

use std::time::Duration;

use tickstorm_timebase::{Epoch, Mode, Mono};

use crate::estimate::Estimator;

/// How late a tick must be before this client asks the edge for signs of life.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How late a tick must be before an edge that does not answer is given up.
const SILENT_AFTER: Duration = Duration::from_secs(4);
/// The time for which an edge may leave a HEARTBEAT unanswered that was sent while a tick was late.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The time for which an edge's answers may lack the time.
const TIMELESS_MAX: Duration = Duration::from_secs(5);
/// The time for which a tick may be late although the edge answers and says that its time has come,
/// once it has sent ticks over this connection.
const TICKLESS_MAX: Duration = Duration::from_secs(5);
/// The same before the first tick, which an edge that has just started may send later.
const FIRST_TICK_MAX: Duration = Duration::from_secs(10);

/// The reason to leave an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symptom {
    /// A tick is overdue, and the edge answers nothing.
    Silent {
        /// How long ago anything arrived.
        silence: Duration,
    },
    /// The edge answers that it does not know the time.
    Timeless {
        /// For how long.
        lasted: Duration,
    },
    /// The edge answers and knows the time, but sends no ticks.
    Tickless {
        /// For how long a tick has been overdue.
        overdue: Duration,
    },
}

/// The signs of life of a subscription's edge.
#[derive(Debug)]
pub(crate) struct Vitals {
    mode: Mode,
    last: Epoch,
    /// Whether the edge has sent a tick since it acknowledged the subscription.
    has_ticked: bool,
    /// A tick is not overdue before the later of its own time and this moment, since which this
    /// client has been listening for it.
    listening_since: Mono,
    heard_at: Mono,
    /// When the oldest HEARTBEAT was sent that asks for a sign of life and has got none.
    asked_at: Option<Mono>,
    timeless_since: Option<Mono>,
}

impl Vitals {
    /// Starts with a subscription to the ticks after `start`, acknowledged at `now`.
    pub(crate) fn new(mode: Mode, start: Epoch, now: Mono) -> Self {
        Self {
            mode,
            last: start,
            has_ticked: false,
            listening_since: now,
            heard_at: now,
            asked_at: None,
            timeless_since: None,
        }
    }

    /// Records that bytes of any kind arrived.
    pub(crate) fn handle_bytes(&mut self, now: Mono) {
        self.heard_at = now;
        self.asked_at = None;
    }

    /// Records that ticks arrived, the last of which is `last`.
    pub(crate) fn handle_ticks(&mut self, last: Epoch, now: Mono) {
        self.last = last;
        self.has_ticked = true;
        self.listening_since = self.listening_since.max(now);
        self.timeless_since = None;
    }

    /// Records a PONG, and whether it carried the time.
    pub(crate) fn handle_pong(&mut self, has_time: bool, estimator: &Estimator, now: Mono) {
        if has_time {
            self.timeless_since = None;
        } else {
            // The edge did not know the time when a tick was due that it has not sent.
            let since = now.min(self.due(estimator, now));
            self.timeless_since.get_or_insert(since);
        }
    }

    /// Records that a HEARTBEAT is sent.
    pub(crate) fn handle_heartbeat(&mut self, estimator: &Estimator, now: Mono) {
        if self.wants_answer(estimator, now) {
            self.asked_at.get_or_insert(now);
        }
    }

    /// Records that until `now` this client could not tell, because it did not read or its machine
    /// stalled. Only what the edge does afterwards counts.
    pub(crate) fn forgive(&mut self, now: Mono) {
        self.listening_since = now;
        self.heard_at = now;
        self.asked_at = None;
        self.timeless_since = None;
    }

    /// Returns whether a tick is so late that HEARTBEATs should be sent often.
    pub(crate) fn wants_answer(&self, estimator: &Estimator, now: Mono) -> bool {
        now >= self.due(estimator, now) + ASK_AFTER
    }

    /// Returns why to leave the edge at `now`, if there is a reason.
    pub(crate) fn poll(&self, estimator: &Estimator, now: Mono) -> Option<Symptom> {
        let due = self.due(estimator, now);
        let timeless_since = self.timeless_since.unwrap_or(Mono::NEVER);
        if now >= self.silent_at(due) {
            let silence = now.since(self.heard_at);
            return Some(Symptom::Silent { silence });
        }
        if now >= timeless_since + TIMELESS_MAX {
            let lasted = now.since(timeless_since);
            return Some(Symptom::Timeless { lasted });
        }
        let overdue = now.since(due);
        (overdue >= self.tickless_max() && estimator.estimate(now).is_some())
            .then_some(Symptom::Tickless { overdue })
    }

    /// Returns when [`Vitals::wants_answer`] or [`Vitals::poll`] may next have another result, if
    /// nothing arrives until then.
    pub(crate) fn next_change(&self, estimator: &Estimator, now: Mono) -> Mono {
        let due = self.due(estimator, now);
        [
            due + ASK_AFTER,
            due + self.tickless_max(),
            self.silent_at(due),
            self.timeless_since
                .map_or(Mono::NEVER, |since| since + TIMELESS_MAX),
        ]
        .into_iter()
        .filter(|&at| at > now)
        .min()
        .unwrap_or(Mono::NEVER)
    }

    fn tickless_max(&self) -> Duration {
        if self.has_ticked {
            TICKLESS_MAX
        } else {
            FIRST_TICK_MAX
        }
    }

    fn silent_at(&self, due: Mono) -> Mono {
        self.asked_at.map_or(Mono::NEVER, |asked_at| {
            (due + SILENT_AFTER).max(asked_at + ANSWER_MAX)
        })
    }

    /// Returns when the next tick is due. Without an estimate of authority time, that is a period
    /// after the last one arrived. A client that subscribes ahead gets its ticks earlier, but how
    /// much earlier is the edge's decision, so they are late only from their own time on.
    fn due(&self, estimator: &Estimator, now: Mono) -> Mono {
        let Some(estimate) = estimator.estimate(now) else {
            let period_ms = u64::try_from(self.mode.period_ms()).unwrap_or(0);
            return self.listening_since + Duration::from_millis(period_ms);
        };
        let next_ns = self.mode.next_after(self.last).time().as_nanos();
        let to_go = i128::from(next_ns) - i128::from(estimate.unix.as_nanos());
        let nanos = Duration::from_nanos(u64::try_from(to_go.unsigned_abs()).unwrap_or(u64::MAX));
        let at = if to_go > 0 {
            now + nanos
        } else {
            now.saturating_sub(nanos)
        };
        at.max(self.listening_since)
    }
}
