//! `connect`: batches of connections that authenticate and subscribe. Measures how many are served
//! per second, what each costs, and how late the ticks of other clients are meanwhile.

mod storms;

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use tickstorm_command::Failure;
use tickstorm_timebase::{Clock, Mode, SystemClock};

use self::storms::StormTicks;
use crate::figure::{Figure, number};
use crate::generator::{ClientSetup, Generator, Greeting, histogram};
use crate::options::CommonOptions;
use crate::orders::{ChildAnswer, ChildOrder, LoopUsage, ProcessSample};
use crate::report::{Distribution, Report};
use crate::run::{IN_FLIGHT, ScenarioRun};

/// Measure how many connections per second are served, and what each costs the edge
///
/// In each round, all clients connect, authenticate and subscribe: first with AUTH and SUBSCRIBE
/// pipelined, then step by step. At the end, in a connect storm, all connect at the same time, and
/// the ticks of the clients that are connected already are compared with ticks after the storm.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Number of rounds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// Number of connect storms
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    storms: u64,
    /// Number of clients that are connected beforehand and receive their ticks meanwhile [default:
    /// a tenth of --clients, at most 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    present: Option<u32>,
}

/// The time that the edge may take to notice that its clients have disconnected.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// The time that the connect storm may take.
const STORM_WITHIN: Duration = Duration::from_secs(30);
/// The time that the kernel may take to free the sockets of a batch after they were closed. It
/// charges that work to whichever thread is running.
const SOCKETS_FREED_WITHIN: Duration = Duration::from_millis(500);
/// The interval at which the number of connections is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The measurements of one way of connecting, by round.
#[derive(Default)]
struct HandshakeRounds {
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    served: Option<Histogram<u64>>,
}

impl ConnectScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        let clients = self.common.clients;
        let present = self.present.unwrap_or_else(|| (clients / 10).clamp(1, 500));
        let mut run = ScenarioRun::start(
            "connect",
            &self.common,
            clients.saturating_add(present),
            |_, _| {},
        )?;
        run.connect(present, false)?;
        let (mut pipelined, mut stepwise, mut bare) = (
            HandshakeRounds::default(),
            HandshakeRounds::default(),
            HandshakeRounds::default(),
        );
        for round in 1..=self.rounds {
            for (way, greeting, name) in [
                (&mut pipelined, Greeting::Pipelined, "pipelined"),
                (&mut stepwise, Greeting::StepByStep, "step by step"),
            ] {
                let batch = ConnectionBatch {
                    clients,
                    greeting,
                    in_flight: IN_FLIGHT,
                    yields: false,
                };
                let what = format!("round {round}: {name}");
                batch.measure(&mut run, present, way, &what, |_| Ok(()), |_| Ok(()))?;
            }
            if self.common.with_limit {
                measure_bare(&mut run, clients, &mut bare)?;
            }
        }
        let (mut storm, mut ticks) = (HandshakeRounds::default(), StormTicks::default());
        for number in 0..self.storms {
            let started = SystemClock.now();
            let count = ticks.measure_storm(&mut run, clients, present, number, &mut storm)?;
            let took = SystemClock.now().since(started);
            if took > STORM_WITHIN {
                run.report.violations.push(format!(
                    "a connect storm took {took:?}; at most {STORM_WITHIN:?} is allowed"
                ));
            }
            ticks.measure_quiet(&mut run, count)?;
        }
        // The clients that were connected beforehand must have received every tick.
        let until_ms = run.next_second_ms(Duration::ZERO)? - 1_000;
        run.await_ticks(until_ms);
        let harvest = run.generator.harvest(Some(until_ms))?;
        run.report.count(&harvest, 0.0);
        let mut report = self.report(run, present, [pipelined, stepwise, storm], &bare);
        ticks.add_to(&mut report, clients);
        Ok(report)
    }

    fn report(
        &self,
        run: ScenarioRun,
        present: u32,
        ways: [HandshakeRounds; 3],
        bare: &HandshakeRounds,
    ) -> Report {
        let mut report = run.finish();
        let limit = self.common.with_limit;
        report.options = json!({
            "rounds": self.rounds,
            "storms": self.storms,
            "present": present,
            "with_limit": limit,
        });
        let [pipelined, stepwise, storm] = ways;
        report.figures.extend([
            Figure::of(
                "pipelined_cpu_us",
                "edge CPU per connection, pipelined",
                "µs",
                pipelined.cpu_us,
            )
            .against(bare.cpu_us.clone()),
            Figure::of(
                "stepwise_cpu_us",
                "edge CPU per connection, step by step",
                "µs",
                stepwise.cpu_us,
            )
            .against(bare.cpu_us.clone()),
            Figure::of(
                "pipelined_per_second",
                "connections served, pipelined",
                "1/s",
                pipelined.per_second,
            )
            .against(bare.per_second.clone()),
            Figure::of(
                "stepwise_per_second",
                "connections served, step by step",
                "1/s",
                stepwise.per_second,
            ),
            Figure::of(
                "storm_per_second",
                "connections served, all at once",
                "1/s",
                storm.per_second,
            ),
        ]);
        let distributions = [
            (
                "pipelined",
                "time to be served, pipelined",
                pipelined.served,
            ),
            (
                "stepwise",
                "time to be served, step by step",
                stepwise.served,
            ),
            ("storm", "time to be served, all at once", storm.served),
        ];
        let distributions = distributions.into_iter();
        report.distributions.extend(
            distributions.filter_map(|(id, label, served)| Distribution::of(id, label, &served?)),
        );
        report.judge(false);
        report
    }
}

/// Clients that connect together.
struct ConnectionBatch {
    clients: u32,
    greeting: Greeting,
    in_flight: u32,
    /// Whether the clients that were connected beforehand have priority.
    yields: bool,
}

impl ConnectionBatch {
    /// Connects and disconnects the batch in a separate generator, so that the clients that were
    /// connected beforehand stay. `starting` is called before the first client connects, and
    /// `served` once all have been served.
    fn measure(
        &self,
        run: &mut ScenarioRun,
        present: u32,
        way: &mut HandshakeRounds,
        what: &str,
        starting: impl FnOnce(&mut ScenarioRun) -> anyhow::Result<()>,
        served: impl FnOnce(&mut ScenarioRun) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        run.progress.start_phase(what, self.clients.into());
        // Mode MINUTE: ticks for the clients that are already served must not add to the cost of
        // the remaining handshakes.
        let setup = ClientSetup {
            mode: Mode::Minute,
            yields: self.yields,
            ..run.setup.clone()
        };
        let harvest = self.connect_and_disconnect(run, setup, starting, |run, before, took| {
            let after = run.learn_time()?;
            way.per_second
                .push(f64::from(self.clients) / took.as_secs_f64());
            if let (Some(before), Some(after)) = (before, after) {
                let used_us = number(after.used_us_since(&before));
                way.cpu_us.push(used_us / f64::from(self.clients));
            }
            served(run)
        })?;
        way.served
            .get_or_insert_with(histogram)
            .add(&harvest.served)?;
        run.report.count(&harvest, 0.0);
        await_gone(run, present)
    }

    fn connect_and_disconnect(
        &self,
        run: &mut ScenarioRun,
        setup: ClientSetup,
        starting: impl FnOnce(&mut ScenarioRun) -> anyhow::Result<()>,
        when_connected: impl FnOnce(
            &mut ScenarioRun,
            Option<ProcessSample>,
            Duration,
        ) -> anyhow::Result<()>,
    ) -> anyhow::Result<crate::generator::Harvest> {
        std::thread::sleep(SOCKETS_FREED_WITHIN);
        let shared = std::sync::Arc::new(run.generator.shared.for_other_clients());
        let mut batch = Generator::start(setup, shared, self.clients, run.files_limit, false)?;
        starting(run)?;
        let before = run.learn_time()?;
        std::mem::swap(&mut run.generator, &mut batch);
        let started = SystemClock.now();
        run.generator
            .connect(self.clients, self.greeting, self.in_flight);
        let served = run.await_served(0, self.clients);
        let took = SystemClock.now().since(started);
        std::mem::swap(&mut run.generator, &mut batch);
        served?;
        when_connected(run, before, took)?;
        let harvest = batch.harvest(None)?;
        batch.disconnect(self.clients, true);
        batch.harvest(None)?;
        Ok(harvest)
    }
}

/// Waits until the edge has only the `present` connections left.
fn await_gone(run: &mut ScenarioRun, present: u32) -> anyhow::Result<()> {
    let started = SystemClock.now();
    while run.under_test.is_some() {
        let left = run.child()?.sample(false)?.connections;
        if left <= present.into() {
            break;
        }
        anyhow::ensure!(
            SystemClock.now().since(started) < GONE_WITHIN,
            "the edge still holds {left} connections {GONE_WITHIN:?} after their clients \
             disconnected"
        );
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn measure_bare(
    run: &mut ScenarioRun,
    clients: u32,
    way: &mut HandshakeRounds,
) -> anyhow::Result<()> {
    run.progress.start_phase("bare accept loop", clients.into());
    let addr = run.child()?.listen(ChildOrder::Accept)?;
    let setup = ClientSetup {
        addr,
        tls: None,
        ..run.setup.clone()
    };
    let batch = ConnectionBatch {
        clients,
        greeting: Greeting::Silent,
        in_flight: IN_FLIGHT,
        yields: false,
    };
    let starting = |_: &mut ScenarioRun| Ok(());
    batch.connect_and_disconnect(run, setup, starting, |run, _, took| {
        let child = run.child()?;
        child.order(ChildOrder::AcceptEnd)?;
        let LoopUsage {
            cpu_us, accepted, ..
        } = child.answer(Duration::ZERO, ChildAnswer::accept_end)?;
        anyhow::ensure!(
            accepted == u64::from(clients),
            "the bare loop accepted {accepted} of {clients} connections"
        );
        way.per_second.push(f64::from(clients) / took.as_secs_f64());
        way.cpu_us.push(number(cpu_us) / f64::from(clients));
        Ok(())
    })?;
    Ok(())
}
