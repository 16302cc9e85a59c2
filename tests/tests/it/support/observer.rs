//! Clients that record each tick with its arrival, and assert at the end that no tick was missing,
//! repeated or early. Each client has its own thread, so that the test's other work does not delay
//! the arrivals.

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

/// The number of ticks that a median is calculated from.
pub(crate) const SPAN: usize = 20;

/// The growth of a median that is tolerated: the default of TIME_ERROR_MAX_MS, which is about the
/// lateness that people notice. Load in the meantime adds some milliseconds to half of the ticks. A
/// defect adds a second or more to each tick, such as an edge that waits for a clock that is gone,
/// that releases a tick only when it is announced again, or whose sends wait for a connection to be
/// established.
const GROWTH_MAX_US: i64 = 250_000;

/// The time by which an edge may be ahead of the host's clock, which its clocks read: half the
/// longest round trip of a sample (CLOCK_TOLERANCE_MS), and 12 ms for a minute of holdover. A busy
/// machine only makes ticks later. A falseticker that is accepted, or whose time counts for a
/// third, makes ticks early by minutes.
const EARLY_MAX_US: i64 = 32_000;

/// The lateness that is tolerated for ticks other than REPLAY, which a tick becomes one second
/// after its time. Only a wrong time explains more, such as that of an accepted falseticker, which
/// is off by an hour.
const LATE_MAX_US: i64 = 60_000_000;

/// The age of a MINUTE client's resume point, so that it immediately has ticks to compare.
const MINUTES_BACK: Duration = Duration::from_secs(300);

/// A tick and its arrival by the host's clock, which the clocks of the cluster also read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObservedTick {
    pub(crate) epoch_ms: i64,
    pub(crate) quality: Quality,
    /// The time from the tick's epoch to its arrival.
    pub(crate) late_us: i64,
}

/// The observations of a client so far.
#[derive(Debug, Default)]
struct Observations {
    start_ms: Option<i64>,
    ticks: Vec<ObservedTick>,
    /// Descriptions of connections that ended and of new ones.
    moves: Vec<String>,
    /// The gaps that the client reported, as the last tick before and the first tick after each.
    gaps: Vec<(i64, i64)>,
    /// Descriptions of events that must not happen: an edge violates the protocol, the client can't
    /// resume, or the stream ends.
    faults: Vec<String>,
}

/// A client that records every tick until it is stopped.
pub(crate) struct Observer {
    name: &'static str,
    period_ms: i64,
    observations: Arc<Mutex<Observations>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Starts a client for SECOND ticks. It tries to connect until it succeeds for the first time,
    /// and then follows `options`.
    pub(crate) fn start(name: &'static str, options: Options) -> Self {
        Self::of(name, Mode::Second, options)
    }

    /// Does the same for MINUTE ticks, and resumes from five minutes ago.
    pub(crate) fn minutes(name: &'static str, options: Options) -> Self {
        let from = now_us() / 1_000 - i64::try_from(MINUTES_BACK.as_millis()).unwrap();
        let options = options
            .mode(Mode::Minute)
            .resume_after(Epoch::from_ms(from));
        Self::of(name, Mode::Minute, options)
    }

    fn of(name: &'static str, mode: Mode, options: Options) -> Self {
        let observations = Arc::new(Mutex::new(Observations::default()));
        let (stop, mut stopped) = watch::channel(false);
        let recorded = Arc::clone(&observations);
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                tokio::select! {
                    _ = stopped.wait_for(|stop| *stop) => {}
                    () = watch(options, &recorded) => {}
                }
            });
        });
        Self {
            name,
            period_ms: mode.period_ms(),
            observations,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns how many ticks the client has received.
    pub(crate) fn count(&self) -> usize {
        self.observations().ticks.len()
    }

    /// Waits until the client has received `count` more ticks.
    pub(crate) async fn await_ticks(&self, count: usize) {
        self.await_total(self.count() + count).await;
    }

    /// Waits until the client has received `count` ticks in total.
    pub(crate) async fn await_total(&self, count: usize) {
        let what = format!("{} receives {count} ticks", self.name);
        let missing = count.saturating_sub(self.count()).try_into().unwrap();
        let time_max = PATIENCE + Duration::from_secs(missing);
        let done = async || self.count() >= count || !self.observations().faults.is_empty();
        eventually(&what, time_max, done).await;
        self.assert_no_faults();
    }

    /// Waits until `count` consecutive ticks that arrive after the call have this quality.
    pub(crate) async fn await_quality(&self, quality: Quality, count: usize) {
        let from = self.count();
        let what = format!(
            "{} receives {count} consecutive {quality:?} ticks",
            self.name
        );
        let done = async || {
            let observations = self.observations();
            let since = observations.ticks.get(from..).unwrap_or_default();
            let last = since.iter().rev().take(count);
            since.len() >= count && last.into_iter().all(|tick| tick.quality == quality)
        };
        eventually(&what, PATIENCE, done).await;
    }

    /// Returns the median lateness of the [`SPAN`] ticks that start at index `from`, in
    /// microseconds.
    pub(crate) fn median_lateness_us(&self, from: usize) -> i64 {
        let observations = self.observations();
        let mut late: Vec<_> = observations.ticks[from..from + SPAN]
            .iter()
            .map(|tick| tick.late_us)
            .collect();
        late.sort_unstable();
        i64::midpoint(late[SPAN / 2 - 1], late[SPAN / 2])
    }

    /// Returns the ticks received so far.
    pub(crate) fn ticks(&self) -> Vec<ObservedTick> {
        self.observations().ticks.clone()
    }

    /// Asserts that nothing has gone wrong so far.
    pub(crate) fn assert_no_faults(&self) {
        self.observations()
            .assert_no_faults(self.name, self.period_ms, false);
    }

    /// Stops the client and returns its ticks. Asserts that there are at least `count_min`, and
    /// that none is missing, repeated or early.
    pub(crate) fn finish(self, count_min: usize) -> Vec<ObservedTick> {
        self.assert_no_faults();
        let (name, observations) = (self.name, self.stop());
        assert!(
            observations.ticks.len() >= count_min,
            "{name} has received fewer than {count_min} ticks: {observations:#?}"
        );
        observations.ticks
    }

    /// Stops the client and returns the gaps that it has reported. Asserts that no other tick is
    /// missing, and that none is repeated or early.
    pub(crate) fn finish_with_gaps(self) -> Vec<(i64, i64)> {
        let (name, period_ms, observations) = (self.name, self.period_ms, self.stop());
        observations.assert_no_faults(name, period_ms, true);
        observations.gaps
    }

    fn stop(mut self) -> Observations {
        self.stop.send_replace(true);
        let thread = self.thread.take().expect("it is stopped only once");
        thread.join().unwrap();
        mem::take(&mut *self.observations())
    }

    fn observations(&self) -> MutexGuard<'_, Observations> {
        // If the client's thread has panicked, joining it reports that.
        self.observations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // After it was stopped, its observations have been taken out.
        if thread::panicking() && self.thread.is_some() {
            eprintln!("--- {} observed: {:?}", self.name, self.observations());
        }
    }
}

impl Observations {
    fn assert_no_faults(&self, name: &str, period_ms: i64, allow_gaps: bool) {
        let faults = self.all_faults(period_ms, allow_gaps);
        assert!(faults.is_empty(), "{name}: {faults:#?} in {self:#?}");
    }

    /// Returns everything that is wrong. With `allow_gaps`, gaps that the client has reported are
    /// not faults.
    fn all_faults(&self, period_ms: i64, allow_gaps: bool) -> Vec<String> {
        let mut faults = self.faults.clone();
        let mut last = self.start_ms;
        for &ObservedTick {
            epoch_ms,
            quality,
            late_us,
        } in &self.ticks
        {
            let is_reported = |after| allow_gaps && self.gaps.contains(&(after, epoch_ms));
            if let Some(last) = last
                && epoch_ms != next_tick(last, period_ms)
                && !is_reported(last)
            {
                faults.push(format!("tick {epoch_ms} after tick {last}"));
            }
            if late_us < -EARLY_MAX_US {
                faults.push(format!("tick {epoch_ms} was {} µs early", -late_us));
            }
            if late_us > LATE_MAX_US && quality != Quality::Replay {
                faults.push(format!(
                    "tick {epoch_ms} ({quality:?}) was {late_us} µs late"
                ));
            }
            last = Some(epoch_ms);
        }
        faults
    }
}

/// One client of each kind: SECOND, SECOND ahead, and MINUTE. Each kind may lose or repeat ticks in
/// its own way.
pub(crate) struct Observers {
    plain: Observer,
    ahead: Observer,
    minutes: Observer,
}

impl Observers {
    /// Starts all of the clients with these options.
    pub(crate) fn start(options: &Options) -> Self {
        Self {
            plain: Observer::start("plain", options.clone()),
            ahead: Observer::start("ahead", options.clone().ahead(true)),
            minutes: Observer::minutes("minutes", options.clone()),
        }
    }

    /// Returns the client that receives SECOND ticks at their time.
    pub(crate) fn plain(&self) -> &Observer {
        &self.plain
    }

    /// Waits until each of the clients has received a tick.
    pub(crate) async fn await_first_ticks(&self) {
        for observer in [&self.plain, &self.ahead, &self.minutes] {
            observer.await_total(1).await;
        }
    }

    /// Runs `event`, which does something to the cluster. Compared with the 20 ticks before, the
    /// median lateness may grow by at most [`GROWTH_MAX_US`], both for the first 20 ticks after the
    /// event began and for the first 20 ticks after it ended.
    pub(crate) async fn tolerate(&self, what: &str, event: impl AsyncFnOnce()) {
        self.await_first_ticks().await;
        let observers = [&self.plain, &self.ahead];
        for observer in observers {
            observer.await_total(SPAN).await;
        }
        let starts = observers.map(Observer::count);
        event().await;
        let ends = observers.map(Observer::count);
        for (index, observer) in observers.into_iter().enumerate() {
            let (start, end) = (starts[index], ends[index]);
            observer.await_total(end + SPAN).await;
            let before = observer.median_lateness_us(start - SPAN);
            let after = [start, end].map(|from| observer.median_lateness_us(from));
            let name = observer.name;
            let report =
                format!("{what}: median lateness of {name} {before} µs, afterwards {after:?} µs");
            let max = before + GROWTH_MAX_US;
            assert!(after.into_iter().max() <= Some(max), "{report}");
            println!("{report}");
        }
    }

    /// Stops all of the clients. Asserts that no tick was missing, repeated or early.
    pub(crate) fn finish(self) {
        self.plain.finish(1);
        self.ahead.finish(1);
        self.minutes.finish(4);
    }
}

/// Records all events of a client until the stream ends, which it does only if the client gives up.
async fn watch(options: Options, observations: &Mutex<Observations>) {
    let update =
        |change: &mut dyn FnMut(&mut Observations)| change(&mut observations.lock().unwrap());
    let mut ticks = first_connection(options, observations).await;
    let start = ticks.start_epoch().as_ms();
    update(&mut |observations| observations.start_ms = Some(start));
    while let Some(event) = ticks.next().await {
        let now_us = now_us();
        update(&mut |observations| observations.record(&event, now_us));
    }
    update(&mut |observations| observations.faults.push("the stream ended".to_owned()));
}

impl Observations {
    fn record(&mut self, event: &Result<Event, Error>, now_us: i64) {
        match event {
            Ok(Event::Tick(tick)) => self.ticks.push(ObservedTick {
                epoch_ms: tick.epoch.as_ms(),
                quality: tick.quality,
                late_us: now_us - tick.epoch.time().as_micros(),
            }),
            Ok(Event::Reconnecting {
                why,
                after,
                resumes,
                ..
            }) => {
                self.moves
                    .push(format!("{now_us}: {why}; reconnecting in {after:?}"));
                if !resumes || matches!(why, Error::Protocol(_)) {
                    self.faults
                        .push(format!("the client can't resume after: {why:?}"));
                }
            }
            Ok(Event::Reconnected {
                address, edge_id, ..
            }) => {
                self.moves
                    .push(format!("{now_us}: connected to {edge_id} at {address}"));
            }
            Ok(Event::Moved {
                address, edge_id, ..
            }) => {
                self.moves
                    .push(format!("{now_us}: moved to {edge_id} at {address}"));
            }
            Ok(Event::Gap { after, before, .. }) => self.gaps.push((after.as_ms(), before.as_ms())),
            Ok(event) => self.faults.push(format!("unknown event: {event:?}")),
            Err(error) => self.faults.push(format!("the connection ended: {error}")),
        }
    }
}

async fn first_connection(options: Options, observations: &Mutex<Observations>) -> Ticks {
    loop {
        match connect(options.clone()).await {
            Ok(ticks) => return ticks,
            Err(error) => observations.lock().unwrap().moves.push(error.to_string()),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn next_tick(after_ms: i64, period_ms: i64) -> i64 {
    (after_ms.div_euclid(period_ms) + 1) * period_ms
}

/// Returns the Unix time by the host's clock, in microseconds.
pub(crate) fn now_us() -> i64 {
    SystemHost::default().read().unix.as_micros()
}
