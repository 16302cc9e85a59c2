//! `tickstorm status`: asks the admin ports of edges and clocks, and shows what they say side by
//! side. It only reads, sends no token, and decides nothing for anyone else: its exit code is its
//! verdict.

mod answer;
mod findings;
mod report;
#[cfg(test)]
mod sample;
mod table;
mod text;

use std::env;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tickstorm_client::TlsOptions;
use tickstorm_command::Failure;
use tickstorm_service::admin_client::{AdminPort, Scheme, any_certificate};
use tickstorm_service::env::Settings;
use tickstorm_service::exit;
use tickstorm_service::settings::{ADMIN_ADDR, ADMIN_TLS_CERT_FILE};

use self::answer::Asked;
use self::findings::{Findings, Verdict};
use self::report::Report;
use self::table::Paint;
use self::text::escape_json;
use crate::follow::print;

/// The admin ports that an edge and a clock on this machine have by default.
const LOCAL: [&str; 2] = ["127.0.0.1:8081", "127.0.0.1:8082"];

/// The pause of `--watch`: an edge learns something new about its clocks every second.
const PAUSE: Duration = Duration::from_secs(2);

/// Erases the terminal, and puts the cursor into its first line.
const ERASE: &str = "\x1b[H\x1b[2J\x1b[3J";

const AFTER_HELP: &str = "\
Output:
  A table of the clocks as each edge sees them, one of the edges and one of the clocks,
  how far the edges' times are apart, and all alarms, with what to do. Lines fit into 80
  columns; longer names are cut in the middle. The last line is the verdict.

  --json prints one object instead: verdict (well, wrong, unreachable), problems, alarms
  (each with reason, message, action, runbook, clocks, and the daemons that raise it, at),
  remarks, and ports (for each its admin URL, its /status, and the error if it did not
  answer). On a terminal, everything but ASCII is escaped.

Ports:
  Without --admin, the port in ADMIN_ADDR is asked, as `tickstorm-edge healthcheck` does:
  over HTTPS, without looking at the certificate, if ADMIN_TLS_CERT_FILE is set. If it is
  not set either, 127.0.0.1:8081 and 127.0.0.1:8082 are asked. If one of them answers and
  nothing listens on the other, that is only a remark, since many hosts have only an edge
  or only a clock. A port that does not answer costs 2 s; all are asked at the same time.
  /status shows no client and needs no token.

Exit code:
  0   All is well: each port answers and is ready, without an alarm, a silent clock,
      holdover, or a warning about a certificate. Remarks are not counted
  1   Something is wrong
  69  A port does not answer

Examples:
  tickstorm status
      Show the edge and the clock on this machine
  tickstorm status --admin edge-0:8081,edge-1:8081,clock-0:8082
      Show a cluster
  tickstorm status --admin https://edge.example:8081 --tls-ca ca.pem
      Show an edge whose admin port has TLS
  tickstorm status --watch
      Show it again every 2 s, until Ctrl-C
  tickstorm status --json | jq -r '.alarms[].reason'
      List the alarms for a program";

/// Show the state of edges and clocks, with their alarms in words.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Status {
    /// Admin port of an edge or a clock, or its URL (https://HOST:PORT); repeat it, or separate
    /// several by commas.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    admin: Vec<AdminPort>,
    /// Trust the certificate authorities in this PEM file, instead of those of the system.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    tls_ca: Option<PathBuf>,
    /// Do not check the certificates of admin ports with TLS.
    #[arg(long)]
    insecure: bool,
    /// Print a JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Ask and print again every 2 s.
    #[arg(long)]
    watch: bool,
}

/// The ports to ask, and how.
struct Targets {
    ports: Vec<AdminPort>,
    tls: Arc<ClientConfig>,
    /// Whether they are a guess: nobody has said that all of them exist.
    are_guessed: bool,
}

impl Status {
    /// Asks once, or again and again with `--watch`, and prints what the ports say.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let targets = self.targets()?;
        let is_terminal = io::stdout().is_terminal();
        let paint = Paint::for_terminal(
            is_terminal,
            env::var_os("NO_COLOR").as_deref(),
            env::var_os("TERM").as_deref(),
        );
        loop {
            let asked = targets.ask();
            let findings = Findings::of(&asked);
            let text = if self.json {
                json_text(&findings.json(&asked), is_terminal)
            } else {
                Report::new(&asked, &findings, paint).to_string()
            };
            if !self.watch {
                // A closed pipe does not change the verdict.
                let _ = print(text.trim_end())?;
                return findings.outcome();
            }
            let start = if self.json || !is_terminal { "" } else { ERASE };
            if print(&format!("{start}{}", text.trim_end()))?.is_break() {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    fn targets(&self) -> Result<Targets, Failure> {
        if !self.admin.is_empty() {
            return Ok(Targets {
                ports: self.admin.clone(),
                tls: self.tls()?,
                are_guessed: false,
            });
        }
        let invalid = |error| Failure::new(exit::CONFIG, error);
        let defaults = [(ADMIN_ADDR.name(), LOCAL[0])];
        let certificate = Settings::load_one(&ADMIN_TLS_CERT_FILE, &defaults).map_err(invalid)?;
        let scheme = certificate.map_or(Scheme::Http, |_| Scheme::Https);
        let port = |addr| AdminPort::on_this_machine(scheme, addr);
        let is_set = env::var_os(ADMIN_ADDR.name()).is_some_and(|value| !value.is_empty());
        let ports = if is_set {
            vec![port(
                Settings::load_one(&ADMIN_ADDR, &defaults).map_err(invalid)?,
            )]
        } else {
            let local = LOCAL.map(|addr| addr.parse::<SocketAddr>().expect("it is an address"));
            local.map(port).into()
        };
        Ok(Targets {
            ports,
            // The port of a daemon on this machine, by an address that certificates rarely contain.
            tls: any_certificate(),
            are_guessed: !is_set,
        })
    }

    /// Returns how to check the certificates of ports that are named on the command line.
    fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        let has_tls = self.admin.iter().any(|port| port.scheme() == Scheme::Https);
        if self.insecure || !has_tls {
            return Ok(any_certificate());
        }
        let options = self
            .tls_ca
            .iter()
            .fold(TlsOptions::new(), TlsOptions::ca_file);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = options.client_config(provider);
        config
            .map(Arc::new)
            .map_err(|error| Failure::new(exit::CONFIG, error))
    }
}

impl Targets {
    /// Asks all ports at the same time.
    fn ask(&self) -> Vec<Asked> {
        let asked = thread::scope(|scope| {
            let ask = |port| scope.spawn(move || Asked::ask(port, &self.tls));
            let asking: Vec<_> = self.ports.iter().map(ask).collect();
            asking
                .into_iter()
                .map(|thread| thread.join().expect("asking does not panic"))
                .collect()
        });
        if self.are_guessed {
            excuse_unused(asked)
        } else {
            asked
        }
    }
}

/// Excuses the guessed ports on which nothing listens, if another one answers: a host may have only
/// an edge, or only a clock. If that one has both, nothing is missing, and the others are left out.
fn excuse_unused(mut asked: Vec<Asked>) -> Vec<Asked> {
    if asked.iter().any(Asked::is_edge_and_clock) {
        asked.retain(|one| !one.is_unused());
    }
    if asked.iter().any(|one| one.answer().is_some()) {
        asked = asked.into_iter().map(Asked::excused).collect();
    }
    asked
}

/// Returns an object as text. What daemons say in it may change what a terminal shows, so a
/// terminal gets all of that escaped.
fn json_text(value: &Value, is_terminal: bool) -> String {
    let text = value.to_string();
    if is_terminal {
        escape_json(&text)
    } else {
        text
    }
}

impl Findings {
    /// Returns the outcome of the command.
    fn outcome(&self) -> Result<(), Failure> {
        let code = match self.verdict() {
            Verdict::Well => return Ok(()),
            Verdict::Wrong => exit::FAILED,
            Verdict::Unreachable => exit::UNAVAILABLE,
        };
        Err(Failure::message(code, self.summary()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::sample::{ask, clock, edge};
    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        status: Status,
    }

    fn ports(args: &[&str]) -> Result<Vec<String>, clap::Error> {
        let cli = Cli::try_parse_from([&["status"], args].concat())?;
        let ports = cli.status.admin.iter().map(AdminPort::to_string);
        Ok(ports.collect())
    }

    #[test]
    fn ports_are_repeated_or_separated_by_commas() {
        let args = ["--admin", "a:1,https://b:2", "--admin", "[::1]:3"];
        let expected = ["http://a:1", "https://b:2", "http://[::1]:3"];
        assert_eq!(ports(&args).unwrap(), expected);
        for args in [&["--admin", "a"][..], &["--tls-ca", "a", "--insecure"]] {
            assert!(ports(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn of_two_guessed_ports_one_may_be_unused_if_the_other_answers() {
        let unused = |port: u16| Asked::unused(&format!("http://127.0.0.1:{port}"));
        let mut dev = edge("edge-0");
        dev["clock"] = clock("clock-0");
        for (status, remarks) in [(dev, 0), (edge("edge-0"), 1), (clock("clock-0"), 1)] {
            let mut asked = ask(&[status]);
            asked.insert(0, unused(8_081));
            let findings = Findings::of(&excuse_unused(asked));
            assert_eq!(findings.verdict(), Verdict::Well, "{findings:?}");
            assert_eq!(findings.remarks.len(), remarks, "{findings:?}");
        }
        let findings = Findings::of(&excuse_unused(vec![unused(8_081), unused(8_082)]));
        assert_eq!(findings.verdict(), Verdict::Unreachable);
        assert_eq!(findings.unreachable.len(), 2, "{findings:?}");
    }

    #[test]
    fn json_is_escaped_for_a_terminal_and_nowhere_else() {
        let hostile = "\u{9b}2J\u{7f}\u{202e}\u{1f600}é\u{1b}";
        let value = json!({ hostile: [hostile] });
        let text = json_text(&value, true);
        let is_harmless = |char: char| matches!(char, ' '..='~');
        assert!(text.chars().all(is_harmless), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(json_text(&value, false), value.to_string());
    }
}
