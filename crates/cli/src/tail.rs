//! `tickstorm tail`: ticks of an edge as they come, for a person to look at or for a probe to judge.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::ops::ControlFlow;
use std::time::Duration;

use tickstorm_client::{Epoch, Options, Quality, Tick};
use tickstorm_command::{
    Failure, ModeName,
    credentials::{self, ClientCredentials},
};
use tickstorm_service::env::Settings;
use tickstorm_service::{duration, exit};

use crate::follow::{TickFormat, follow};
use crate::line::Lateness;
use crate::summary::Summary;

const AFTER_HELP: &str = "\
Each line: the tick's UTC time, epoch_ms, mode, quality, and how late it was read by
authority time, in milliseconds, give or take the error; ? while authority time is not
known. After five ticks or more the end says, on standard error, how late they were.
With --json: epoch_ms, mode (second, minute), quality (normal, holdover, replay),
late_us and error_us (microseconds, null while authority time is not known), edge_id.

When the connection ends another is made, at the next --addr, and ticks go on after the
last one; standard error says so, and tells of gaps. With --within this is a probe, and
the end of its connection its own. The first connection is tried once at each --addr.

With --ahead, how late a tick is released, not read, is what is shown and judged.

Not judged by --max-late are REPLAY, which is late by its nature, and ticks that come
before authority time is known.

Environment:
  STREAM_USER    the user's name, where --user is not given (stream_user)
  STREAM_PASS    the password (stream_pass)
  STREAM_TOKEN   a token: then neither name nor password is sent
  Each may be in a file, named by STREAM_USER_FILE, STREAM_PASS_FILE, STREAM_TOKEN_FILE.

Examples:
  tickstorm tail                            the ticks of `tickstorm dev`
  tickstorm tail --addr edge.example:8080   another edge's
  tickstorm tail --addr edge-0:8080 --addr edge-1:8080
                                            one stream from whichever is there
  tickstorm tail --ahead --count 100        released by this machine, and how exactly
  tickstorm tail --mode minute --json       minutes, for programs
  tickstorm tail --resume-after 1770091506000
                                            first what was missed since then
  tickstorm tail --count 3 --within 5s --max-late 100ms
                                            a probe: exits 0 if all is well, else with
                                            1 (too late), 69 (not reachable, or not
                                            within the time), 76 (protocol), 77 (refused)";

/// Prints ticks as they come, with how late each was by authority time.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Tail {
    /// The edge's address. Given more than once, the next is gone to after each failure.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    addr: Vec<String>,
    /// The user's name.
    #[arg(long)]
    user: Option<String>,
    /// Which ticks.
    #[arg(long, value_enum, default_value_t = ModeName::Second)]
    mode: ModeName,
    /// Take ticks 800 ms ahead, and release each at its time by this machine's estimate of authority time.
    #[arg(long)]
    ahead: bool,
    /// First the ticks after this epoch_ms that have already been, as REPLAY.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    resume_after: Option<i64>,
    /// End after N ticks; with --max-late, after N that could be judged.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Fail unless the ticks of --count, or the first, have come within this time (500ms, 5s, 1m30s), or when the connection ends.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    within: Option<Duration>,
    /// Fail at a tick that is later than this.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    max_late: Option<Duration>,
    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,
}

/// A value of --addr that is no address.
#[derive(Debug, thiserror::Error)]
#[error("it takes a host and a port, as in 127.0.0.1:8080")]
struct NotAnAddress;

fn address(text: &str) -> Result<String, NotAnAddress> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.into()),
        Some(_) | None => Err(NotAnAddress),
    }
}

impl Tail {
    /// Follows the edge until there is nothing more to do.
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
        if summary.is_telling() && !self.json {
            eprintln!("{summary}");
        }
        // A name that is still being looked up holds up nobody.
        runtime.shutdown_background();
        outcome
    }

    fn options(&self) -> Result<Options, Failure> {
        let settings = Settings::load(&credentials::SECTIONS, &credentials::DEFAULTS)
            .map_err(|errors| Failure::new(exit::CONFIG, errors))?;
        for warning in settings.warnings() {
            eprintln!("tickstorm: warning: {warning}");
        }
        let credentials = ClientCredentials::from_settings(&settings, self.user.as_deref())?;
        let (first, others) = self.addr.split_first().expect("--addr has a default");
        let addresses = others.iter().fold(Options::new(first), Options::or_at);
        let options = credentials
            .put_into(addresses)
            .client_id("tickstorm tail")
            .exact_time()
            .ahead(self.ahead)
            .reconnect(self.within.is_none())
            .mode(self.mode.into());
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
        let followed = follow(options, format, |tick| {
            summary.borrow_mut().count(tick);
            counted.set(counted.get() + u64::from(self.judge(tick)?));
            Ok(if self.count == Some(counted.get()) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        tokio::select! {
            outcome = followed => outcome,
            failure = self.too_few_in_time(&counted) => Err(failure),
        }
    }

    /// Comes about where --within is over and too few ticks have been counted.
    async fn too_few_in_time(&self, counted: &Cell<u64>) -> Failure {
        let Some(within) = self.within else {
            return pending().await;
        };
        tokio::time::sleep(within).await;
        let (counted, wanted) = (counted.get(), self.count.unwrap_or(1));
        if counted >= wanted {
            return pending().await;
        }
        let text = format!("{counted} of {wanted} ticks came within {within:?}");
        Failure::said(exit::UNAVAILABLE, text)
    }

    /// Whether the tick counts; an error where it was too late.
    fn judge(&self, tick: &Tick) -> Result<bool, Failure> {
        let Some(max_late) = self.max_late else {
            return Ok(true);
        };
        let Some(late_us) = tick.late_us().filter(|_| tick.quality != Quality::Replay) else {
            return Ok(false);
        };
        // A tick that came early, as far as that can be told, is not late.
        if u128::from(late_us.max(0).unsigned_abs()) <= max_late.as_micros() {
            return Ok(true);
        }
        let (epoch_ms, late) = (tick.epoch.as_ms(), Lateness(tick));
        let text = format!("tick {epoch_ms} was late by {late}, more than {max_late:?}");
        Err(Failure::said(exit::FAILED, text))
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
        Tick {
            mode: Mode::Second,
            epoch: Epoch::from_ms(5_000),
            quality,
            read: late_us.map(|late_us| Estimate {
                unix: UnixTime::from_micros(5_000_000 + late_us).unwrap(),
                error_us: 1,
            }),
        }
    }

    #[test]
    fn max_late_judges_what_can_be_judged() {
        let tail = tail(&["--max-late", "100ms"]);
        let judge = |quality, late_us| tail.judge(&tick(quality, late_us));
        assert!(judge(Quality::Normal, Some(100_000)).unwrap());
        assert!(judge(Quality::Holdover, Some(-5)).unwrap());
        assert!(!judge(Quality::Replay, Some(5_000_000)).unwrap());
        assert!(!judge(Quality::Normal, None).unwrap());
        for quality in [Quality::Normal, Quality::Holdover] {
            let failure = judge(quality, Some(100_001)).unwrap_err();
            assert_eq!(failure.code, exit::FAILED);
            let said = failure.error.to_string();
            assert_eq!(
                said,
                "tick 5000 was late by +100.00 ms ±0.00, more than 100ms"
            );
        }
    }

    #[test]
    fn without_max_late_every_tick_counts() {
        assert!(tail(&[]).judge(&tick(Quality::Replay, None)).unwrap());
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
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
