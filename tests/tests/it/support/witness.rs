//! Witnesses: clients that note each tick with its arrival, and swear at the end that none was missing, doubled or early. Each
//! watches on a thread of its own, so that whatever the test does meanwhile makes nothing look late.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tickstorm_client::{Epoch, Error, Event, Mode, Options, Quality, Ticks, connect};
use tickstorm_timebase::{HostClock as _, SystemHost};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::sleep;

use super::eventually;
use crate::tickstorm::PATIENCE;

/// How many ticks a median is taken of.
pub(crate) const SPAN: usize = 20;

/// How much a median may grow by what befell the cluster: TIME_ERROR_MAX_MS, which people notice. Load that comes meanwhile adds
/// some milliseconds to half of the ticks. An edge that waits for a clock that is gone, that releases a tick when it is announced again,
/// or whose sends wait for a connection that is being made adds a second or more to each.
const GROWTH_MAX_US: i64 = 250_000;

/// By how much an edge's time may be ahead of the host's clock, which its clocks read: half the longest round trip of a sample
/// (CLOCK_TOLERANCE_MS), and 12 ms for a minute of holdover. A busy machine only adds to how late a tick is. A falseticker that is
/// believed, or whose time counts for a third, makes it earlier by minutes.
const EARLY_MAX_US: i64 = 32_000;

/// How late a tick may be that is no REPLAY, which it becomes a second after its time: so late that only a wrong time explains it,
/// as that of a falseticker that is believed, which is an hour off.
const LATE_MAX_US: i64 = 60_000_000;

/// A MINUTE client's resume point lies so far back: it has ticks to compare at once.
const MINUTES_BACK: Duration = Duration::from_secs(300);

/// A tick, and when it came by the host's clock, which the daemons' clocks read too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) epoch_ms: i64,
    pub(crate) quality: Quality,
    /// How long after its time it came.
    pub(crate) late_us: i64,
}

/// What a witness has noted so far.
#[derive(Debug, Default)]
struct Notes {
    start_ms: Option<i64>,
    ticks: Vec<Seen>,
    /// Connections that ended, and new ones.
    moves: Vec<String>,
    /// What the client said that it could not have: the ticks between these two.
    gaps: Vec<(i64, i64)>,
    /// What must not have been: an edge that breaks the protocol, a beginning anew, an end.
    faults: Vec<String>,
}

/// A client that watches until it is asked to testify.
pub(crate) struct Witness {
    name: &'static str,
    period_ms: i64,
    notes: Arc<Mutex<Notes>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Connects as `options` say, again and again until there is a first connection.
    pub(crate) fn start(name: &'static str, options: Options) -> Self {
        Self::of(name, Mode::Second, options)
    }

    /// The same with MINUTE ticks, from five minutes ago on.
    pub(crate) fn minutes(name: &'static str, options: Options) -> Self {
        let from = now_us() / 1_000 - i64::try_from(MINUTES_BACK.as_millis()).unwrap();
        let options = options
            .mode(Mode::Minute)
            .resume_after(Epoch::from_ms(from));
        Self::of(name, Mode::Minute, options)
    }

    fn of(name: &'static str, mode: Mode, options: Options) -> Self {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (stop, mut stopped) = watch::channel(false);
        let noted = Arc::clone(&notes);
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                tokio::select! {
                    _ = stopped.wait_for(|stop| *stop) => {}
                    () = watch(options, &noted) => {}
                }
            });
        });
        Self {
            name,
            period_ms: mode.period_ms(),
            notes,
            stop,
            thread: Some(thread),
        }
    }

    /// How many ticks it has seen.
    pub(crate) fn count(&self) -> usize {
        self.notes().ticks.len()
    }

    /// Waits until it has seen `count` more ticks.
    pub(crate) async fn sees(&self, count: usize) {
        self.sees_up_to(self.count() + count).await;
    }

    /// Waits until it has seen `count` ticks in all.
    pub(crate) async fn sees_up_to(&self, count: usize) {
        let what = format!("{} sees {count} ticks", self.name);
        let missing = count.saturating_sub(self.count()).try_into().unwrap();
        let bound = PATIENCE + Duration::from_secs(missing);
        let seen = async || self.count() >= count || !self.notes().faults.is_empty();
        eventually(&what, bound, seen).await;
        self.check();
    }

    /// Waits until `count` ticks in a row that came since now are of that quality.
    pub(crate) async fn sees_quality(&self, quality: Quality, count: usize) {
        let from = self.count();
        let what = format!("{} sees {count} {quality:?} ticks in a row", self.name);
        let seen = async || {
            let notes = self.notes();
            let since = notes.ticks.get(from..).unwrap_or_default();
            let last = since.iter().rev().take(count);
            since.len() >= count && last.into_iter().all(|seen| seen.quality == quality)
        };
        eventually(&what, PATIENCE, seen).await;
    }

    /// The median lateness of the first 20 ticks from that one on, in microseconds.
    pub(crate) fn median_late_us(&self, from: usize) -> i64 {
        let notes = self.notes();
        let mut late: Vec<_> = notes.ticks[from..from + SPAN]
            .iter()
            .map(|seen| seen.late_us)
            .collect();
        late.sort_unstable();
        i64::midpoint(late[SPAN / 2 - 1], late[SPAN / 2])
    }

    /// What it has seen so far.
    pub(crate) fn ticks(&self) -> Vec<Seen> {
        self.notes().ticks.clone()
    }

    /// Says what is wrong with what it has seen so far, if anything is.
    pub(crate) fn check(&self) {
        self.notes().check(self.name, self.period_ms, false);
    }

    /// Ends it: it has seen `least` ticks or more, none was missing, doubled or early. Its ticks.
    pub(crate) fn testify(self, least: usize) -> Vec<Seen> {
        self.check();
        let (name, notes) = (self.name, self.end());
        assert!(notes.ticks.len() >= least, "{name}: {notes:#?}");
        notes.ticks
    }

    /// Ends it as [`Self::testify`] does, but for the gaps that its client told of, which it gives.
    pub(crate) fn testify_to_gaps(self) -> Vec<(i64, i64)> {
        let (name, period_ms, notes) = (self.name, self.period_ms, self.end());
        notes.check(name, period_ms, true);
        notes.gaps
    }

    fn end(mut self) -> Notes {
        self.stop.send_replace(true);
        let thread = self.thread.take().expect("it ends once");
        thread.join().unwrap();
        mem::take(&mut *self.notes())
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // A watcher that panicked is told of when it is joined.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // One that has ended has nothing left to tell.
        if thread::panicking() && self.thread.is_some() {
            eprintln!("--- {} noted: {:?}", self.name, self.notes());
        }
    }
}

impl Notes {
    fn check(&self, name: &str, period_ms: i64, gaps: bool) {
        let faults = self.faults(period_ms, gaps);
        assert!(faults.is_empty(), "{name}: {faults:#?} in {self:#?}");
    }

    /// What is wrong; `gaps` are none where the client told of them.
    fn faults(&self, period_ms: i64, gaps: bool) -> Vec<String> {
        let mut faults = self.faults.clone();
        let mut last = self.start_ms;
        for &Seen {
            epoch_ms,
            quality,
            late_us,
        } in &self.ticks
        {
            let told = |after| gaps && self.gaps.contains(&(after, epoch_ms));
            if let Some(last) = last
                && epoch_ms != next_tick(last, period_ms)
                && !told(last)
            {
                faults.push(format!("after {last} came {epoch_ms}"));
            }
            if late_us < -EARLY_MAX_US {
                faults.push(format!("{epoch_ms} came {} µs early", -late_us));
            }
            if late_us > LATE_MAX_US && quality != Quality::Replay {
                faults.push(format!("{epoch_ms}, {quality:?}, came {late_us} µs late"));
            }
            last = Some(epoch_ms);
        }
        faults
    }
}

/// A client of each kind, each of which has its own way to lose or to repeat a tick.
pub(crate) struct Audience {
    plain: Witness,
    ahead: Witness,
    minutes: Witness,
}

impl Audience {
    /// All of them, by these options.
    pub(crate) fn watching(options: &Options) -> Self {
        Self {
            plain: Witness::start("plain", options.clone()),
            ahead: Witness::start("ahead", options.clone().ahead(true)),
            minutes: Witness::minutes("minutes", options.clone()),
        }
    }

    /// The one that sees ticks at their time.
    pub(crate) fn plain(&self) -> &Witness {
        &self.plain
    }

    /// Waits until each of them has seen a tick.
    pub(crate) async fn is_there(&self) {
        for witness in [&self.plain, &self.ahead, &self.minutes] {
            witness.sees_up_to(1).await;
        }
    }

    /// Does what `befalls` the cluster. The 20 ticks from its beginning on and those from its end on may be but a little later, by the
    /// median, than the 20 before it.
    pub(crate) async fn bears(&self, what: &str, befalls: impl AsyncFnOnce()) {
        self.is_there().await;
        let witnesses = [&self.plain, &self.ahead];
        for witness in witnesses {
            witness.sees_up_to(SPAN).await;
        }
        let begins = witnesses.map(Witness::count);
        befalls().await;
        let ends = witnesses.map(Witness::count);
        for (index, witness) in witnesses.into_iter().enumerate() {
            let (begin, end) = (begins[index], ends[index]);
            witness.sees_up_to(end + SPAN).await;
            let was = witness.median_late_us(begin - SPAN);
            let is = [begin, end].map(|from| witness.median_late_us(from));
            let name = witness.name;
            let told = format!("{what}: {name} was late by {was} µs, then by {is:?} µs");
            assert!(is.into_iter().max() <= Some(was + GROWTH_MAX_US), "{told}");
            println!("{told}");
        }
    }

    /// Ends them all: nothing was missing, doubled or early.
    pub(crate) fn testify(self) {
        self.plain.testify(1);
        self.ahead.testify(1);
        self.minutes.testify(4);
    }
}

/// Notes what comes, for ever or until the connection ends for good.
async fn watch(options: Options, notes: &Mutex<Notes>) {
    let note = |change: &mut dyn FnMut(&mut Notes)| change(&mut notes.lock().unwrap());
    let mut ticks = first_connection(options, notes).await;
    let start = ticks.start_epoch().as_ms();
    note(&mut |notes| notes.start_ms = Some(start));
    while let Some(event) = ticks.next().await {
        let now_us = now_us();
        note(&mut |notes| notes.take(&event, now_us));
    }
    note(&mut |notes| notes.faults.push("the stream ended".to_owned()));
}

impl Notes {
    fn take(&mut self, event: &Result<Event, Error>, now_us: i64) {
        match event {
            Ok(Event::Tick(tick)) => self.ticks.push(Seen {
                epoch_ms: tick.epoch.as_ms(),
                quality: tick.quality,
                late_us: now_us - tick.epoch.time().as_micros(),
            }),
            Ok(Event::Reconnecting {
                why,
                after,
                resumes,
            }) => {
                self.moves
                    .push(format!("{now_us}: {why}; again in {after:?}"));
                if !resumes || matches!(why, Error::Protocol(_)) {
                    self.faults
                        .push(format!("no end to come back from: {why:?}"));
                }
            }
            Ok(Event::Reconnected { address, edge_id }) => {
                self.moves.push(format!("{now_us}: {edge_id} at {address}"));
            }
            Ok(Event::Gap { after, before }) => self.gaps.push((after.as_ms(), before.as_ms())),
            Ok(event) => self.faults.push(format!("{event:?} is new to this test")),
            Err(error) => self.faults.push(format!("the connection ended: {error}")),
        }
    }
}

async fn first_connection(options: Options, notes: &Mutex<Notes>) -> Ticks {
    loop {
        match connect(options.clone()).await {
            Ok(ticks) => return ticks,
            Err(error) => notes.lock().unwrap().moves.push(error.to_string()),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn next_tick(after_ms: i64, period_ms: i64) -> i64 {
    (after_ms.div_euclid(period_ms) + 1) * period_ms
}

/// The host's clock.
pub(crate) fn now_us() -> i64 {
    SystemHost::default().read().unix.as_micros()
}
