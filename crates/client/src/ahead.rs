//! Ticks that came ahead of their time: holds each until authority time, as this client knows it, has come to it, and only then
//! hands it on. Everything else keeps its place among them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::code::Return;
use tickstorm_timebase::{Mono, Quality, UnixTime};
use tokio::sync::{mpsc, watch};

use crate::alarm_clock::AlarmClock;
use crate::error::Error;
use crate::estimate::Estimator;
use crate::event::Event;

/// Events held back at most; beyond, the connection is not read. An edge is 800 ms ahead: one tick or two.
const HELD_MAX: usize = 64;

type Item = Result<Event, Error>;

/// What is held back, in the order in which it came.
#[derive(Default)]
struct Held {
    items: VecDeque<Item>,
    /// What time it was at some moment, by the last estimate that there was: where there is none any more, it has to do.
    known: Option<(Mono, UnixTime)>,
}

impl Held {
    fn is_full(&self) -> bool {
        self.items.len() >= HELD_MAX
    }

    /// Takes what comes. Ticks of a time that is no more, and those of a subscription whose point was given up, are never released.
    fn push(&mut self, item: Item) {
        let forgets = match &item {
            Ok(Event::Reconnecting { resumes, .. }) => !resumes,
            Ok(Event::Tick(_) | Event::Reconnected { .. } | Event::Gap { .. }) => false,
            Err(error) => error.come_back() == Return::AtOnceWithoutResume,
        };
        if forgets {
            self.forget();
        }
        self.items.push_back(item);
    }

    fn forget(&mut self) {
        self.known = None;
        self.items
            .retain(|held| !matches!(held, Ok(Event::Tick(_) | Event::Gap { .. })));
    }

    /// When the first is due, as far as is known at `now`; none where nothing is held or the time was never known.
    fn due(&mut self, estimator: &Estimator, now: Mono) -> Option<Mono> {
        if let Some(estimate) = estimator.estimate(now) {
            self.known = Some((now, estimate.unix));
        }
        match self.items.front()? {
            Ok(Event::Tick(tick)) if tick.quality != Quality::Replay => {
                let (at, unix) = self.known?;
                let time = tick.epoch.time();
                let ns = |time: UnixTime| i128::from(time.as_nanos());
                let to_go =
                    Duration::from_nanos(u64::try_from(ns(time) - ns(unix)).unwrap_or_default());
                Some(at + to_go)
            }
            // What the edge has released long ago, and what is no tick, waits for nothing but its turn.
            Ok(_) | Err(_) => Some(now),
        }
    }

    /// Takes out the first, if it is due at `now`. It is a tick of `now`, however early it was read.
    fn pop(&mut self, estimator: &Estimator, now: Mono) -> Option<Item> {
        self.due(estimator, now).filter(|&due| due <= now)?;
        let mut item = self.items.pop_front()?;
        if let Ok(Event::Tick(tick)) = &mut item
            && tick.quality != Quality::Replay
        {
            tick.read = estimator.estimate(now);
        }
        Some(item)
    }
}

/// Hands on what comes in, each tick at its time, until either end is closed.
pub(crate) async fn release<C: AlarmClock>(
    mut incoming: mpsc::Receiver<Item>,
    outgoing: mpsc::Sender<Item>,
    mut estimator: watch::Receiver<Estimator>,
    clock: Arc<C>,
) {
    let (mut held, mut ended, mut learns) = (Held::default(), false, true);
    let mut timer = C::Timer::default();
    loop {
        let now = clock.now();
        let (item, due) = {
            let estimator = estimator.borrow_and_update();
            (held.pop(&estimator, now), held.due(&estimator, now))
        };
        if let Some(item) = item {
            if outgoing.send(item).await.is_err() {
                return;
            }
            continue;
        }
        if ended && due.is_none() {
            // Nobody will tell the time of what is left any more, but for the reason.
            held.forget();
            if held.items.is_empty() {
                return;
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
            // The wait is set anew.
            changed = estimator.changed(), if learns => learns = changed.is_ok(),
            () = clock.wait_until(&mut timer, due.unwrap_or(Mono::NEVER)), if due.is_some() => {}
        }
    }
}
