//! What each signal does to each program: the table in docs/operations.md, on real processes.

use std::os::unix::process::ExitStatusExt as _;

use nix::sys::signal::Signal;
use serde_json::Value;
use tickstorm_testkit::{CertificateAuthority, TempDir};

use crate::dev::{Dev, dev};
use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::document::Document;
use crate::support::eventually;
use crate::tickstorm::{PATIENCE, Running, tickstorm};

const DAEMONS: [&str; 2] = ["tickstorm-clock", "tickstorm-edge"];

/// Signals that no program but a daemon handles.
const OF_DAEMONS: [Signal; 5] = [
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGXFSZ,
];

/// Signals that end no program.
const HARMLESS: [Signal; 5] = [
    Signal::SIGPIPE,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGCONT,
];

/// Signals that a daemon ignores and that end other programs.
const IGNORED_BY_DAEMONS: [Signal; 6] = [
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGXFSZ,
];

/// Signals that end every program as they end one that does not handle them.
const DEADLY: [Signal; 3] = [Signal::SIGABRT, Signal::SIGPWR, Signal::SIGXCPU];

#[test]
fn the_documented_signals_are_those_that_are_tested_here() {
    let document = Document::read("docs/operations.md");
    let section = document.section("## Signals and exit codes");
    let head = ["signal", "clock", "edge", "`dev`", "`tail`", "`bench`"];
    let rows = section.table(&head);
    let documented = |row: &[String]| -> Vec<Signal> {
        let names = row[0].trim_start_matches("all others, such as ");
        let names = names.replace(" and ", ", ");
        let names = names.split(", ").map(|name| name.parse().unwrap());
        names.collect()
    };
    let of_effects = |effects: [&str; 5]| -> Vec<Signal> {
        let row = rows.iter().find(|row| row[1..] == effects);
        documented(row.unwrap_or_else(|| panic!("no row {effects:?} in {rows:#?}")))
    };
    let ended = "is ended";
    let ignored = of_effects(["ignored", "ignored", ended, ended, ended]);
    assert_eq!(ignored, IGNORED_BY_DAEMONS);
    let mut harmless = of_effects(["ignored"; 5]);
    harmless.sort_unstable();
    let mut expected = HARMLESS;
    expected.sort_unstable();
    assert_eq!(harmless, expected);
    let deadly = of_effects([ended; 5]);
    for signal in DEADLY {
        assert!(deadly.contains(&signal), "{signal} is not in {deadly:?}");
    }
    // No signal has two rows, and every signal that only daemons handle has one.
    let mut all: Vec<_> = rows.iter().flat_map(|row| documented(row)).collect();
    for signal in OF_DAEMONS {
        assert!(all.contains(&signal), "{signal} is not documented");
    }
    all.sort_unstable();
    let number = all.len();
    all.dedup();
    assert_eq!(all.len(), number, "a signal has two rows: {rows:#?}");
}

#[tokio::test]
async fn a_daemon_survives_all_signals_that_are_not_meant_to_end_it() {
    let handled = [Signal::SIGHUP, Signal::SIGUSR1];
    for name in DAEMONS {
        let mut running = Daemon::new(name);
        running.start().await;
        let survived = handled.into_iter().chain(IGNORED_BY_DAEMONS);
        for signal in survived.chain(HARMLESS) {
            running.send(signal);
            assert!(running.is_live().await, "{name}: {signal}");
        }
        running.logs("SIGHUP: all files were reread").await;
        running.logs("debug logging is on").await;
        running.pause();
        running.unpause();
        assert_eq!(running.terminate().await, Some(0), "{name}");
    }
}

#[tokio::test]
async fn other_signals_end_a_daemon_like_any_program() {
    for name in DAEMONS {
        for signal in DEADLY {
            let mut running = Daemon::new(name);
            running.start().await;
            running.send(signal);
            assert_eq!(running.ended().await, None, "{name}: {signal}");
        }
    }
}

#[tokio::test]
async fn sigquit_ends_a_daemon_at_once_even_while_it_drains() {
    for name in DAEMONS {
        for drains in [false, true] {
            let mut running = Daemon::new(name).with("DRAIN_DELAY", "10m");
            running.start().await;
            if drains && name == "tickstorm-edge" {
                running.send(Signal::SIGTERM);
                running.logs("draining: no longer ready").await;
            }
            running.send(Signal::SIGQUIT);
            assert_eq!(running.ended().await, Some(131), "{name}");
            let log = running.log();
            let last = log.lines().last().unwrap();
            assert!(last.contains("ended at once by SIGQUIT"), "{name}: {log}");
            assert_eq!(log.matches("SIGQUIT").count(), 1, "{name}: {log}");
            assert_eq!(log.contains("draining"), drains && name == "tickstorm-edge");
        }
    }
}

#[tokio::test]
async fn dev_ends_in_order_on_the_signals_of_a_terminal_and_at_once_on_others() {
    for signal in OF_DAEMONS {
        let mut dev = Dev::on_free_ports().await;
        dev.tick().await;
        let status = dev.process.end_with(signal).await;
        assert_eq!(status.signal(), Some(signal as i32), "{signal}");
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut dev = Dev::start(dev()).await;
        for harmless in HARMLESS {
            dev.process.send(harmless);
            dev.tick().await;
        }
        let status = dev.process.end_with(signal).await;
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn tail_ends_in_order_on_sigint_and_at_once_on_others() {
    let dev = Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let tail = async || {
        let mut tail = Running::start(tickstorm(&["tail", "--addr", &addr]));
        tail.line().await;
        tail
    };
    for signal in [Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .chain(OF_DAEMONS)
    {
        let status = tail().await.end_with(signal).await;
        assert_eq!(status.signal(), Some(signal as i32), "{signal}");
    }
    let mut tail = tail().await;
    for harmless in HARMLESS {
        tail.send(harmless);
        tail.line().await;
    }
    assert_eq!(tail.end_with(Signal::SIGINT).await.code(), Some(0));
}

#[tokio::test]
async fn bench_ends_at_once_on_every_signal() {
    let bench = || {
        let args = [
            "bench",
            "idle",
            "-n",
            "10",
            "--out",
            "/nowhere/results.json",
        ];
        tickstorm(&args).spawn().unwrap()
    };
    for signal in OF_DAEMONS {
        let mut bench = bench();
        let pid = nix::unistd::Pid::from_raw(bench.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        let status = tokio::time::timeout(PATIENCE, bench.wait()).await;
        let status = status.unwrap().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{signal}");
    }
}

/// The files of an edge that reads everything from files.
struct Files {
    dir: TempDir,
    authority: CertificateAuthority,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: TempDir::new("all-files"),
            authority: CertificateAuthority::new(),
        }
    }

    fn write(&self, name: &str, content: &str) -> String {
        self.dir.write(name, content).display().to_string()
    }

    /// Returns the settings that name the files of every daemon.
    fn of_every_daemon(&self) -> Vec<(&'static str, String)> {
        let nats = self.authority.issue("nats");
        vec![
            ("NATS_USER_FILE", self.write("nats-user", "ada\n")),
            (
                "NATS_PASSWORD_FILE",
                self.write("nats-password", "open sesame\n"),
            ),
            (
                "NATS_CA_FILE",
                self.write("nats-ca.pem", self.authority.certificate()),
            ),
            ("NATS_CERT_FILE", self.write("nats.pem", &nats.certificate)),
            ("NATS_KEY_FILE", self.write("nats.key", &nats.key)),
            (
                "ADMIN_TOKEN_FILE",
                self.write("token", "0123456789abcdef\n"),
            ),
            (
                "OTEL_EXPORTER_OTLP_HEADERS_FILE",
                self.write("headers", "api-key=open%20sesame\n"),
            ),
            (
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
                self.write("collector-ca.pem", self.authority.certificate()),
            ),
        ]
    }

    /// Returns the settings that name the files of an edge for its clients.
    fn of_clients(&self) -> Vec<(&'static str, String)> {
        let own = self.authority.issue("edge.test");
        vec![
            ("STREAM_USER_FILE", self.write("user", USER)),
            ("STREAM_PASS_FILE", self.write("pass", PASSWORD)),
            (
                "STREAM_PASS_PREVIOUS_FILE",
                self.write("previous", "the one before"),
            ),
            ("STREAM_TOKENS_FILE", self.write("tokens", &tokens(50))),
            ("COOKIE_KEY_FILE", self.write("cookie-key", &"k".repeat(64))),
            (
                "IP_ALLOWLIST_FILE",
                self.write("allowed", "127.0.0.0/8\n::1/128\n"),
            ),
            ("IP_BLOCKLIST_FILE", self.write("blocked", "192.0.2.0/24\n")),
            ("TLS_CERT_FILE", self.write("edge.pem", &own.certificate)),
            ("TLS_KEY_FILE", self.write("edge.key", &own.key)),
            (
                "TLS_CA_FILE",
                self.write("clients.pem", self.authority.certificate()),
            ),
            (
                "TLS_CRL_FILE",
                self.write("clients.crl", &self.authority.revoke(&[])),
            ),
        ]
    }

    /// Returns a daemon with these settings.
    fn daemon(name: &'static str, settings: &[(&'static str, String)]) -> Daemon {
        // Nothing listens there, and nothing needs to.
        let mut daemon =
            Daemon::new(name).with("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1");
        if name == "tickstorm-edge" {
            daemon = daemon
                .without("STREAM_USER")
                .without("STREAM_PASS")
                .with("TLS_ENABLED", "true")
                .with("TLS_CLIENT_AUTH", "require_verify");
        }
        for (setting, path) in settings {
            daemon.set(setting, path);
        }
        daemon
    }

    fn of(&self, name: &str) -> Vec<(&'static str, String)> {
        let mut settings = self.of_every_daemon();
        if name == "tickstorm-edge" {
            settings.extend(self.of_clients());
        }
        settings
    }
}

fn tokens(number: usize) -> String {
    let lines = (0..number).map(|index| format!("name-{index} {index:064x}\n"));
    lines.collect()
}

/// Returns the events that a daemon has logged since `from`.
fn events(daemon: &Daemon, from: usize) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().skip(from);
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Sends SIGHUP, and returns the events about files and the summary.
async fn reread(daemon: &Daemon) -> (Vec<Value>, Value) {
    let from = daemon.log().lines().count();
    daemon.send(Signal::SIGHUP);
    let mut found = None;
    eventually("the summary is logged", PATIENCE, async || {
        let mut events = events(daemon, from);
        let is_summary = |event: &Value| event["message"] == "SIGHUP: all files were reread";
        let Some(at) = events.iter().position(is_summary) else {
            return false;
        };
        let summary = events.remove(at);
        events.retain(|event| event["setting"].is_string());
        found = Some((events, summary));
        true
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn at_sighup_a_daemon_rereads_every_file_and_says_what_has_changed() {
    for name in DAEMONS {
        let files = Files::new();
        let settings = files.of(name);
        let mut running = Files::daemon(name, &settings);
        running.start().await;
        running.logs(r#""message":"listening""#).await;

        let (events, summary) = reread(&running).await;
        for (setting, path) in &settings {
            let mut of_file = events.iter().filter(|event| event["setting"] == *setting);
            let event = of_file
                .next()
                .unwrap_or_else(|| panic!("{setting}: {events:#?}"));
            assert_eq!(event["path"], *path);
            assert_eq!(event["message"], "SIGHUP: the file is unchanged");
            assert_eq!(of_file.count(), 0, "{setting}");
        }
        assert_eq!(summary["files"], settings.len(), "{summary}");
        for count in ["changed", "refused", "unconfirmed", "unanswered"] {
            assert_eq!(summary[count], 0, "{summary}");
        }

        // The look that comes every second may be the first to see a change.
        let mut number = 0;
        eventually("a change is reported", PATIENCE, async || {
            number += 1;
            files.write("token", &format!("0123456789abcdef{number}"));
            files.write("nats-password", "");
            let (events, summary) = reread(&running).await;
            let message = |setting: &str| {
                let mut of_file = events.iter().filter(|event| event["setting"] == setting);
                of_file.next().unwrap()["message"].to_string()
            };
            assert!(
                message("NATS_PASSWORD_FILE").contains("can't be used"),
                "{events:#?}"
            );
            assert_eq!(summary["refused"], 1, "{summary}");
            summary["changed"] == 1 && message("ADMIN_TOKEN_FILE").contains("has changed")
        })
        .await;
        let status = running.status().await;
        let refused = &status["refused_files"];
        assert_eq!(refused[0]["files"], "the files of NATS", "{status}");
        let error = refused[0]["error"].as_str().unwrap();
        assert!(error.contains("only one of them is"), "{status}");
        files.write("nats-password", "open sesame\n");
        reread(&running).await;
        assert_eq!(
            running.status().await["refused_files"],
            Value::Array(Vec::new())
        );
        assert_eq!(running.terminate().await, Some(0), "{name}");
    }
}

#[tokio::test]
async fn a_file_that_has_lost_entries_is_confirmed_and_warned_of() {
    let files = Files::new();
    let mut edge = Files::daemon("tickstorm-edge", &files.of("tickstorm-edge"));
    edge.start().await;
    edge.logs(r#""message":"listening""#).await;
    for (name, content, setting, gone, of, follows) in [
        (
            "tokens",
            &*tokens(20),
            "STREAM_TOKENS_FILE",
            30,
            50,
            "can no longer log in",
        ),
        (
            "tokens",
            "",
            "STREAM_TOKENS_FILE",
            20,
            20,
            "can no longer log in",
        ),
        (
            "blocked",
            "",
            "IP_BLOCKLIST_FILE",
            1,
            1,
            "no longer refused",
        ),
        (
            "allowed",
            "::1/128",
            "IP_ALLOWLIST_FILE",
            1,
            2,
            "are refused",
        ),
        (
            "previous",
            "\n",
            "STREAM_PASS_PREVIOUS_FILE",
            1,
            1,
            "no longer accepted",
        ),
    ] {
        let from = edge.log().lines().count();
        files.write(name, content);
        let mut warnings = Vec::new();
        eventually("a warning", PATIENCE, async || {
            warnings = events(&edge, from);
            warnings.retain(|event| event["setting"].is_string());
            !warnings.is_empty()
        })
        .await;
        let [warning] = &warnings[..] else {
            panic!("{warnings:#?}");
        };
        assert_eq!(warning["level"], "WARN", "{warning}");
        assert_eq!(warning["setting"], setting, "{warning}");
        assert_eq!(
            (&warning["gone"], &warning["of"]),
            (&gone.into(), &of.into())
        );
        assert!(
            warning["message"].as_str().unwrap().contains(follows),
            "{warning}"
        );
        assert_no_change_is_told(&edge.log(), from);
    }
}

/// Fails if the lines from `from` on say that a file has changed.
fn assert_no_change_is_told(log: &str, from: usize) {
    let lines = log.lines().skip(from);
    let told: Vec<_> = lines.filter(|line| line.contains("changed: ")).collect();
    assert!(told.is_empty(), "{told:#?}");
}

/// Contents that no value, list or PEM file may have, as pairs of a name and the bytes.
fn bad_contents(good: &str) -> Vec<(&'static str, Vec<u8>)> {
    let utf16 = good.encode_utf16().flat_map(u16::to_le_bytes);
    vec![
        ("byte-order mark", format!("\u{feff}{good}").into_bytes()),
        ("UTF-16", [0xff, 0xfe].into_iter().chain(utf16).collect()),
        ("not UTF-8", b"\xff\xff\xff\xff".repeat(10)),
        ("NUL bytes", vec![0; 100]),
    ]
}

/// The files that take effect together, as the metrics name them.
const KINDS_OF_FILES: [&str; 6] = [
    "credential",
    "ip_list",
    "tls",
    "admin_token",
    "nats_file",
    "trace_file",
];

#[tokio::test]
async fn what_is_refused_at_the_start_is_refused_while_a_daemon_runs() {
    let files = Files::new();
    let settings = files.of("tickstorm-edge");
    let mut edge = Files::daemon("tickstorm-edge", &settings);
    edge.start().await;
    edge.logs(r#""message":"listening""#).await;
    let mut cases = 0;
    for (setting, path) in &settings {
        let good = std::fs::read_to_string(path).unwrap();
        let mut contents = bad_contents(&good);
        let is_secret = ["USER", "PASS", "TOKEN_FILE", "COOKIE", "HEADERS"];
        if is_secret.iter().any(|part| setting.contains(part)) {
            contents.push(("1,500 bytes", vec![b'x'; 1_500]));
            contents.push(("70,000 bytes", vec![b'x'; 70_000]));
            contents.push(("two lines", format!("{good}\n{good}\n").into_bytes()));
            contents.push(("NUL inside", format!("{good}\0{good}").into_bytes()));
        }
        let may_be_empty = ["PASS_PREVIOUS", "TOKENS", "BLOCK", "HEADERS"];
        if !may_be_empty.iter().any(|part| setting.contains(part)) {
            contents.push(("empty", Vec::new()));
            contents.push(("only a newline", b"\n".to_vec()));
        }
        if ["TOKENS", "LIST", "TLS", "CA_FILE", "CERT"]
            .iter()
            .any(|part| setting.contains(part))
        {
            let cut = &good[..good.len() - good.len().min(40) / 2];
            contents.push(("cut within a line", format!("{cut}x y z").into_bytes()));
        }
        for (what, content) in contents {
            cases += 1;
            let what = format!("{setting}, {what}");
            std::fs::write(path, &content).unwrap();
            let ended =
                crate::tickstorm::run(Files::daemon("tickstorm-edge", &settings).command(&[]));
            let (events, _) = reread(&edge).await;
            let ended = ended.await;
            assert_eq!(ended.code, Some(78), "{what}: {ended:?}");
            // Without a user, the error is about the settings that go together.
            let names_file = |text: &str| content.len() < 2 || text.contains(path);
            assert!(names_file(&ended.stderr), "{what}: {ended:?}");
            let mut of_file = events.iter().filter(|event| event["setting"] == *setting);
            let event = of_file.next().unwrap();
            let message = event["message"].as_str().unwrap();
            assert!(message.contains("can't be used"), "{what}: {event}");
            let error = event["error"].as_str().unwrap();
            assert!(names_file(error), "{what}: {event}");
            std::fs::write(path, &good).unwrap();
            let (_, summary) = reread(&edge).await;
            assert_eq!(summary["changed"], 0, "{what}: {summary}");
        }
        // A file that is not there.
        std::fs::remove_file(path).unwrap();
        let ended = crate::tickstorm::run(Files::daemon("tickstorm-edge", &settings).command(&[]));
        let (_, summary) = reread(&edge).await;
        assert!(summary["refused"] == 1, "{setting}: {summary}");
        assert_eq!(ended.await.code, Some(78), "{setting}");
        std::fs::write(path, &good).unwrap();
    }
    assert!(cases > 80, "{cases}");
    let (_, summary) = reread(&edge).await;
    assert_eq!(summary["refused"], 0, "{summary}");
    for kind in KINDS_OF_FILES {
        let name = format!("tickstorm_{kind}_reloads_total");
        let failed = edge.metric(&format!("{name}{{result=\"failed\"}}")).await;
        assert!(failed >= 4.0, "{name}: {failed}");
        let loaded = edge.metric(&format!("{name}{{result=\"loaded\"}}")).await;
        assert!(loaded.total_cmp(&0.0).is_eq(), "{name}: {loaded}");
    }
}
