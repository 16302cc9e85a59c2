//! `tickstorm tail`: prints the ticks of an edge as they arrive, for a person to read or as a
//! probe.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::ops::ControlFlow;
use std::time::Duration;

use tickstorm_client::{Epoch, Options, Quality, Tick};
use tickstorm_command::{
    Failure, ModeName, TlsArgs,
    credentials::{self, ClientCredentials},
};
use tickstorm_service::env::Settings;
use tickstorm_service::{duration, exit, stderr};

use crate::follow::{TickFormat, follow};
use crate::line::Lateness;
use crate::summary::Summary;

const AFTER_HELP: &str = "\
Output:
  One line per tick: its UTC time, epoch_ms, mode, quality and lateness. The lateness
  is the authority time at which the tick was read (with --ahead: released), minus
  epoch_ms, in milliseconds with an error bound; it is ? while authority time is not
  known. If it was known for at least five ticks, a summary of it follows on standard
  error at the end.

  --json prints one object per line instead, and no summary: epoch_ms, mode (second,
  minute), quality (normal, holdover, replay), late_us and error_us (in microseconds;
  null while authority time is not known) and edge_id.

Connections:
  At first, each --addr is tried until one works; tail gives up if none does. When a
  connection ends, or an edge is of no use because it is silent or does not know the
  time, the client reconnects to the next --addr and resumes after the last tick. If an
  edge is going away, the client moves to another one before its connection ends.
  Reconnects, moves and gaps are reported on standard error. With --within, which is meant
  for probes, the client does neither.

Lateness limit:
  --max-late ignores REPLAY ticks, which are late by nature, and ticks that arrive
  before authority time is known. Ticks that are late because this machine was
  suspended, or this program was stopped, count, unless they come as REPLAY over a
  new connection.

Environment:
  STREAM_USER    User name, unless --user is given [default: stream_user]
  STREAM_PASS    Password [default: stream_pass]
  STREAM_TOKEN   Token, sent instead of user name and password
  Each can be read from a file named by STREAM_USER_FILE, STREAM_PASS_FILE or
  STREAM_TOKEN_FILE.

Examples:
  tickstorm tail
      Show the ticks of `tickstorm dev`
  tickstorm tail --addr edge.example:8080
      Show the ticks of another edge
  tickstorm tail --addr edge.example:8443 --tls --tls-ca ca.pem
      Show the ticks of an edge with TLS, whose certificate this authority signed
  tickstorm tail --addr edge-0:8080 --addr edge-1:8080
      Show one stream of ticks from either edge
  tickstorm tail --ahead --count 100
      Release 100 ticks on this machine, and show how precisely
  tickstorm tail --mode minute --json
      Print minutes for a program
  tickstorm tail --resume-after 1770091506000
      Start with the ticks that were missed since then
  tickstorm tail --count 3 --within 5s --max-late 100ms
      Probe an edge; exits with 0 (success), 1 (too late), 69 (cannot connect, or too
      few ticks in time), 76 (protocol violation) or 77 (refused)";

/// Print ticks as they arrive, with the lateness of each.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Tail {
    /// Address of the edge; repeat it for alternatives, which are tried in turn after each failure.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    addr: Vec<String>,
    /// User name.
    #[arg(long)]
    user: Option<String>,
    /// Mode of the ticks.
    #[arg(long, value_enum, default_value_t = ModeName::Second)]
    mode: ModeName,
    /// Receive ticks ahead of their time (800 ms, unless the edge is configured otherwise), and
    /// release each at its time by this machine's estimate of authority time.
    #[arg(long)]
    ahead: bool,
    /// Start with the past ticks after this epoch_ms, as REPLAY.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    resume_after: Option<i64>,
    /// Exit after N ticks, not counting those that --max-late ignores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Fail if fewer than --count ticks (default 1) arrive within this time (500ms, 5s, 1m30s), or
    /// if the connection ends.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    within: Option<Duration>,
    /// Fail if a tick is later than this.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    max_late: Option<Duration>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// The error for a value of --addr that is not an address.
#[derive(Debug, thiserror::Error)]
#[error("expected a host and a port, such as 127.0.0.1:8080")]
pub(crate) struct NotAnAddress;

pub(crate) fn address(text: &str) -> Result<String, NotAnAddress> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.into()),
        Some(_) | None => Err(NotAnAddress),
    }
}

impl Tail {
    /// Follows the edge until the options or Ctrl-C end it, or an error occurs.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let options = self.options()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let summary = RefCell::new(Summary::new());
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = self.follow(options, &summary) => outcome,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        });
        let summary = summary.into_inner();
        if summary.has_enough_ticks() && !self.json {
            stderr::notice(format_args!("{summary}"));
        }
        // A name lookup that is still in progress must not delay the exit.
        runtime.shutdown_background();
        outcome
    }

    fn options(&self) -> Result<Options, Failure> {
        let settings = Settings::load(&credentials::SECTIONS, &credentials::DEFAULTS)
            .map_err(|errors| Failure::new(exit::CONFIG, errors))?;
        for warning in settings.warnings() {
            stderr::notice(format_args!("tickstorm: warning: {warning}"));
        }
        let credentials = ClientCredentials::from_settings(&settings, self.user.as_deref())?;
        let (first, others) = self.addr.split_first().expect("--addr has a default");
        let addresses = others.iter().fold(Options::new(first), Options::or_at);
        let options = credentials
            .apply_to(addresses)
            .client_id("tickstorm tail")
            .exact_time(true)
            .ahead(self.ahead)
            .reconnect(self.within.is_none())
            .mode(self.mode.into());
        let options = match self.tls.options() {
            Some(tls) => options.tls(tls),
            None => options,
        };
        Ok(match self.resume_after {
            Some(ms) => options.resume_after(Epoch::from_ms(ms)),
            None => options,
        })
    }

    async fn follow(&self, options: Options, summary: &RefCell<Summary>) -> Result<(), Failure> {
        let format = if self.json {
            TickFormat::Json
        } else {
            TickFormat::Text
        };
        let counted = Cell::new(0);
        let followed = async {
            let ticks = tickstorm_client::connect(options).await?;
            // A probe that succeeds writes nothing to standard error.
            if self.within.is_none() {
                let (edge_id, address) = (ticks.edge_id().escape_debug(), ticks.address());
                stderr::notice(format_args!(
                    "tickstorm: connected to edge {edge_id} at {address}"
                ));
            }
            let judge = |tick: &Tick| {
                summary.borrow_mut().count(tick);
                counted.set(counted.get() + u64::from(self.judge(tick)?));
                Ok(if self.count == Some(counted.get()) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            };
            follow(ticks, format, judge).await
        };
        tokio::select! {
            outcome = followed => outcome,
            failure = self.too_few_in_time(&counted) => Err(failure),
        }
    }

    /// Completes when the time of --within is over, if too few ticks have been counted by then.
    async fn too_few_in_time(&self, counted: &Cell<u64>) -> Failure {
        let Some(within) = self.within else {
            return pending().await;
        };
        tokio::time::sleep(within).await;
        let (counted, wanted) = (counted.get(), self.count.unwrap_or(1));
        if counted >= wanted {
            return pending().await;
        }
        let text = format!("{counted} of {wanted} ticks arrived within {within:?}");
        Failure::message(exit::UNAVAILABLE, text)
    }

    /// Returns whether the tick counts, or an error if it was too late.
    fn judge(&self, tick: &Tick) -> Result<bool, Failure> {
        let Some(max_late) = self.max_late else {
            return Ok(true);
        };
        let Some(late_us) = tick.late_us().filter(|_| tick.quality != Quality::Replay) else {
            return Ok(false);
        };
        // A tick that seems early because of the error of authority time is not late.
        if u128::from(late_us.max(0).unsigned_abs()) <= max_late.as_micros() {
            return Ok(true);
        }
        let (epoch_ms, late) = (tick.epoch.as_ms(), Lateness(tick));
        let text = format!("tick {epoch_ms} was late by {late}; --max-late is {max_late:?}");
        Err(Failure::message(exit::FAILED, text))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tickstorm_client::{Estimate, Mode, UnixTime};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tail: Tail,
    }

    fn tail(args: &[&str]) -> Tail {
        let args = [&["tail"], args].concat();
        Cli::try_parse_from(args).unwrap().tail
    }

    fn tick(quality: Quality, late_us: Option<i64>) -> Tick {
        let unix = |late_us| UnixTime::from_micros(5_000_000 + late_us).unwrap();
        let read = late_us.map(|late_us| Estimate::new(unix(late_us), 1));
        Tick::new(Mode::Second, Epoch::from_ms(5_000), quality).read_at(read)
    }

    #[test]
    fn max_late_ignores_replay_and_unknown_lateness() {
        let tail = tail(&["--max-late", "100ms"]);
        let judge = |quality, late_us| tail.judge(&tick(quality, late_us));
        assert!(judge(Quality::Normal, Some(100_000)).unwrap());
        assert!(judge(Quality::Holdover, Some(-5)).unwrap());
        assert!(!judge(Quality::Replay, Some(5_000_000)).unwrap());
        assert!(!judge(Quality::Normal, None).unwrap());
        for quality in [Quality::Normal, Quality::Holdover] {
            let failure = judge(quality, Some(100_001)).unwrap_err();
            assert_eq!(failure.code, exit::FAILED);
            assert_eq!(
                failure.error.to_string(),
                "tick 5000 was late by +100.00 ms ±0.00; --max-late is 100ms"
            );
        }
    }

    #[test]
    fn without_max_late_every_tick_counts() {
        assert!(tail(&[]).judge(&tick(Quality::Replay, None)).unwrap());
    }

    #[test]
    fn invalid_option_values_are_refused() {
        for args in [
            ["--addr", "8080"],
            ["--addr", ":8080"],
            ["--addr", "localhost:http"],
            ["--within", "5"],
            ["--within", "-5s"],
            ["--within", "1.5s"],
            ["--within", "30s1m"],
            ["--max-late", "soon"],
            ["--count", "0"],
            ["--mode", "hour"],
            ["--ahead", "true"],
        ] {
            let parsed = Cli::try_parse_from([&["tail"], &args[..]].concat());
            assert!(parsed.is_err(), "{args:?}");
        }
    }

    #[test]
    fn durations_are_written_as_in_settings() {
        let tail = tail(&["--within", "1m30s", "--max-late", "250ms"]);
        assert_eq!(tail.within, Some(Duration::from_secs(90)));
        assert_eq!(tail.max_late, Some(Duration::from_millis(250)));
    }
}
