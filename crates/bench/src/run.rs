//! The parts that every scenario has in common: an edge under test, a generator, authority time,
//! and a report that fills up.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{anyhow, bail};
use tickstorm_client::Mode;
use tickstorm_client::estimate::Estimator;
use tickstorm_command::Failure;
use tickstorm_service::exit;
use tickstorm_timebase::{Clock, Mono, SystemClock};

use super::edge_process::EdgeProcess;
use super::generator::{ClientSetup, Generator, GeneratorShared, Greeting, Harvest};
use super::machine;
use super::options::{CommonOptions, Placement};
use super::orders::{BareSends, BurstPlan, ChildAnswer, ChildOrder, ProcessSample};
use super::progress::ProgressLine;
use super::report::Report;
use super::tls::RunTls;

/// The time that all clients together may take to be served.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// The error of reading a child's authority time, beyond the bound that the edge itself reports, in
/// nanoseconds.
const READING_ERROR_NS: u64 = 10_000;
/// A tick that has not arrived this long after the end of the measurement is lost.
const LATE_MAX: Duration = Duration::from_secs(10);
/// The interval at which conditions are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The number of connects in progress at a time, unless a storm is wanted.
pub(crate) const IN_FLIGHT: u32 = 512;

/// One run of a scenario.
pub(crate) struct ScenarioRun {
    pub(crate) under_test: Option<EdgeProcess>,
    pub(crate) generator: Generator,
    pub(crate) progress: ProgressLine,
    pub(crate) report: Report,
    pub(crate) placement: Placement,
    pub(crate) setup: ClientSetup,
    pub(crate) files_limit: u64,
    tls: RunTls,
    estimator: Estimator,
    started: Mono,
}

impl ScenarioRun {
    /// Starts the edge and a generator for up to `clients` clients at a time.
    pub(crate) fn start(
        scenario: &'static str,
        common: &CommonOptions,
        clients: u32,
        configure: impl FnOnce(&mut ClientSetup, Option<&EdgeProcess>),
    ) -> Result<Self, Failure> {
        Self::start_sized(scenario, common, [clients; 2], &[], configure)
    }

    /// Does the same as [`Self::start`], with settings for the edge in the child process that
    /// override the environment.
    pub(crate) fn start_with(
        scenario: &'static str,
        common: &CommonOptions,
        clients: u32,
        settings: &[(&str, OsString)],
        configure: impl FnOnce(&mut ClientSetup, Option<&EdgeProcess>),
    ) -> Result<Self, Failure> {
        Self::start_sized(scenario, common, [clients; 2], settings, configure)
    }

    /// Does the same as [`Self::start`] if this process will hold `total_clients` clients: those of
    /// the edge and others.
    pub(crate) fn start_beside(
        scenario: &'static str,
        common: &CommonOptions,
        clients: u32,
        total_clients: u32,
        configure: impl FnOnce(&mut ClientSetup, Option<&EdgeProcess>),
    ) -> Result<Self, Failure> {
        Self::start_sized(scenario, common, [clients, total_clients], &[], configure)
    }

    /// Does the same as [`Self::start`] for `clients` clients of the edge and a total of
    /// `total_clients`, with settings for the edge.
    pub(crate) fn start_sized(
        scenario: &'static str,
        common: &CommonOptions,
        [clients, total_clients]: [u32; 2],
        settings: &[(&str, OsString)],
        configure: impl FnOnce(&mut ClientSetup, Option<&EdgeProcess>),
    ) -> Result<Self, Failure> {
        common.check_files()?;
        let placement = common.placement()?;
        let files_limit = common.files_limit()?;
        let remote = common.remote()?;
        let credentials = common.credentials()?;
        let tls = common.tls.prepare(common.addr.as_deref())?;
        let settings = [settings, &tls.edge_settings()].concat();
        let under_test = match remote {
            Some(_) => None,
            None => Some(EdgeProcess::start(&placement.edge, clients, &settings)?),
        };
        let ready = under_test.as_ref().map(|child| child.ready.clone());
        if let Some(ready) = ready
            .as_ref()
            .filter(|ready| ready.connections_max < clients.into())
        {
            let text = format!(
                "the edge under test can hold {} connections, but {clients} are required: \
                 raise the limit of open files (ulimit -n), or set FD_TABLES=per-shard with \
                 enough SHARDS",
                ready.connections_max
            );
            return Err(Failure::message(exit::UNAVAILABLE, text));
        }
        let addr = remote.or(ready.as_ref().map(|ready| ready.addr));
        let addr = addr.ok_or_else(|| anyhow!("there is no edge to test"))?;
        let mut setup = common.setup(addr, &placement, credentials, tls.clients.clone());
        configure(&mut setup, under_test.as_ref());
        let shared = std::sync::Arc::new(GeneratorShared::default());
        let learns_time = remote.is_some();
        let generator = Generator::start_beside(
            setup.clone(),
            shared,
            clients,
            total_clients,
            files_limit,
            learns_time,
        )?;
        let mut run = Self {
            report: Report::new(scenario, common, &placement, ready),
            under_test,
            generator,
            progress: ProgressLine::new(),
            placement,
            setup,
            files_limit,
            tls,
            estimator: Estimator::new(),
            started: SystemClock.now(),
        };
        run.learn_time()?;
        Ok(run)
    }

    /// Returns the child process. Fails if the edge under test is at `--addr`.
    pub(crate) fn child(&mut self) -> anyhow::Result<&mut EdgeProcess> {
        self.under_test
            .as_mut()
            .ok_or_else(|| anyhow!("the edge under test is not a child process"))
    }

    /// Updates authority time: from a sample of the child, which is returned, or from the PONGs of
    /// a remote edge.
    pub(crate) fn learn_time(&mut self) -> anyhow::Result<Option<ProcessSample>> {
        if let Some(child) = &mut self.under_test {
            let sample = child.sample(false)?;
            self.take_time(&sample);
            return Ok(Some(sample));
        }
        if let Ok(mut samples) = self.generator.shared.samples.lock() {
            samples
                .drain(..)
                .for_each(|sample| self.estimator.handle_exchange(&sample));
        }
        let now = SystemClock.now();
        if let Some(estimate) = self.estimator.estimate(now) {
            let offset_ns = estimate
                .unix
                .as_nanos()
                .checked_sub_unsigned(now.as_nanos());
            let error_ns = estimate.error_us.saturating_mul(1_000);
            self.generator
                .shared
                .set_offset(offset_ns.unwrap_or_default(), error_ns);
        }
        Ok(None)
    }

    /// Updates authority time from a sample.
    pub(crate) fn take_time(&self, sample: &ProcessSample) {
        if let Some(offset_ns) = sample.offset_ns {
            let error_ns = u64::from(sample.bound_us) * 1_000 + READING_ERROR_NS;
            self.generator.shared.set_offset(offset_ns, error_ns);
        }
    }

    /// Connects `count` clients and waits until each has been served or has failed. Fails if none
    /// was served.
    pub(crate) fn connect(&mut self, count: u32, small_buffer: bool) -> Result<(), Failure> {
        let what = format!("connecting {count} clients");
        self.progress.start_phase(&what, count.into());
        let before = self.generator.done();
        self.generator
            .connect_with(count, Greeting::Pipelined, IN_FLIGHT, small_buffer);
        self.await_served(before, count)?;
        if self.generator.served() > 0 {
            return Ok(self.await_time()?);
        }
        let ends = self.generator.harvest(None)?.ends;
        let why = ends.into_keys().next().unwrap_or_default();
        let code = if why.is_refusal {
            exit::NOPERM
        } else {
            exit::UNAVAILABLE
        };
        let (addr, why) = (self.setup.addr, why.text);
        let text = format!("none of {count} clients was served by {addr}: {why}");
        Err(Failure::message(code, text))
    }

    /// Counts the faults since clients connected, before the measurement starts; the CPU time spent
    /// on connecting is dropped.
    pub(crate) fn count_connecting(&mut self) -> anyhow::Result<()> {
        let connecting = self.generator.harvest(None)?;
        let faults = Harvest {
            spent: Default::default(),
            ..connecting
        };
        self.report.count(&faults, 0.0);
        Ok(())
    }

    /// Waits until `count` clients more than `before` have been served or have failed.
    pub(crate) fn await_served(&mut self, before: u64, count: u32) -> anyhow::Result<()> {
        let started = SystemClock.now();
        loop {
            let done = self.generator.done() - before;
            self.progress.advance_to(done);
            if done >= count.into() {
                break;
            }
            if SystemClock.now().since(started) > SERVED_WITHIN {
                bail!(
                    "only {done} of {count} clients were served or refused within {SERVED_WITHIN:?}"
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits until a total of `done` clients have been served or have failed.
    pub(crate) fn await_done(&self, done: u64) -> anyhow::Result<()> {
        let started = SystemClock.now();
        while self.generator.done() < done {
            if SystemClock.now().since(started) > SERVED_WITHIN {
                bail!("clients were not served within {SERVED_WITHIN:?}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits until the time of a remote edge has been learned from its PONGs.
    fn await_time(&mut self) -> anyhow::Result<()> {
        let started = SystemClock.now();
        while self.under_test.is_none() && self.generator.shared.offset_ns().is_none() {
            self.learn_time()?;
            if SystemClock.now().since(started) > SERVED_WITHIN {
                bail!("the edge's PONGs did not reveal authority time within {SERVED_WITHIN:?}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits until all ticks up to `until_ms` have arrived, for at most [`LATE_MAX`]: a late tick
    /// is not lost yet.
    pub(crate) fn await_ticks(&self, until_ms: i64) {
        let started = SystemClock.now();
        while self.generator.missing_ticks(until_ms) > 0
            && SystemClock.now().since(started) < LATE_MAX
        {
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Returns authority time minus the machine's own clock, in nanoseconds.
    pub(crate) fn offset_ns(&self) -> anyhow::Result<i64> {
        let offset_ns = self.generator.shared.offset_ns();
        offset_ns.ok_or_else(|| anyhow!("authority time is not known"))
    }

    /// Returns the first whole second of authority time that is at least `ahead` from now, in
    /// milliseconds.
    pub(crate) fn next_second_ms(&self, ahead: Duration) -> anyhow::Result<i64> {
        self.next_ms(ahead, Mode::Second)
    }

    /// Returns the first tick of the clients' mode that is at least `ahead` from now, in
    /// milliseconds.
    pub(crate) fn next_tick_ms(&self, ahead: Duration) -> anyhow::Result<i64> {
        self.next_ms(ahead, self.setup.mode)
    }

    fn next_ms(&self, ahead: Duration, mode: Mode) -> anyhow::Result<i64> {
        let at = (SystemClock.now() + ahead).as_nanos();
        let unix_ms = self.offset_ns()?.saturating_add_unsigned(at) / 1_000_000;
        let period_ms = mode.period_ms();
        Ok((unix_ms.div_euclid(period_ms) + 1) * period_ms)
    }

    /// Converts authority time to the machine's own clock, in nanoseconds.
    pub(crate) fn mono_ns(&self, unix_ms: i64) -> anyhow::Result<u64> {
        let ns = unix_ms
            .saturating_mul(1_000_000)
            .checked_sub(self.offset_ns()?);
        ns.and_then(|ns| u64::try_from(ns).ok()).ok_or_else(|| {
            anyhow!("authority time {unix_ms} ms is before this machine's clock started")
        })
    }

    /// Waits until `offset_ms` after `unix_ms` in authority time.
    pub(crate) fn wait_until(&self, unix_ms: i64, offset_ms: i64) -> anyhow::Result<()> {
        let at = Mono::from_nanos(self.mono_ns(unix_ms + offset_ms)?);
        std::thread::sleep(at.since(SystemClock.now()));
        Ok(())
    }

    /// Plans a burst that starts at a quiet moment of the next second. The epochs of its ticks are
    /// later than those of the grid's ticks so far, and than `last_ms`, the last epoch of the
    /// previous burst.
    pub(crate) fn plan(
        &self,
        rate: u64,
        over: Duration,
        last_ms: Option<i64>,
    ) -> anyhow::Result<BurstPlan> {
        let second_ms = self.next_second_ms(Duration::from_millis(50))?;
        let batch_ms = self.child_batch_ms();
        let ticks = u64::try_from(over.as_millis()).unwrap_or(u64::MAX) * rate / 1_000;
        Ok(BurstPlan {
            at_ns: self.mono_ns(second_ms + BURST_PHASE_MS)?,
            first_ms: last_ms.map_or(second_ms, |last_ms| last_ms.max(second_ms)) + 1_000,
            ticks: ticks.max(1),
            rate,
            per_frame: (rate * batch_ms / 1_000).clamp(1, FRAME_TICKS_MAX),
        })
    }

    /// Makes the bare loop send the burst and waits until it is done.
    pub(crate) fn bare(&mut self, burst: BurstPlan) -> anyhow::Result<BareSends> {
        self.generator.shared.plan(burst, true);
        let over = Duration::from_nanos(burst.end_ns().saturating_sub(burst.at_ns));
        let child = self.child()?;
        child.order(ChildOrder::Bare(burst))?;
        child.answer(over, ChildAnswer::bare)
    }

    fn child_batch_ms(&self) -> u64 {
        let ready = self.under_test.as_ref().map(|child| &child.ready);
        ready.map_or(5, |ready| ready.batch_window_ms.max(1))
    }

    /// Stops the edge and the generator, and returns the report as filled so far.
    pub(crate) fn finish(self) -> Report {
        let suite = self.generator.shared.cipher_suite.get().copied();
        let mut report = self.report;
        report.tls = self.tls.facts(suite);
        report
    }

    /// Returns the time since the run started, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        SystemClock.now().since(self.started).as_secs_f64()
    }
}

/// The offset of a burst from the start of a second: the burst's ticks and those of the grid must
/// not coincide.
const BURST_PHASE_MS: i64 = 200;
/// The largest number of ticks in a frame.
const FRAME_TICKS_MAX: u64 = 1_000;

/// Returns a note for the report if the edge and the clients share CPUs.
pub(crate) fn cores_note(placement: &Placement) -> Option<String> {
    let shared = placement.edge.is_empty()
        || placement
            .edge
            .iter()
            .any(|cpu| placement.clients.contains(cpu));
    (shared && machine::cpus().len() > 1).then(|| {
        "the edge and the clients share CPUs, so tick latencies include the clients' own work"
            .to_owned()
    })
}
