//! The ticks of clients that are connected already, in connect storms and after each of them.

use std::cell::Cell;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{ConnectionBatch, HandshakeRounds};
use crate::figure::Figure;
use crate::generator::{Greeting, Harvest, histogram};
use crate::report::{Distribution, LatenessColumn, LatenessTable, Report};
use crate::run::ScenarioRun;
use crate::tick_arrivals::{last_arrival_ms, release_lateness_us};

/// A storm starts this long before a tick, in milliseconds. The lead differs from storm to storm,
/// so that the edge is at different points of its handshakes when the tick is due.
const LEADS_MS: [i64; 6] = [10, 40, 100, 200, 350, 500];
/// The time needed to prepare for a storm.
const PREPARE_TIME: Duration = Duration::from_millis(20);
/// A tick has reached all clients after this time, in milliseconds.
const SETTLED_MS: i64 = 250;
/// The pause after a storm, whose clients have left by then.
const CALM: Duration = Duration::from_secs(1);
const SECOND_MS: i64 = 1_000;

const QUIET_COLUMN: &str = "for ticks in connect storms, the column \"bare loop\" shows the ticks \
                            after them";

/// The ticks in storms, and as many after them.
#[derive(Default)]
pub(super) struct StormTicks {
    stormy: TickLateness,
    quiet: TickLateness,
}

/// How late ticks of one kind were.
struct TickLateness {
    /// When they were released, in microseconds after they were due.
    released_us: Vec<u64>,
    /// When each reached its last client, in milliseconds after it was due.
    last_arrival_ms: Vec<f64>,
    /// All arrivals.
    arrivals: Histogram<u64>,
}

impl Default for TickLateness {
    fn default() -> Self {
        Self {
            released_us: Vec::new(),
            last_arrival_ms: Vec::new(),
            arrivals: histogram(),
        }
    }
}

impl TickLateness {
    fn count(&mut self, ticks: [i64; 2], harvest: &Harvest) -> anyhow::Result<()> {
        let [mut epoch_ms, last_ms] = ticks;
        while epoch_ms <= last_ms {
            let seen = &harvest.seen;
            self.released_us.extend(release_lateness_us(epoch_ms, seen));
            self.last_arrival_ms.extend(last_arrival_ms(epoch_ms, seen));
            epoch_ms += SECOND_MS;
        }
        Ok(self.arrivals.add(&harvest.latencies.edge)?)
    }

    fn latest_ms(&self) -> Option<f64> {
        self.last_arrival_ms.iter().copied().reduce(f64::max)
    }
}

impl StormTicks {
    /// Measures the storm with this number, and returns the number of ticks that were due in it.
    pub(super) fn measure_storm(
        &mut self,
        run: &mut ScenarioRun,
        clients: u32,
        present: u32,
        number: u64,
        storm: &mut HandshakeRounds,
    ) -> anyhow::Result<i64> {
        let batch = ConnectionBatch {
            clients,
            greeting: Greeting::Pipelined,
            in_flight: clients,
            yields: true,
        };
        let lead = usize::try_from(number).unwrap_or(0) % LEADS_MS.len();
        let lead_ms = LEADS_MS[lead];
        // Both closures below share this.
        let first_ms = Cell::new(0);
        let mut last_ms = 0;
        let mut harvested = Harvest::default();
        let what = format!("connect storm {}", number + 1);
        batch.measure(
            run,
            present,
            storm,
            &what,
            |run| {
                let lead = Duration::from_millis(lead_ms.unsigned_abs());
                first_ms.set(run.next_second_ms(lead + PREPARE_TIME)?);
                run.wait_until(first_ms.get(), -lead_ms)?;
                forget_ticks(run)
            },
            |run| {
                // The tick that the storm was meant for is part of it, even if all were served
                // before.
                last_ms = (run.next_second_ms(Duration::ZERO)? - SECOND_MS).max(first_ms.get());
                harvested = harvest_until(run, last_ms)?;
                Ok(())
            },
        )?;
        self.stormy.count([first_ms.get(), last_ms], &harvested)?;
        run.report.count(&harvested, 0.0);
        Ok((last_ms - first_ms.get()) / SECOND_MS + 1)
    }

    /// Measures this number of ticks without a storm.
    pub(super) fn measure_quiet(
        &mut self,
        run: &mut ScenarioRun,
        count: i64,
    ) -> anyhow::Result<()> {
        run.progress
            .start_phase("ticks after the storm", count.unsigned_abs());
        std::thread::sleep(CALM);
        let first_ms = run.next_second_ms(PREPARE_TIME)?;
        run.wait_until(first_ms, -LEADS_MS[0])?;
        forget_ticks(run)?;
        let last_ms = first_ms + (count - 1) * SECOND_MS;
        let harvested = harvest_until(run, last_ms)?;
        self.quiet.count([first_ms, last_ms], &harvested)?;
        run.report.count(&harvested, 0.0);
        Ok(())
    }

    /// Adds the figures to the report.
    pub(super) fn add_to(self, report: &mut Report, clients: u32) {
        let Self { stormy, quiet } = self;
        let latest = Figure::single(
            "storm_latest_arrival_ms",
            "in a storm: latest arrival of any tick",
            "ms",
            stormy.latest_ms(),
        );
        report.figures.extend([
            latest.against(Vec::from_iter(quiet.latest_ms())),
            Figure::of(
                "storm_last_arrival_ms",
                "in a storm: last arrival after a tick was due",
                "ms",
                stormy.last_arrival_ms,
            )
            .against(quiet.last_arrival_ms),
        ]);
        report.note_once(QUIET_COLUMN);
        report.distributions.extend(
            [
                Distribution::of("in_storm", "arrival in a storm", &stormy.arrivals),
                Distribution::of("after_storm", "arrival without a storm", &quiet.arrivals),
            ]
            .into_iter()
            .flatten(),
        );
        let columns = vec![
            LatenessColumn::of("without a storm".into(), quiet.released_us),
            LatenessColumn::of(format!("in a storm of {clients}"), stormy.released_us),
        ];
        report.lateness = Some(LatenessTable::new("release lateness", columns));
    }
}

/// Leaves earlier ticks out of the next harvest. Their faults count.
fn forget_ticks(run: &mut ScenarioRun) -> anyhow::Result<()> {
    let harvest = run.generator.harvest(None)?;
    run.report.count(&harvest, 0.0);
    Ok(())
}

/// Waits until the tick `last_ms` has arrived, and returns what has been seen until then.
fn harvest_until(run: &mut ScenarioRun, last_ms: i64) -> anyhow::Result<Harvest> {
    run.wait_until(last_ms, SETTLED_MS)?;
    run.await_ticks(last_ms);
    run.generator.harvest(None)
}
