//! `idle`: clients that send heartbeats and receive few ticks. Measures what they cost in CPU time
//! and memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tickstorm_client::Mode;
use tickstorm_command::Failure;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::Pong;

use crate::figure::{Figure, number};
use crate::generator::{ClientSetup, Generator, GeneratorShared, Greeting, Harvest};
use crate::memory::Memory;
use crate::options::{CommonOptions, duration};
use crate::orders::{ChildAnswer, ChildOrder, LoopUsage};
use crate::report::{Distribution, Report};
use crate::run::{IN_FLIGHT, ScenarioRun};

/// Measure the CPU time and memory that idle clients cost
///
/// Clients subscribe to minutes and send heartbeats.
#[derive(Debug, clap::Args)]
pub(crate) struct IdleScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Interval between heartbeats of a client; must be shorter than the edge's HEARTBEAT_TIMEOUT
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    heartbeat: Duration,
    /// Duration of the measurement
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    over: Duration,
}

/// The length of a round.
const ROUND: Duration = Duration::from_secs(3);

#[derive(Default)]
struct IdleCosts {
    cores: Vec<f64>,
    echo_cores: Vec<f64>,
}

impl IdleScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        let clients = self.common.clients;
        let total_clients = if self.common.with_limit {
            clients.saturating_mul(2)
        } else {
            clients
        };
        let mut run =
            ScenarioRun::start_beside("idle", &self.common, clients, total_clients, |setup, _| {
                setup.mode = Mode::Minute;
                setup.heartbeat = self.heartbeat;
            })?;
        // The echo loop starts before the edge has any connection, since its table of open files
        // starts as a copy of the edge's.
        let echo = if self.common.with_limit {
            Some(self.start_echo(&mut run, total_clients)?)
        } else {
            None
        };
        let before = run.learn_time()?.map(|sample| Memory::of(&sample));
        run.connect(clients, false)?;
        std::thread::sleep(Duration::from_secs(1));
        let memory = before
            .zip(run.learn_time()?)
            .map(|(before, after)| Memory::of(&after).figures_since(&before, clients.into()));
        let echo = echo
            .map(|echo| self.fill_echo(&mut run, echo))
            .transpose()?;
        let mut measured = IdleCosts::default();
        let rounds = (self.over.as_secs_f64() / ROUND.as_secs_f64()).ceil();
        let rounds = crate::figure::whole(rounds).max(1);
        run.progress.start_phase("measuring idle clients", rounds);
        for round in 1..=rounds {
            measure(
                &mut run,
                echo.is_some(),
                self.over.min(ROUND),
                &mut measured,
            )?;
            run.progress.advance_to(round);
        }
        let harvest = run.generator.harvest(None)?;
        let echoed = echo.map(|mut echo| echo.harvest(None)).transpose()?;
        Ok(self.report(run, &measured, memory, &harvest, echoed.as_ref()))
    }

    /// Starts the bare echo loop, and a generator for its clients.
    fn start_echo(&self, run: &mut ScenarioRun, total_clients: u32) -> anyhow::Result<Generator> {
        let (clients, mut pong) = (self.common.clients, Vec::new());
        let time_us = run.generator.shared.offset_ns().unwrap_or_default() / 1_000;
        let pong_like_the_edges = Pong {
            client_time_us: time_us,
            received_unix_us: time_us,
            sent_unix_us: time_us,
            error_bound_us: 1_000,
            ..Pong::default()
        };
        encode(FrameType::Pong, &pong_like_the_edges, &mut pong);
        let addr = run.child()?.listen(ChildOrder::Echo {
            pong_len: pong.len(),
        })?;
        let setup = ClientSetup {
            addr,
            tls: None,
            ..run.setup.clone()
        };
        let shared = Arc::new(GeneratorShared::default());
        Generator::start_beside(
            setup,
            shared,
            clients,
            total_clients,
            run.files_limit,
            false,
        )
    }

    /// Connects the same number of clients to the echo loop, with the same heartbeats.
    fn fill_echo(&self, run: &mut ScenarioRun, mut echo: Generator) -> anyhow::Result<Generator> {
        let clients = self.common.clients;
        run.progress
            .start_phase("connecting clients to the bare echo loop", clients.into());
        std::mem::swap(&mut run.generator, &mut echo);
        run.generator.connect(clients, Greeting::Silent, IN_FLIGHT);
        let served = run.await_served(0, clients);
        std::mem::swap(&mut run.generator, &mut echo);
        served?;
        Ok(echo)
    }

    fn report(
        &self,
        run: ScenarioRun,
        measured: &IdleCosts,
        memory: Option<[Figure; 3]>,
        harvest: &Harvest,
        echoed: Option<&Harvest>,
    ) -> Report {
        let mut report = run.finish();
        let heartbeats_per_second = f64::from(self.common.clients) / self.heartbeat.as_secs_f64();
        report.options = json!({
            "heartbeat_s": self.heartbeat.as_secs_f64(), "for_s": self.over.as_secs_f64(),
            "with_limit": self.common.with_limit,
        });
        let each = |cores: &[f64]| {
            cores
                .iter()
                .map(|cores| cores * 1e6 / heartbeats_per_second)
                .collect()
        };
        let cores = Figure::of("edge_cores", "edge CPU", "cores", measured.cores.clone());
        let label = "edge CPU per heartbeat, everything included";
        let beat = Figure::of("cpu_us_per_heartbeat", label, "µs", each(&measured.cores));
        report.figures.extend([
            cores.against(measured.echo_cores.clone()),
            beat.against(each(&measured.echo_cores)),
        ]);
        report.figures.extend(memory.into_iter().flatten());
        report.distributions.extend(Distribution::of(
            "pong",
            "PONG after HEARTBEAT",
            &harvest.pong,
        ));
        if let Some(echoed) = echoed {
            let label = "bare loop: answer after HEARTBEAT";
            report
                .distributions
                .extend(Distribution::of("bare_pong", label, &echoed.pong));
            if echoed.faults.disconnected > 0 {
                report
                    .void
                    .push("connections to the bare echo loop were closed".into());
            }
        }
        report.count(harvest, 0.0);
        // A PONG may still be on its way to each client.
        let unanswered = harvest.heartbeats.saturating_sub(harvest.pongs);
        if unanswered > u64::from(self.common.clients) / 10 + 10 {
            report.violations.push(format!(
                "{unanswered} of {} heartbeats were not answered by a PONG",
                harvest.heartbeats
            ));
        }
        report.judge(false);
        report
    }
}

/// Measures one round. The edge and the echo loop run at the same time, with the same traffic, so
/// that drift affects both.
fn measure(
    run: &mut ScenarioRun,
    echo: bool,
    over: Duration,
    measured: &mut IdleCosts,
) -> anyhow::Result<()> {
    let used = |run: &mut ScenarioRun| -> anyhow::Result<_> {
        let child = run.child()?;
        let sample = child.sample(false)?;
        if !echo {
            return Ok((sample, LoopUsage::default()));
        }
        child.order(ChildOrder::EchoUsage)?;
        let used = child.answer(Duration::ZERO, ChildAnswer::echo_usage)?;
        Ok((sample, used))
    };
    if run.under_test.is_none() {
        std::thread::sleep(over);
        return Ok(());
    }
    let (sample, echoed) = used(run)?;
    std::thread::sleep(over);
    let (sample_after, echoed_after) = used(run)?;
    let elapsed_us = number(sample_after.at_ns.saturating_sub(sample.at_ns)) / 1e3;
    let echo_us = echoed_after.cpu_us.saturating_sub(echoed.cpu_us);
    let edge_us = sample_after.used_us_since(&sample).saturating_sub(echo_us);
    measured.cores.push(number(edge_us) / elapsed_us.max(1.0));
    if echo {
        measured
            .echo_cores
            .push(number(echo_us) / elapsed_us.max(1.0));
    }
    Ok(())
}
