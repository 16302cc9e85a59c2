//! `auth`: AUTHs with tokens just before every other tick. Measures how much later these ticks are
//! released.

mod answer;
mod connections;
mod outcome;
mod tokens;

use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use serde_json::json;
use tickstorm_command::Failure;
use tickstorm_command::credentials::ClientCredentials;
use tickstorm_service::exit;
use tickstorm_timebase::{Clock, Mono, SystemClock};

use self::connections::AuthConnections;
use self::outcome::AuthOutcome;
use self::tokens::{AuthVerdict, RandomTokens};
use crate::generator::{ClientSetup, Harvest};
use crate::machine;
use crate::options::CommonOptions;
use crate::report::Report;
use crate::run::{ScenarioRun, cores_note};

/// Measure how much AUTHs just before a tick delay its release
///
/// New connections send AUTH with tokens just before every other tick. The releases of these ticks
/// are compared with the releases of the others.
#[derive(Debug, clap::Args)]
pub(crate) struct AuthScenario {
    #[command(flatten)]
    pub(crate) common: CommonOptions,
    /// Number of tokens that the edge knows; STREAM_TOKENS_FILE is generated for the run
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    tokens: u32,
    /// Number of connections that send AUTH together before a tick; successive groups start 0.5, 1,
    /// 1.5 ms and so on up to 6 ms before it
    #[arg(
        long,
        value_name = "N",
        default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..=2_000)
    )]
    auths: u32,
    /// Percentage of AUTHs with a token that the edge does not know
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=100)
    )]
    wrong: u32,
    /// Number of ticks to measure; every other one has AUTHs before it
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(2..=100_000)
    )]
    ticks: u32,
}

/// The unit of the AUTHs' lead. In successive rounds, AUTHs start 1 to [`LEADS`] units before their
/// tick, so that the edge is busy with them at different distances from the tick's time.
const LEAD_STEP: Duration = Duration::from_micros(500);
const LEADS: u32 = 12;
/// No heartbeats are sent within this many milliseconds before a tick. The connections for AUTHs
/// are made in that time.
const QUIET_MS: i64 = 400;
/// A tick has reached all clients after this time, in milliseconds. Only then are the connections
/// that sent AUTH closed.
const SETTLED_MS: i64 = 200;
/// If less time than this is left once the connections are made, they send AUTH before the next
/// tick instead.
const PREPARE_TIME: Duration = Duration::from_millis(50);

impl AuthScenario {
    /// Runs the scenario and returns its report.
    pub(crate) fn run(&self) -> Result<Report, Failure> {
        self.common.needs_child("auth")?;
        self.common.has_no_limit("auth")?;
        let mut tokens = RandomTokens::new(self.tokens)
            .context("can't write the file with the tokens")
            .map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
        let settings = [
            ("STREAM_TOKENS_FILE", tokens.path()),
            // All clients share one address, and some may fail on purpose.
            ("AUTH_RATE_LIMIT", "0".into()),
        ];
        let room = self.common.clients.saturating_add(self.auths);
        let subscriber = ClientCredentials::Token(SecretString::from(tokens.next()));
        let mut run =
            ScenarioRun::start_with("auth", &self.common, room, &settings, |setup, _| {
                setup.credentials = subscriber;
            })?;
        run.report.notes.extend(cores_note(&run.placement));
        if !run.setup.cpus.is_empty() {
            // This thread sends the AUTHs, and must not use the edge's CPU.
            machine::pin(&run.setup.cpus).context("can't pin the load generator to its CPUs")?;
        }
        run.connect(self.common.clients, false)?;
        run.count_connecting()?;
        let (outcome, harvest) = self.measure(&mut run, &mut tokens)?;
        let mut report = run.finish();
        report.options = json!({
            "tokens": self.tokens, "auths": self.auths, "wrong": self.wrong, "ticks": self.ticks,
        });
        outcome.add_to(&mut report, self.auths);
        report.count(&harvest, 0.0);
        // The generator's CPU time does not affect when the edge releases a tick.
        report.judge(false);
        Ok(report)
    }

    fn measure(
        &self,
        run: &mut ScenarioRun,
        tokens: &mut RandomTokens,
    ) -> anyhow::Result<(AuthOutcome, Harvest)> {
        run.progress
            .start_phase("measuring ticks", self.ticks.into());
        let (mut outcome, mut all) = (AuthOutcome::default(), Harvest::default());
        for tick in 0..self.ticks {
            let quiet = Duration::from_millis(QUIET_MS.unsigned_abs());
            let mut epoch_ms = run.next_second_ms(quiet)?;
            run.generator.shared.allow_heartbeats(true);
            run.wait_until(epoch_ms, -QUIET_MS)?;
            run.generator.shared.allow_heartbeats(false);
            let with_auths = !tick.is_multiple_of(2);
            if with_auths {
                let ClientSetup { addr, tls, .. } = run.setup.clone();
                let connections =
                    AuthConnections::connect(addr, tls.as_ref(), tokens, self.verdicts())?;
                epoch_ms = run.next_second_ms(PREPARE_TIME)?;
                let lead = LEAD_STEP * (tick / 2 % LEADS + 1);
                let epoch_ns = run.mono_ns(epoch_ms)?;
                let sent = send(connections, run, epoch_ms, lead)?;
                outcome.count_auths(sent, epoch_ns, &mut run.report);
            } else {
                run.wait_until(epoch_ms, SETTLED_MS)?;
            }
            let is_last = (tick + 1 == self.ticks).then_some(epoch_ms);
            is_last
                .into_iter()
                .for_each(|last_ms| run.await_ticks(last_ms));
            let harvest = run.generator.harvest(is_last)?;
            outcome.count_release(epoch_ms, with_auths, &harvest.seen);
            all.add(Harvest {
                seen: Vec::new(),
                ..harvest
            });
            run.learn_time()?;
            run.progress.advance_to((tick + 1).into());
        }
        Ok((outcome, all))
    }

    /// Returns how the AUTHs of a round must be answered, with the wrong ones spread evenly.
    fn verdicts(&self) -> impl Iterator<Item = AuthVerdict> + use<> {
        let wrong = self.wrong;
        (0..self.auths).map(move |number| {
            let before = number * wrong / 100;
            if (number + 1) * wrong / 100 > before {
                AuthVerdict::Refused
            } else {
                AuthVerdict::Accepted
            }
        })
    }
}

/// Sends the AUTHs of all `connections` at `lead` before a tick, and returns their outcomes once
/// the tick is over.
fn send(
    mut connections: AuthConnections,
    run: &ScenarioRun,
    epoch_ms: i64,
    lead: Duration,
) -> anyhow::Result<Vec<connections::SentAuth>> {
    let at = Mono::from_nanos(run.mono_ns(epoch_ms)?);
    let left = at.since(SystemClock.now()).saturating_sub(lead);
    std::thread::sleep(left);
    connections.send();
    connections.await_answers()?;
    run.wait_until(epoch_ms, SETTLED_MS)?;
    Ok(connections.finish())
}
