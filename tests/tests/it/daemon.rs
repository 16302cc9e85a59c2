//! `tickstorm-clock` and `tickstorm-edge` as processes, without a NATS: what they say, how they end, and that its absence ends
//! neither.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tickstorm_testkit::{TempDir, poll_until_async};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::tickstorm::{Ended, PATIENCE, binary, run};

const DAEMONS: [&str; 2] = ["tickstorm-clock", "tickstorm-edge"];

/// A daemon with all that it needs but a NATS, on ports of its own.
fn daemon(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary(name));
    command
        .args(args)
        .env_clear()
        .env("NATS_URL", format!("nats://{}", free_addr()))
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("STREAM_USER", "ada")
        .env("STREAM_PASS", "open sesame")
        .env("DRAIN_DELAY", "0s")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// An address on which nobody listens.
fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A daemon that runs, with what it writes in files.
struct Running {
    child: Child,
    dir: TempDir,
}

impl Running {
    /// Starts it and waits until it serves its admin port.
    async fn start(mut command: Command) -> Self {
        let dir = TempDir::new("daemon");
        let file = |name| fs::File::create(dir.path().join(name)).unwrap();
        command.stdout(file("stdout")).stderr(file("stderr"));
        let child = command.spawn().unwrap();
        let running = Self { child, dir };
        running.logs("\"admin_addr\"").await;
        running
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// Waits until it has logged `text`.
    async fn logs(&self, text: &str) {
        let logged = || self.read("stderr").contains(text);
        poll_until_async(
            &format!("{text} in {}", self.read("stderr")),
            PATIENCE,
            logged,
        )
        .await;
    }

    /// The address behind `label` in its first lines.
    fn addr(&self, label: &str) -> SocketAddr {
        let printed = self.read("stdout");
        let addr = printed
            .lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .map(|addr| {
                addr.trim()
                    .trim_start_matches("http://")
                    .trim_end_matches("/status")
            });
        addr.and_then(|addr| addr.parse().ok())
            .unwrap_or_else(|| panic!("no {label} in {printed:?}"))
    }

    fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addr("admin")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn send(&self, signal: Signal) {
        let pid = self.child.id().expect("it is still running");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Its exit code, once it has ended.
    async fn ended(mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await;
        status.expect("it ends").unwrap().code()
    }
}

#[tokio::test]
async fn without_nats_a_daemon_is_alive_and_not_ready_and_healthcheck_says_so() {
    for name in DAEMONS {
        let running = Running::start(daemon(name, &[])).await;
        assert!(
            running.admin("/health/live").starts_with("HTTP/1.1 200 "),
            "{name}"
        );
        assert!(
            running.admin("/health/ready").starts_with("HTTP/1.1 503 "),
            "{name}"
        );
        let admin = running.addr("admin").to_string();
        let ask = async |args: &[&str]| {
            let mut command = daemon(name, args);
            // What is wrong with other settings is no concern of a probe.
            command
                .env("ADMIN_ADDR", &admin)
                .env("STREAM_USER", "")
                .env("TICK_LEAD_MS", "no");
            run(command).await
        };
        for args in [&["healthcheck"], &["-health-check"]] {
            let ended = ask(args).await;
            assert_eq!(ended.code, Some(0), "{name} {args:?}: {ended:?}");
        }
        let ended = ask(&["healthcheck", "--ready"]).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(ended.stderr.contains("not ready"), "{name}: {ended:?}");
        running.send(Signal::SIGTERM);
        assert_eq!(running.ended().await, Some(0), "{name}");
        let ended = ask(&["healthcheck"]).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
    }
}

#[tokio::test]
async fn sigint_and_sigterm_end_a_daemon_with_exit_code_0() {
    for name in DAEMONS {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let running = Running::start(daemon(name, &[])).await;
            running.send(signal);
            assert_eq!(running.ended().await, Some(0), "{name} {signal}");
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_draining_edge_at_once_with_exit_code_1() {
    let mut command = daemon("tickstorm-edge", &[]);
    command.env("DRAIN_DELAY", "10m");
    let running = Running::start(command).await;
    running.send(Signal::SIGTERM);
    running.logs("draining").await;
    assert!(running.admin("/health/ready").starts_with("HTTP/1.1 503 "));
    running.send(Signal::SIGTERM);
    assert_eq!(running.ended().await, Some(1));
}

#[tokio::test]
async fn sigusr1_makes_debug_events_be_written() {
    let running = Running::start(daemon("tickstorm-edge", &[])).await;
    let clients = running.addr("clients");
    drop(TcpStream::connect(clients).unwrap());
    running.send(Signal::SIGUSR1);
    running.logs("debug events are written").await;
    let connect = || {
        drop(TcpStream::connect(clients).unwrap());
        running.read("stderr").contains("\"level\":\"DEBUG\"")
    };
    poll_until_async("a connection's end is logged", PATIENCE, connect).await;
}

#[tokio::test]
async fn check_config_shows_every_setting_and_no_secret() {
    for (name, line) in DAEMONS.into_iter().zip([
        "ADMIN_ADDR=127.0.0.1:8082 (default)",
        "ADMIN_ADDR=127.0.0.1:8081 (default)",
    ]) {
        let mut command = daemon(name, &["--check-config"]);
        command
            .env_remove("ADMIN_ADDR")
            .env("NATS_TOKEN", "open sesame")
            .env("NATS_URL", "nats://ada:sesame@a,nats://b");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for line in [
            line,
            "NATS_TOKEN=*** (env)",
            "NATS_URL=***@a,nats://b (env)",
        ] {
            assert!(
                ended.stdout.lines().any(|shown| shown == line),
                "no {line}: {ended:?}"
            );
        }
        assert!(!ended.stdout.contains("sesame"), "{ended:?}");
    }
}

#[tokio::test]
async fn all_wrong_settings_are_named_at_once_with_exit_code_78() {
    for name in DAEMONS {
        for args in [&[][..], &["--check-config"]] {
            let mut command = daemon(name, args);
            command
                .env("ADMIN_ADDR", "everywhere")
                .env("LOG_LEVEL", "loud")
                .env("NATS_SUBJECT_PREFIX", "a b");
            let ended = run(command).await;
            assert_eq!(ended.code, Some(78), "{ended:?}");
            for setting in ["ADMIN_ADDR", "LOG_LEVEL", "NATS_SUBJECT_PREFIX"] {
                assert!(ended.stderr.contains(setting), "no {setting}: {ended:?}");
            }
            assert_eq!(ended.stdout, "");
        }
    }
}

#[tokio::test]
async fn a_daemon_tells_its_name_and_version_and_takes_no_other_word() {
    for name in DAEMONS {
        let ended = run(daemon(name, &["--version"])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.starts_with(&format!("{name} ")), "{ended:?}");
        for args in [
            &["now"][..],
            &["--check-config", "healthcheck"],
            &["--nonsense"],
        ] {
            let Ended { code, stdout, .. } = run(daemon(name, args)).await;
            assert_eq!((code, &*stdout), (Some(64), ""), "{name} {args:?}");
        }
    }
}

/// docs/operations.md has a row for each metric of each daemon, with its type and its help.
#[tokio::test]
async fn the_documented_metrics_are_those_that_the_daemons_have() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let document = fs::read_to_string(path).unwrap();
    let documented: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `tickstorm_"))
        .collect();
    let mut expected = Vec::new();
    for name in DAEMONS {
        let metrics = Running::start(daemon(name, &[])).await.admin("/metrics");
        let helps = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP "));
        for (metric, help) in helps.filter_map(|line| line.split_once(' ')) {
            let kind = metrics
                .lines()
                .find_map(|line| line.strip_prefix(&format!("# TYPE {metric} ")))
                .unwrap();
            let row = format!("| `{metric}` | {kind} | {help} |");
            if !expected.contains(&row) {
                expected.push(row);
            }
        }
    }
    assert_eq!(
        documented,
        expected,
        "docs/operations.md should have:\n{}",
        expected.join("\n")
    );
}
