//! Clients of the cluster that come back by themselves, and take note of every tick: whether it is the one after the last, and
//! nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tickstorm_client::error::ErrorCode;
use tickstorm_client::{Error, Event, Options, Ticks};
use tickstorm_testkit::poll_until;
use tickstorm_timebase::{Clock as _, Mono, SystemClock};
use tokio::runtime::{self, Runtime};

/// A client may have to find its edge silent (20 s) and to wait a few times before it is back.
const BACK_BOUND: Duration = Duration::from_secs(60);

/// One second, in the unit of ticks.
const STEP_MS: i64 = 1_000;

/// Clients through the balancer, on a runtime of their own: however long a command of the test takes, they read.
pub struct Crowd {
    members: Vec<Arc<Mutex<Record>>>,
    /// Dropping it ends them.
    _runtime: Runtime,
}

/// What one client has seen.
#[derive(Default)]
struct Record {
    last_ms: Option<i64>,
    /// What must not be.
    wrongs: Vec<String>,
    /// When an edge sent it away because it was being shut down.
    drained: Vec<Mono>,
    /// How often its connection ended.
    ends: usize,
    /// When its last tick came.
    heard: Option<Mono>,
    /// The longest time from one tick to the next.
    silence: Duration,
}

impl Crowd {
    /// Gathers so many clients, each of which has its first tick.
    ///
    /// # Panics
    /// Where one has none.
    #[must_use]
    pub fn gather(addr: SocketAddr, count: usize) -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let members: Vec<_> = (0..count).map(|_| Arc::default()).collect();
        for record in &members {
            runtime.spawn(follow(addr, Arc::clone(record)));
        }
        let crowd = Self {
            members,
            _runtime: runtime,
        };
        poll_until("each client has a tick", BACK_BOUND, || {
            crowd.assert_nothing_wrong();
            crowd.each(|record| record.last_ms.is_some())
        });
        crowd
    }

    /// Waits until there are ticks that nobody has had yet: whatever is broken just now, the cluster tells the time.
    pub fn await_news(&self, secs: i64) {
        let wanted = self.newest_ms() + secs * STEP_MS;
        poll_until("ticks go on", BACK_BOUND, || self.newest_ms() >= wanted);
    }

    /// Waits until every client is where the first ones are, and asserts that none missed or doubled a tick on the way.
    pub fn assert_unbroken(&self) {
        self.await_news(1);
        let wanted = self.newest_ms();
        poll_until("each client has caught up", BACK_BOUND, || {
            self.assert_nothing_wrong();
            self.each(|record| record.last_ms >= Some(wanted))
        });
        self.assert_nothing_wrong();
    }

    /// How often connections ended, all clients taken together.
    pub fn ends(&self) -> usize {
        self.members
            .iter()
            .map(|one| one.lock().unwrap().ends)
            .sum()
    }

    /// The longest time that one of them waited for a tick.
    pub fn silence(&self) -> Duration {
        let members = self.members.iter();
        let silences = members.map(|one| one.lock().unwrap().silence);
        silences.max().unwrap_or_default()
    }

    /// When edges that were being shut down sent clients away.
    pub fn drained(&self) -> Vec<Mono> {
        let members = self.members.iter();
        members
            .flat_map(|one| one.lock().unwrap().drained.clone())
            .collect()
    }

    fn newest_ms(&self) -> i64 {
        let members = self.members.iter();
        let newest = members.filter_map(|one| one.lock().unwrap().last_ms).max();
        newest.unwrap_or_default()
    }

    fn each(&self, holds: impl Fn(&Record) -> bool) -> bool {
        self.members.iter().all(|one| holds(&one.lock().unwrap()))
    }

    fn assert_nothing_wrong(&self) {
        let members = self.members.iter();
        let wrongs: Vec<_> = members
            .flat_map(|one| one.lock().unwrap().wrongs.clone())
            .collect();
        assert!(
            wrongs.is_empty(),
            "{} faults, of {} clients: {:#?}",
            wrongs.len(),
            self.members.len(),
            &wrongs[..wrongs.len().min(10)]
        );
    }
}

impl Record {
    fn note(&mut self, event: Event) {
        match event {
            Event::Tick(tick) => {
                let epoch_ms = tick.epoch.as_ms();
                if let Some(last_ms) = self.last_ms
                    && epoch_ms != last_ms + STEP_MS
                {
                    self.wrongs.push(format!("{epoch_ms} after {last_ms}"));
                }
                self.last_ms = Some(epoch_ms);
                let now = SystemClock.now();
                let before = self.heard.replace(now).unwrap_or(now);
                self.silence = self.silence.max(now.since(before));
            }
            Event::Reconnecting { why, resumes, .. } => {
                self.ends += 1;
                if is_drain(&why) {
                    self.drained.push(SystemClock.now());
                }
                if !resumes {
                    self.wrongs.push(format!("does not resume after: {why}"));
                }
            }
            Event::Gap { after, before } => {
                let (after, before) = (after.as_ms(), before.as_ms());
                self.wrongs.push(format!("a gap from {after} to {before}"));
            }
            Event::Reconnected { .. } | _ => {}
        }
    }
}

async fn follow(addr: SocketAddr, record: Arc<Mutex<Record>>) {
    let wrong = |text: String| record.lock().unwrap().wrongs.push(text);
    let mut ticks = match connect(addr).await {
        Ok(ticks) => ticks,
        Err(error) => return wrong(format!("the first connection: {error}")),
    };
    while let Some(event) = ticks.next().await {
        match event {
            Ok(event) => record.lock().unwrap().note(event),
            Err(error) => wrong(format!("the end: {error}")),
        }
    }
    wrong("it ended, which a client that comes back by itself never does".to_owned());
}

/// A client with the credentials of .env.example.
pub async fn connect(addr: SocketAddr) -> Result<Ticks, Error> {
    let options = Options::new(addr.to_string()).credentials("stream_user", "stream_pass");
    tickstorm_client::connect(options).await
}

fn is_drain(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Ok(ErrorCode::ServerDraining))
}
