//! Fan-out over TLS, beside an edge without TLS that has as many clients. The two edges and their
//! bare loops send in turn, so that whatever disturbs the machine affects all of them.

use std::ffi::OsString;
use std::panic;
use std::thread;
use std::time::Duration;

use tickstorm_command::{Failure, ModeName};
use tickstorm_service::exit;

use super::schedule::RoundSchedule;
use super::{FanoutResult, FanoutScenario};
use crate::figure::Figure;
use crate::options::CommonOptions;
use crate::report::{Distribution, Report};
use crate::run::ScenarioRun;
use crate::tls::BenchTlsArgs;

/// The time by which the clock of the edge without TLS is behind.
const BEHIND: Duration = Duration::from_millis(250);
/// The setting that puts a clock behind.
const CLOCK_SKEW_MS: &str = "CLOCK_SKEW_MS";

const SEALING: &str = "the bare loop of the edge with TLS seals each frame with the connection's \
                       key and sends it";
const TO_PLAIN: &str = "in the figures \"TLS to plain\", the column \"bare loop\" shows an edge \
                        without TLS in the same run";

impl FanoutScenario {
    pub(super) fn run_beside_plain(&self) -> Result<Report, Failure> {
        self.check_options()?;
        let total_clients = self.common.clients.saturating_mul(2);
        let mut run = self.start(&self.common, total_clients, &[])?;
        let mut plain = self.start_plain(total_clients)?;
        let memory = self.connect(&mut run)?;
        let [plain_memory, ..] = match self.connect(&mut plain)? {
            Some(memory) => memory.map(Some),
            None => [None, None, None],
        };
        plain.progress.hide();
        let (measured, plain_measured) = thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let schedule = RoundSchedule::compared(BEHIND);
                self.measure(&mut plain, &schedule)
            });
            let schedule = RoundSchedule::compared(Duration::ZERO);
            let measured = self.measure(&mut run, &schedule);
            let beside = beside
                .join()
                .unwrap_or_else(|why| panic::resume_unwind(why));
            (measured, beside)
        });
        let FanoutResult {
            outcome,
            harvest,
            wall_ms,
        } = measured?;
        let beside = plain_measured?;
        let to_plain = outcome.against_plain(&beside.outcome);
        let mut report = self.report(run, outcome, &harvest, memory, None);
        report.figures.extend(to_plain);
        report.figures.extend(beside.outcome.plain_figures());
        report.figures.extend(plain_memory.map(|memory| Figure {
            id: "plain_rss_bytes_per_connection",
            label: "plain: edge memory per connection",
            ..memory
        }));
        let latencies = &beside.harvest.latencies.edge;
        let label = "plain: arrival after the tick was due";
        report
            .distributions
            .extend(Distribution::of("plain_after_due", label, latencies));
        report.note_once(SEALING);
        report.note_once(TO_PLAIN);
        report.count(&harvest, wall_ms);
        let mut plain_report = plain.finish();
        plain_report.count(&beside.harvest, beside.wall_ms);
        report.absorb(plain_report);
        report.judge(true);
        Ok(report)
    }

    /// The schedule of two edges leaves no room for ticks of minutes, nor for releases.
    fn check_options(&self) -> Result<(), Failure> {
        let refused = match (self.mode, self.released) {
            (ModeName::Second, 0) => return Ok(()),
            (ModeName::Minute, _) => "--mode minute",
            (ModeName::Second, _) => "--released",
        };
        let text = format!(
            "--tls with --with-limit measures an edge without TLS beside the one with TLS, which \
             is not possible with {refused}"
        );
        Err(Failure::message(exit::USAGE, text))
    }

    fn start_plain(&self, total_clients: u32) -> Result<ScenarioRun, Failure> {
        let common = CommonOptions {
            tls: BenchTlsArgs::default(),
            ..self.common.clone()
        };
        let skew_ms = std::env::var(CLOCK_SKEW_MS).ok();
        let skew_ms: i128 = skew_ms.and_then(|ms| ms.parse().ok()).unwrap_or(0);
        let behind_ms = i128::try_from(BEHIND.as_millis()).unwrap_or(0);
        let settings = [
            (
                CLOCK_SKEW_MS,
                OsString::from((skew_ms - behind_ms).to_string()),
            ),
            // The other edge may have a port of its own.
            ("LISTEN_ADDR", "127.0.0.1:0".into()),
        ];
        self.start(&common, total_clients, &settings)
    }
}
