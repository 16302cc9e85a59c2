//! Clients of the cluster that reconnect by themselves and check that no tick is missing or
//! repeated.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tickstorm_client::error::ErrorCode;
use tickstorm_client::{Error, Event, Options, Ticks};
use tickstorm_testkit::poll_until;
use tickstorm_timebase::{Clock as _, HostClock as _, Mono, SystemClock, SystemHost};
use tokio::runtime::{self, Runtime};

/// The time limit for a client to be connected again. It may have to notice first that its edge is
/// silent (20 s), and then to try several times.
const RECONNECT_MAX: Duration = Duration::from_secs(60);

/// If this variable is set, clients ignore GOING_AWAY, as those of earlier versions do. Tests of
/// moves then fail, and print how late the ticks were.
const STAY: &str = "TICKSTORM_TEST_CLIENTS_STAY";

/// The time from one tick to the next, in milliseconds.
const STEP_MS: i64 = 1_000;

/// Clients that connect through the load balancer. They have their own runtime, so that they keep
/// reading however long a command of the test takes.
pub struct Clients {
    records: Vec<Arc<Mutex<Record>>>,
    /// Stops the clients when it is dropped.
    _runtime: Runtime,
}

/// How late a tick was at the client that got it last, by the clock of this machine, which all
/// clocks of the cluster read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    /// Among the clients that did not move within two seconds of the tick.
    pub settled: Duration,
    /// Among the clients that did.
    pub moving: Duration,
}

impl Lateness {
    /// Returns how late the tick was at the last of all clients.
    #[must_use]
    pub fn worst(self) -> Duration {
        self.settled.max(self.moving)
    }
}

/// A client is moving from this time before its move until as long after it.
const MOVING: Duration = Duration::from_secs(2);

/// The observations of one client.
#[derive(Default)]
struct Record {
    last_ms: Option<i64>,
    /// Descriptions of everything that must not happen.
    faults: Vec<String>,
    /// The times at which an edge that was draining sent the client away.
    drained: Vec<Mono>,
    /// The times at which the client moved to another edge before its connection ended.
    moved: Vec<Mono>,
    /// Each tick's time in milliseconds, when it arrived, and how late.
    arrivals: Vec<(i64, Mono, Duration)>,
    /// The number of connections that ended.
    disconnections: usize,
    /// The time at which the last tick arrived.
    last_arrival: Option<Mono>,
    /// The longest time between the arrivals of two ticks.
    longest_silence: Duration,
}

impl Clients {
    /// Starts `count` clients and waits until each has received a tick.
    ///
    /// # Panics
    /// Panics if a client receives none within a minute.
    #[must_use]
    pub fn connect(addr: SocketAddr, count: usize) -> Self {
        Self::connect_with(&options(addr), count)
    }

    /// Does the same as [`connect`](Self::connect), with other options.
    ///
    /// # Panics
    /// Panics if a client receives no tick within a minute.
    #[must_use]
    pub fn connect_with(options: &Options, count: usize) -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let records: Vec<_> = (0..count).map(|_| Arc::default()).collect();
        for record in &records {
            runtime.spawn(follow(options.clone(), Arc::clone(record)));
        }
        let clients = Self {
            records,
            _runtime: runtime,
        };
        poll_until("each client has a tick", RECONNECT_MAX, || {
            clients.assert_no_faults();
            clients.all(|record| record.last_ms.is_some())
        });
        clients
    }

    /// Waits until some client has received `secs` ticks more than any has now, which shows that
    /// the cluster still releases ticks.
    pub fn await_ticks(&self, secs: i64) {
        let wanted = self.newest_ms() + secs * STEP_MS;
        poll_until("further ticks arrive", RECONNECT_MAX, || {
            self.newest_ms() >= wanted
        });
    }

    /// Waits until every client has caught up with the fastest ones, and asserts that none of them
    /// missed a tick or received one twice.
    pub fn assert_unbroken(&self) {
        self.await_ticks(1);
        let wanted = self.newest_ms();
        poll_until("each client has caught up", RECONNECT_MAX, || {
            self.assert_no_faults();
            self.all(|record| record.last_ms >= Some(wanted))
        });
        self.assert_no_faults();
    }

    /// Returns how late each tick was at the client that got it last, and forgets it. The newest
    /// tick, which may still be on its way, is left for the next call.
    pub fn take_lateness(&self) -> Vec<Lateness> {
        let newest_ms = self.newest_ms();
        let mut by_tick = BTreeMap::<i64, Lateness>::new();
        for record in &self.records {
            let mut record = record.lock().unwrap();
            let (newest, taken) = mem::take(&mut record.arrivals)
                .into_iter()
                .partition(|(epoch_ms, ..)| *epoch_ms >= newest_ms);
            record.arrivals = newest;
            for (epoch_ms, arrived, late) in taken {
                let lateness = by_tick.entry(epoch_ms).or_default();
                let worst = if record.moves_at(arrived) {
                    &mut lateness.moving
                } else {
                    &mut lateness.settled
                };
                *worst = late.max(*worst);
            }
        }
        by_tick.into_values().collect()
    }

    /// Returns how many connections of all clients together have ended.
    pub fn disconnections(&self) -> usize {
        self.records
            .iter()
            .map(|record| record.lock().unwrap().disconnections)
            .sum()
    }

    /// Returns the longest time that any client waited for a tick.
    pub fn longest_silence(&self) -> Duration {
        let records = self.records.iter();
        let silences = records.map(|record| record.lock().unwrap().longest_silence);
        silences.max().unwrap_or_default()
    }

    /// Returns the times at which draining edges closed connections.
    pub fn drained(&self) -> Vec<Mono> {
        self.times(|record| &record.drained)
    }

    /// Returns the times at which clients moved to another edge before their connection ended.
    pub fn moved(&self) -> Vec<Mono> {
        self.times(|record| &record.moved)
    }

    fn times(&self, of: fn(&Record) -> &Vec<Mono>) -> Vec<Mono> {
        let records = self.records.iter();
        records
            .flat_map(|record| of(&record.lock().unwrap()).clone())
            .collect()
    }

    fn newest_ms(&self) -> i64 {
        let records = self.records.iter();
        let newest = records
            .filter_map(|record| record.lock().unwrap().last_ms)
            .max();
        newest.unwrap_or_default()
    }

    fn all(&self, holds: impl Fn(&Record) -> bool) -> bool {
        self.records
            .iter()
            .all(|record| holds(&record.lock().unwrap()))
    }

    fn assert_no_faults(&self) {
        let records = self.records.iter();
        let faults: Vec<_> = records
            .flat_map(|record| record.lock().unwrap().faults.clone())
            .collect();
        assert!(
            faults.is_empty(),
            "{} faults seen by {} clients, the first of them: {:#?}",
            faults.len(),
            self.records.len(),
            &faults[..faults.len().min(10)]
        );
    }
}

impl Record {
    /// Returns whether the client moved shortly before or after this time.
    fn moves_at(&self, time: Mono) -> bool {
        self.moved
            .iter()
            .any(|moved| moved.since(time).max(time.since(*moved)) <= MOVING)
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Tick(tick) => {
                let epoch_ms = tick.epoch.as_ms();
                if let Some(last_ms) = self.last_ms
                    && epoch_ms != last_ms + STEP_MS
                {
                    self.faults
                        .push(format!("tick {epoch_ms} after tick {last_ms}"));
                }
                self.last_ms = Some(epoch_ms);
                let now = SystemClock.now();
                self.arrivals.push((epoch_ms, now, lateness(epoch_ms)));
                let before = self.last_arrival.replace(now).unwrap_or(now);
                self.longest_silence = self.longest_silence.max(now.since(before));
            }
            Event::Reconnecting { why, resumes, .. } => {
                self.disconnections += 1;
                if is_drain(&why) {
                    self.drained.push(SystemClock.now());
                }
                if !resumes {
                    self.faults.push(format!("can't resume after: {why}"));
                }
            }
            Event::Gap { after, before, .. } => {
                let (after, before) = (after.as_ms(), before.as_ms());
                self.faults
                    .push(format!("gap between {after} and {before}"));
            }
            Event::Moved { .. } => self.moved.push(SystemClock.now()),
            Event::Reconnected { .. } | _ => {}
        }
    }
}

async fn follow(options: Options, record: Arc<Mutex<Record>>) {
    let fault = |text: String| record.lock().unwrap().faults.push(text);
    let mut ticks = match tickstorm_client::connect(options).await {
        Ok(ticks) => ticks,
        Err(error) => return fault(format!("the first connection failed: {error}")),
    };
    while let Some(event) = ticks.next().await {
        match event {
            Ok(event) => record.lock().unwrap().note(event),
            Err(error) => fault(format!("the client gave up: {error}")),
        }
    }
    fault("the client stopped, although it should reconnect without limit".to_owned());
}

/// Returns the time by which a tick that arrives now is late.
fn lateness(epoch_ms: i64) -> Duration {
    let now_us = SystemHost::new(0).read().unix.as_micros();
    let late_us = now_us.saturating_sub(epoch_ms.saturating_mul(1_000));
    Duration::from_micros(u64::try_from(late_us).unwrap_or(0))
}

/// Connects one client with the credentials of `.env.example`.
pub async fn connect(addr: SocketAddr) -> Result<Ticks, Error> {
    tickstorm_client::connect(options(addr)).await
}

/// Returns the options of a client with the credentials of `.env.example`.
#[must_use]
pub fn options(addr: SocketAddr) -> Options {
    Options::new(addr.to_string())
        .credentials("stream_user", "stream_pass")
        .moves(std::env::var_os(STAY).is_none())
}

fn is_drain(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Ok(ErrorCode::ServerDraining))
}
