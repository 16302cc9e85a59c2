//! `tickstorm check`: whether a server keeps the protocol, case by case.
//!
//! It uses the protocol's codec, but no client: each case opens its own connections, and judges
//! bytes and times. Cases run side by side.

mod bytes;
mod cases;
mod connection;
mod report;
mod sentences;
mod server;
mod stop;
mod welcome;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tickstorm_command::{
    Failure, TlsArgs,
    credentials::{self, ClientCredentials},
};
use tickstorm_protocol::ErrorCode;
use tickstorm_service::env::Settings;
use tickstorm_service::{duration, exit, stderr};
use tokio::sync::{Semaphore, mpsc};

use self::cases::{ACK_OF_AUTH, CASES, Case};
use self::connection::Step;
use self::report::{Ended, Report};
use self::server::Server;
use self::stop::{Outcome, Stop};
use crate::follow::print;

/// The cases that run at the same time.
const SIDE_BY_SIDE: usize = 24;
/// The time limit for the answer to the first AUTH.
const FIRST_ANSWER_TIME_MAX: Duration = Duration::from_secs(12);
/// The exit code if no case failed, but some could not be tried: EX_TEMPFAIL of sysexits.h.
const INCONCLUSIVE: u8 = 75;
/// The name of the case that waits for the next full minute, if it is chosen.
const MINUTE_TICK: &str = "minute-tick";

const AFTER_HELP: &str = "\
Output:
  The address and the IP address that was chosen. Then one line per case as it ends: its
  outcome, its name and what it checks, and below it what was seen. Then the sentences of
  docs/protocol.md that were checked and hold, those that were checked in part, with what
  was not seen or not tried, those that were not checked, since none of their cases came to
  its end, and those whose case failed. With --only, those that were not checked are left
  out. --json prints one object instead, when all cases have ended.

Outcomes:
  passed        The server does what the case checks
  failed        The server breaks a rule of the protocol
  skipped       The case does not apply: for instance, it needs TLS and the port is
                plain, or it would wait too long because of the server's settings
  inconclusive  The case could not be tried: for instance, the server has no capacity,
                does not know the time, or delays logins

Cases:
  All cases run side by side, on connections of their own, and take little longer than
  heartbeat_timeout_ms in the server's ACK: 25 s for an edge with default settings.
  They need ticks, so the server must know the time. With a low frame rate they take
  longer, since they keep to it. minute-tick runs if the next minute is near; with --only
  minute-tick it waits up to 61 s. A single AUTH has a wrong password, and none if the
  server already delays logins. Time limits allow for what this machine itself is late,
  but it should be idle, and near the server; --tolerance helps if it is not.
  Ticks may usually be 100 ms later than --tolerance allows, after half the round trip is
  subtracted. If the server has tens of thousands of other clients, its last one has the
  tick later than that: use --tolerance 500ms, for instance.
  The name is looked up once, and all connections go to the first of its IP addresses that
  accepts one within 3 s.
  The cases open up to a few dozen connections at a time, some of which exceed the frame
  rate, and ask for some thousand replayed ticks in all. Do not check an edge from an
  address whose limits others share.

Environment:
  STREAM_USER    User name, unless --user is given [default: stream_user]
  STREAM_PASS    Password [default: stream_pass]
  STREAM_TOKEN   Token, sent instead of user name and password
  Each can be read from a file named by STREAM_USER_FILE, STREAM_PASS_FILE or
  STREAM_TOKEN_FILE.

Exit code:
  0   Each case passed or was skipped
  1   A case failed
  69  Cannot connect
  75  No case failed, but some are inconclusive
  77  Refused by the server: wrong credentials, or no capacity

Examples:
  tickstorm check
      Check `tickstorm dev`
  tickstorm check --addr edge.example:8443 --tls --tls-ca ca.pem
      Check an edge with TLS, whose certificate this authority signed
  tickstorm check --only resume --only ahead
      Run two cases
  tickstorm check --list
      Show the names of all cases
  tickstorm check --json | jq -r '.cases[] | select(.outcome == \"failed\") | .id'
      List the cases that fail, for a program";

/// Check whether a server keeps the protocol, case by case.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Check {
    /// Address of the server.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        value_parser = crate::tail::address
    )]
    addr: String,
    /// User name.
    #[arg(long)]
    user: Option<String>,
    /// Allow the server this much more time than the protocol does, for the way there and back.
    #[arg(long, value_name = "DURATION", default_value = "150ms", value_parser = duration::parse)]
    tolerance: Duration,
    #[command(flatten)]
    tls: TlsArgs,
    /// Run only this case; repeat it for several.
    #[arg(long, value_name = "NAME", value_parser = case)]
    only: Vec<Case>,
    /// Show the names of all cases and what they check, and exit.
    #[arg(long)]
    list: bool,
    /// Print a JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// The error for a value of --only that is not the name of a case.
#[derive(Debug, thiserror::Error)]
#[error("no case has this name: see --list")]
struct NoSuchCase;

fn case(text: &str) -> Result<Case, NoSuchCase> {
    let name = text.strip_prefix("check/").unwrap_or(text);
    let mut all = CASES.iter().chain([&ACK_OF_AUTH]);
    all.find(|case| case.name == name)
        .copied()
        .ok_or(NoSuchCase)
}

impl Check {
    /// Runs the cases, and prints what they found.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        if self.list {
            for case in [&ACK_OF_AUTH].into_iter().chain(CASES) {
                if print(&format!("{:<24}{}", case.name, case.title))?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let server = Arc::new(self.server()?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let outcome = runtime.block_on(Box::pin(self.check(server)));
        // A name lookup that is still in progress must not delay the exit.
        runtime.shutdown_background();
        outcome
    }

    fn server(&self) -> Result<Server, Failure> {
        let settings = Settings::load(&credentials::SECTIONS, &credentials::DEFAULTS)
            .map_err(|errors| Failure::new(exit::CONFIG, errors))?;
        for warning in settings.warnings() {
            stderr::notice(format_args!("tickstorm: warning: {warning}"));
        }
        let credentials = ClientCredentials::from_settings(&settings, self.user.as_deref())?;
        let (address, tls) = (self.addr.clone(), self.tls.options());
        let waits_for_minute = self.only.iter().any(|case| case.name == MINUTE_TICK);
        Server::new(address, credentials, tls, self.tolerance, waits_for_minute)
    }

    async fn check(&self, server: Arc<Server>) -> Result<(), Failure> {
        let found = server.find().await;
        let connected_to = found.map_err(|error| cannot_connect(&server, error))?;
        if !self.json {
            let _ = print(&format!("server {} at {connected_to}\n", server.address()))?;
        }
        let is_served = served(&server);
        Box::pin(is_served).await?;
        let measured = Arc::clone(&server);
        tokio::spawn(async move { measured.measure_lateness().await });

        let mut report = Report {
            address: server.address().to_owned(),
            connected_to,
            is_partial: !self.only.is_empty(),
            cases: Vec::new(),
        };
        let first = run_case(ACK_OF_AUTH, &server).await;
        // All other cases rely on this answer, so its failure is shown even with --only.
        if first.outcome.is_err() || self.is_chosen(&ACK_OF_AUTH) {
            self.show(first, &mut report)?;
        }
        let mut ended = start_all(self.chosen(), &server);
        while let Some(case) = ended.recv().await {
            self.show(case, &mut report)?;
        }
        let text = if self.json {
            report.json().to_string()
        } else {
            format!("\n{report}")
        };
        // A closed pipe does not change the verdict.
        let _ = print(&text)?;
        verdict(&report)
    }

    fn is_chosen(&self, case: &Case) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only.name == case.name)
    }

    /// Returns the cases to run after the first, each once.
    fn chosen(&self) -> Vec<Case> {
        let mut seen = HashSet::new();
        let chosen = CASES.iter().filter(|case| self.is_chosen(case));
        chosen
            .filter(|case| seen.insert(case.name))
            .copied()
            .collect()
    }

    fn show(&self, ended: Ended, report: &mut Report) -> Result<(), Failure> {
        if !self.json {
            let _ = print(&ended.to_string())?;
        }
        report.cases.push(ended);
        Ok(())
    }
}

fn verdict(report: &Report) -> Result<(), Failure> {
    let (counts, all) = (report.counts(), report.cases.len());
    if counts.failed > 0 {
        let text = format!("{} of {all} cases failed", counts.failed);
        return Err(Failure::message(exit::FAILED, text));
    }
    if counts.inconclusive > 0 {
        let text = format!("{} of {all} cases could not be tried", counts.inconclusive);
        return Err(Failure::message(INCONCLUSIVE, text));
    }
    Ok(())
}

fn cannot_connect(server: &Server, error: io::Error) -> Failure {
    let is_not_tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .is_some_and(|inner| matches!(inner, rustls::Error::InvalidMessage(_)));
    let hint = if is_not_tls {
        ": its answer is not TLS. If the port is plain, leave out --tls"
    } else {
        ""
    };
    let context = format!("cannot connect to {}{hint}", server.address());
    Failure::new(
        exit::UNAVAILABLE,
        anyhow::Error::new(error).context(context),
    )
}

/// Fails if there is no server, or if it refuses this client.
async fn served(server: &Arc<Server>) -> Result<(), Failure> {
    let socket = server.dial().await;
    let socket = socket.map_err(|error| cannot_connect(server, error))?;
    let mut connection = connection::Connection::new(socket, Arc::clone(server));
    connection.send(&server.auth()).await;
    let deadline = Server::now() + FIRST_ANSWER_TIME_MAX;
    let refusal = match connection.step(deadline).await {
        Ok(Step::Error(error)) => {
            let code = error.code.parse::<ErrorCode>();
            if !matches!(code, Ok(ErrorCode::AuthFailed | ErrorCode::AuthTimeout)) {
                return Ok(());
            }
            format!("{}: {}", error.code, error.message.escape_debug())
        }
        // What a server answers if it has no capacity.
        Err(Stop::Inconclusive(reason)) => reason,
        // The first case says what is wrong with any other answer.
        Ok(Step::Ack(_) | Step::Pong(_) | Step::Ticks | Step::End(_) | Step::TimeUp)
        | Err(Stop::Failed(_) | Stop::Skipped(_)) => return Ok(()),
    };
    let text = format!("the server refused the connection: {refusal}");
    Err(Failure::message(exit::NOPERM, text))
}

/// Starts these cases, and returns them as they end.
fn start_all(cases: Vec<Case>, server: &Arc<Server>) -> mpsc::UnboundedReceiver<Ended> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let permits = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    for case in cases {
        let (sender, server) = (sender.clone(), Arc::clone(server));
        let permits = Arc::clone(&permits);
        tokio::spawn(async move {
            // The semaphore is never closed. Cases get their permits in this order.
            let _permit = permits.acquire().await;
            // Nobody receives it if the output has failed.
            let _ = sender.send(run_case(case, &server).await);
        });
    }
    receiver
}

async fn run_case(case: Case, server: &Arc<Server>) -> Ended {
    let started_at = Server::now();
    let is_first = case.name == ACK_OF_AUTH.name;
    let outcome = match server.welcome() {
        Err(unknown) if !is_first => Outcome::Err(unknown),
        Ok(_) | Err(_) => (case.run)(Arc::clone(server)).await,
    };
    Ended {
        case,
        outcome,
        took: Server::now().since(started_at),
    }
}
