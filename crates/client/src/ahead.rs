//! Releasing ticks that arrive ahead of their time. Each tick is held until this client's estimate
//! of authority time reaches it, and only then handed on. All other events keep their positions
//! among the ticks.
//!
//! After this machine was suspended or stalled, no tick is released until the time is known
//! again. Those whose time has passed meanwhile are then released at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::Return;
use tickstorm_timebase::{Epoch, Mode, Mono, Quality, UnixTime};
use tokio::sync::{mpsc, watch};

use crate::alarm_clock::AlarmClock;
use crate::connection::FREEZE;
use crate::error::Error;
use crate::estimate::Estimator;
use crate::event::{Event, Tick};

/// The largest number of events that are held; beyond it, the connection is not read. Since an edge
/// is 800 ms ahead, the usual number is one or two ticks.
const HELD_MAX: usize = 64;

type Item = Result<Event, Error>;

/// The held events, in the order in which they arrived.
#[derive(Default)]
struct Held {
    items: VecDeque<Item>,
    /// A moment and the authority time at that moment, from the latest estimate. Used if there is
    /// no current estimate.
    last_known: Option<(Mono, UnixTime)>,
    /// The last tick that arrived as REPLAY. Its time has passed, and that of all ticks before it,
    /// even if authority time is not known: they must not wait for it, because the answer that
    /// would tell it may be behind more ticks than are held.
    passed: Option<Epoch>,
}

impl Held {
    fn is_full(&self) -> bool {
        self.items.len() >= HELD_MAX
    }

    /// Appends an event. Held ticks are dropped if authority time was stepped back or the
    /// subscription's resume point was given up.
    fn push(&mut self, item: Item) {
        let drops_held_ticks = match &item {
            Ok(Event::Reconnecting { resumes, .. }) => !resumes,
            Ok(
                Event::Tick(_)
                | Event::Reconnected { .. }
                | Event::Moved { .. }
                | Event::ModeChanged { .. }
                | Event::Gap { .. },
            ) => false,
            Err(error) => error.come_back() == Return::AtOnceWithoutResume,
        };
        if drops_held_ticks {
            self.drop_ticks();
        }
        if let Ok(Event::Tick(tick)) = &item {
            if tick.quality == Quality::Replay {
                self.passed = self.passed.max(Some(tick.epoch));
            }
        }
        if let Ok(Event::ModeChanged { mode, .. }) = &item {
            self.drop_coarser(*mode);
        }
        self.items.push_back(item);
    }

    /// Drops the ticks of a coarser mode than `mode`, behind which its ticks would wait. The ticks
    /// of `mode` include those at the same moments.
    fn drop_coarser(&mut self, mode: Mode) {
        let is_coarser = |tick: &Tick| tick.mode.period_ms() > mode.period_ms();
        let mut dropped = None;
        self.items.retain(|held| match held {
            Ok(Event::Tick(tick)) if is_coarser(tick) && tick.quality != Quality::Replay => {
                dropped.get_or_insert(tick.epoch);
                false
            }
            Ok(_) | Err(_) => true,
        });
        // A gap is one before a tick.
        self.items.retain(|held| match held {
            Ok(Event::Gap { before, .. }) => dropped.is_none_or(|dropped| *before < dropped),
            Ok(_) | Err(_) => true,
        });
    }

    fn drop_ticks(&mut self) {
        (self.last_known, self.passed) = (None, None);
        self.items
            .retain(|held| !matches!(held, Ok(Event::Tick(_) | Event::Gap { .. })));
    }

    /// Continues with what was known of the time before the last stall, if there is no connection
    /// left to learn it again from. Returns false if nothing was known. A tick is then released
    /// later than at its time, but not before.
    fn catch_up(&mut self, estimator: &Estimator, now: Mono) -> bool {
        let before = estimator.estimate_lateness(now);
        self.last_known = before.map(|before| (now, before.earliest()));
        self.last_known.is_some()
    }

    /// Returns when the first event is due, as far as is known at `now`. Returns `None` if no event
    /// is held, or if the first one is a tick and authority time was never known.
    fn due(&mut self, estimator: &Estimator, now: Mono) -> Option<Mono> {
        if let Some(estimate) = estimator.estimate(now) {
            self.last_known = Some((now, estimate.unix));
        } else if estimator.stalled_at() > self.last_known.map(|(at, _)| at) {
            self.last_known = None;
        }
        match self.items.front()? {
            Ok(Event::Tick(tick)) if Some(tick.epoch) > self.passed => {
                let (at, unix) = self.last_known?;
                let time = tick.epoch.time();
                let ns = |time: UnixTime| i128::from(time.as_nanos());
                let to_go =
                    Duration::from_nanos(u64::try_from(ns(time) - ns(unix)).unwrap_or_default());
                Some(at + to_go)
            }
            // Replayed ticks, whose time has passed, and events that are not ticks are due as soon
            // as they are first.
            Ok(_) | Err(_) => Some(now),
        }
    }

    /// Removes and returns the first event if it is due at `now`. The `read` time of a tick that
    /// was held becomes the estimate at `now`.
    fn pop(&mut self, estimator: &Estimator, now: Mono) -> Option<Item> {
        self.due(estimator, now).filter(|&due| due <= now)?;
        let mut item = self.items.pop_front()?;
        if let Ok(Event::Tick(tick)) = &mut item {
            if tick.quality != Quality::Replay {
                tick.read = estimator.estimate_lateness(now);
            }
        }
        Some(item)
    }
}

/// Hands on the events from `incoming`, each tick at its time, until either channel is closed.
pub(crate) async fn release<C: AlarmClock>(
    mut incoming: mpsc::Receiver<Item>,
    outgoing: mpsc::Sender<Item>,
    estimator: watch::Sender<Estimator>,
    clock: Arc<C>,
) {
    let (mut held, mut ended) = (Held::default(), false);
    let (mut timer, mut learned) = (C::Timer::default(), estimator.subscribe());
    loop {
        let (now, suspended) = (clock.now(), clock.suspended());
        estimator.send_if_modified(|estimator| estimator.handle_suspended(now, suspended));
        let (item, due) = {
            let estimator = learned.borrow_and_update();
            (held.pop(&estimator, now), held.due(&estimator, now))
        };
        if let Some(item) = item {
            if outgoing.send(item).await.is_err() {
                return;
            }
            continue;
        }
        if ended && due.is_none() {
            if held.items.is_empty() {
                return;
            }
            // If the time was never known, there is no connection left to learn it from, and the
            // ticks can never be released. Only the error that ended the connection remains to be
            // handed on.
            if !held.catch_up(&estimator.borrow(), now) {
                held.drop_ticks();
            }
            continue;
        }
        tokio::select! {
            biased;
            item = incoming.recv(), if !ended && !held.is_full() => match item {
                Some(item) => held.push(item),
                None => ended = true,
            },
            () = outgoing.closed() => return,
            // The next iteration waits according to the new estimate. This does not fail as long as
            // there is a sender, one of which is here.
            _ = learned.changed() => {}
            () = clock.wait_until(&mut timer, due.unwrap_or(Mono::NEVER)), if due.is_some() => {}
        }
        let woken = clock.now();
        if due.is_some_and(|due| woken.since(due) > FREEZE) {
            estimator.send_modify(|estimator| estimator.handle_stall(woken));
        }
    }
}
