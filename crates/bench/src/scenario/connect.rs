//! `connect`: connections that authenticate and subscribe, one crowd after the other: how many a second, and what each costs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use tickstorm_command::Failure;
use tickstorm_timebase::{Clock, Mode, SystemClock};

use crate::figure::{Figure, number};
use crate::generator::{ClientSetup, Generator, Greeting, histogram};
use crate::options::CommonOptions;
use crate::orders::{ChildAnswer, ChildOrder, LoopUsage, ProcessSample};
use crate::report::{Distribution, Report};
use crate::run::{IN_FLIGHT, ScenarioRun};

/// Connections that authenticate and subscribe: how many a second, and what each costs; then all at once.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// How many rounds, each of all clients.
    #[arg(
        long,
        value_name = "R",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    rounds: u64,
    /// How many clients are there already, and get their ticks meanwhile. Default: a tenth of the others, at most 500.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    present: Option<u32>,
}

/// How long the edge may take to notice that its clients have gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How long a storm may take.
const STORM_WITHIN: Duration = Duration::from_secs(30);
/// The kernel frees the sockets of a crowd some time after they were closed, and charges that to whoever runs then.
const FREED_WITHIN: Duration = Duration::from_millis(500);
/// How often is looked whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// What a way of connecting was like, by round.
#[derive(Default)]
struct HandshakeRounds {
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    served: Option<Histogram<u64>>,
}

impl ConnectScenario {
    /// Measures, and gives the report.
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
            for (way, greeting) in [
                (&mut pipelined, Greeting::Pipelined),
                (&mut stepwise, Greeting::StepByStep),
            ] {
                let crowd = ConnectingCrowd {
                    clients,
                    greeting,
                    in_flight: IN_FLIGHT,
                };
                crowd.measure(
                    &mut run,
                    present,
                    way,
                    &format!("round {round}: {greeting:?}"),
                )?;
            }
            if self.common.with_limit {
                measure_bare(&mut run, clients, &mut bare)?;
            }
        }
        let mut storm = HandshakeRounds::default();
        let crowd = ConnectingCrowd {
            clients,
            greeting: Greeting::Pipelined,
            in_flight: clients,
        };
        let began = SystemClock.now();
        crowd.measure(&mut run, present, &mut storm, "storm")?;
        let took = SystemClock.now().since(began);
        if took > STORM_WITHIN {
            run.report.violations.push(format!(
                "the storm took {took:?}, more than {STORM_WITHIN:?}"
            ));
        }
        // Those that were there have had every tick.
        let until_ms = run.next_second_ms(Duration::ZERO)? - 1_000;
        run.await_ticks(until_ms);
        let harvest = run.generator.harvest(Some(until_ms))?;
        run.report.count(&harvest, 0.0);
        Ok(self.report(run, present, [pipelined, stepwise, storm], &bare))
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
        report.options = json!({ "rounds": self.rounds, "present": present, "with_limit": limit });
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
                "served after connect, pipelined",
                pipelined.served,
            ),
            (
                "stepwise",
                "served after connect, step by step",
                stepwise.served,
            ),
            ("storm", "served after connect, all at once", storm.served),
        ];
        let distributions = distributions.into_iter();
        report.distributions.extend(
            distributions.filter_map(|(id, label, served)| Distribution::of(id, label, &served?)),
        );
        report.judge(false);
        report
    }
}

/// Clients that come together.
struct ConnectingCrowd {
    clients: u32,
    greeting: Greeting,
    in_flight: u32,
}

impl ConnectingCrowd {
    /// Lets them come and go in a generator of their own, so that those that were there stay.
    fn measure(
        &self,
        run: &mut ScenarioRun,
        present: u32,
        way: &mut HandshakeRounds,
        what: &str,
    ) -> anyhow::Result<()> {
        run.progress.begin(what, self.clients.into());
        // The ticks of those who have come already are no part of the others' handshakes.
        let setup = ClientSetup {
            mode: Mode::Minute,
            ..run.setup.clone()
        };
        let harvest = self.come_and_go(run, setup, |run, before, took| {
            let after = run.learn_time()?;
            way.per_second
                .push(f64::from(self.clients) / took.as_secs_f64());
            if let (Some(before), Some(after)) = (before, after) {
                let used_us = number(after.used_us_since(&before));
                way.cpu_us.push(used_us / f64::from(self.clients));
            }
            Ok(())
        })?;
        way.served
            .get_or_insert_with(histogram)
            .add(&harvest.served)?;
        run.report.count(&harvest, 0.0);
        await_gone(run, present)
    }

    fn come_and_go(
        &self,
        run: &mut ScenarioRun,
        setup: ClientSetup,
        come: impl FnOnce(&mut ScenarioRun, Option<ProcessSample>, Duration) -> anyhow::Result<()>,
    ) -> anyhow::Result<crate::generator::Harvest> {
        std::thread::sleep(FREED_WITHIN);
        let shared = std::sync::Arc::new(run.generator.shared.like());
        let mut crowd = Generator::start(setup, shared, self.clients, run.files_limit, false)?;
        let before = run.learn_time()?;
        std::mem::swap(&mut run.generator, &mut crowd);
        let begun = SystemClock.now();
        run.generator
            .connect(self.clients, self.greeting, self.in_flight);
        let served = run.await_served(0, self.clients);
        let took = SystemClock.now().since(begun);
        std::mem::swap(&mut run.generator, &mut crowd);
        served?;
        come(run, before, took)?;
        let harvest = crowd.harvest(None)?;
        crowd.leave(self.clients, true);
        crowd.harvest(None)?;
        Ok(harvest)
    }
}

/// Waits until the edge has none but those that stay.
fn await_gone(run: &mut ScenarioRun, present: u32) -> anyhow::Result<()> {
    let begun = SystemClock.now();
    while run.under_test.is_some() {
        let left = run.child()?.sample(false)?.connections;
        if left <= present.into() {
            break;
        }
        anyhow::ensure!(
            SystemClock.now().since(begun) < GONE_WITHIN,
            "the edge still holds {left} connections {GONE_WITHIN:?} after their clients have gone"
        );
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn measure_bare(
    run: &mut ScenarioRun,
    clients: u32,
    way: &mut HandshakeRounds,
) -> anyhow::Result<()> {
    run.progress.begin("bare accept loop", clients.into());
    let addr = run.child()?.listen(ChildOrder::Accept)?;
    let setup = ClientSetup {
        addr,
        ..run.setup.clone()
    };
    let crowd = ConnectingCrowd {
        clients,
        greeting: Greeting::Silent,
        in_flight: IN_FLIGHT,
    };
    crowd.come_and_go(run, setup, |run, _, took| {
        let child = run.child()?;
        child.order(ChildOrder::AcceptEnd)?;
        let LoopUsage {
            cpu_us, accepted, ..
        } = child.answer(Duration::ZERO, ChildAnswer::accept_end)?;
        anyhow::ensure!(
            accepted == u64::from(clients),
            "the bare loop accepted {accepted} of {clients}"
        );
        way.per_second.push(f64::from(clients) / took.as_secs_f64());
        way.cpu_us.push(number(cpu_us) / f64::from(clients));
        Ok(())
    })?;
    Ok(())
}
