//! The Rust, Python and Go clients on a real cluster. No tick may be missing or doubled while edges
//! are killed and drained, NATS is gone, a password is rotated and the mode changes.
//! `cargo xtask test clients` has the other tests of the Python and the Go client.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tickstorm_client::{Mode, Options, connect};
use tickstorm_testkit::{Nats, TempDir};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::cluster::{Cluster, SETTLING};
use crate::support::daemon::{PASSWORD, USER};
use crate::support::eventually;
use crate::support::observer::now_us;
use crate::tickstorm::PATIENCE;

/// The second password.
const ROTATED: &str = "open barley";
/// The time for which NATS is gone.
const OUTAGE: Duration = Duration::from_secs(10);
/// The time limit for clients to receive ticks after a fault. Waits may double a few times.
const TICKS_MAX: Duration = Duration::from_secs(60);
/// The time limit for a MINUTE tick.
const MINUTE_MAX: Duration = Duration::from_secs(120);
/// The time by which a client may be ahead of the host's clock, as for other observers.
const EARLY_MAX_MS: i64 = 32;
/// The time that a change of mode may take on a machine under load.
const CHANGE_MAX_MS: i64 = 20_000;

/// A client in another language: the command that runs its test program.
#[derive(Clone)]
struct Language {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    python_path: Option<PathBuf>,
}

/// A line that a client prints.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash)]
struct Tick {
    epoch_ms: i64,
    mode: String,
}

/// A tick, and when it was printed.
type Printed = (Tick, i64);

/// A client that runs.
struct Follower {
    name: String,
    client: Client,
    printed: Arc<Mutex<Vec<Printed>>>,
    /// Records what the client prints, until it ends.
    reader: JoinHandle<()>,
    /// When each change of mode was asked for.
    changes_ms: Vec<i64>,
}

/// How a client is told which mode to use. Without that, it ends.
enum Client {
    /// A program that reads modes from its standard input.
    Program {
        child: Box<Child>,
        stdin: ChildStdin,
    },
    /// The Rust client, in this process.
    Rust(mpsc::UnboundedSender<Mode>),
}

#[tokio::test]
async fn no_client_loses_or_repeats_a_tick() {
    let secrets = TempDir::new("foreign-clients");
    let path = |name: &str| secrets.path().join(name);
    for (name, content) in [("edge", PASSWORD), ("previous", ""), ("client", PASSWORD)] {
        replace(&path(name), content);
    }
    let mut cluster = Cluster::new(vec![Nats::run(&[])], 1, 2, &[]);
    cluster.edges = cluster
        .edges
        .into_iter()
        .map(|edge| {
            edge.without("STREAM_PASS")
                .with("STREAM_PASS_FILE", path("edge").to_str().unwrap())
                .with(
                    "STREAM_PASS_PREVIOUS_FILE",
                    path("previous").to_str().unwrap(),
                )
                .with("DRAIN_TIMEOUT", "4s")
        })
        .collect();
    cluster.start().await;
    let addresses: Vec<_> = cluster
        .edges
        .iter()
        .map(|edge| edge.clients().to_string())
        .collect();
    let mut followers = Vec::new();
    for ahead in [false, true] {
        followers.push(Follower::rust(&addresses, &path("client"), ahead).await);
    }
    for language in languages() {
        for ahead in [false, true] {
            let follower = Follower::start(&language, &addresses.join(","), &path("client"), ahead);
            followers.push(follower);
        }
    }
    await_ticks(&followers, "second", 2, TICKS_MAX).await;

    rotate_password(&cluster, &path).await;
    for edge in 0..2 {
        println!("edge {edge} is killed, and every client must log in with the new password");
        cluster.edges[edge].kill().await;
        await_ticks(&followers, "second", 2, TICKS_MAX).await;
        cluster.edges[edge].start().await;
        cluster.settled().await;
    }
    for edge in 0..2 {
        println!("edge {edge} is replaced in a roll");
        assert_eq!(cluster.edges[edge].terminate().await, Some(0));
        cluster.edges[edge].start().await;
        cluster.settled().await;
        await_ticks(&followers, "second", 2, TICKS_MAX).await;
    }
    println!("NATS is gone for {OUTAGE:?}");
    cluster.nats[0].kill();
    sleep(OUTAGE).await;
    cluster.nats[0].start();
    await_ticks(&followers, "second", 2, TICKS_MAX).await;
    println!("the mode is MINUTE, and then SECOND again");
    set_mode(&mut followers, "minute").await;
    await_ticks(&followers, "minute", 1, MINUTE_MAX).await;
    set_mode(&mut followers, "second").await;
    await_ticks(&followers, "second", 3, TICKS_MAX).await;
    timeout(SETTLING, cluster.settled()).await.unwrap();
    for follower in followers {
        follower.finish().await;
    }
}

/// Gives the edges a second password, the clients that one only, and takes the first one away.
async fn rotate_password(cluster: &Cluster, path: &impl Fn(&str) -> PathBuf) {
    println!("the password is rotated");
    // One change after the other, so that each edge loads each of them.
    replace(&path("previous"), PASSWORD);
    await_reloads(cluster, 1).await;
    replace(&path("edge"), ROTATED);
    await_reloads(cluster, 2).await;
    replace(&path("client"), ROTATED);
    replace(&path("previous"), "");
    await_reloads(cluster, 3).await;
}

/// Waits until each edge has loaded changed credentials so many times at least.
async fn await_reloads(cluster: &Cluster, count: usize) {
    for edge in &cluster.edges {
        // The last change takes a password away, which is a warning of its own.
        let has_loaded = async || edge.log().matches("service::file_watch").count() >= count;
        eventually("the edge loads the credentials", PATIENCE, has_loaded).await;
    }
}

/// Replaces a file at once, so that no process reads half of it.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

async fn set_mode(followers: &mut [Follower], mode: &str) {
    for follower in followers {
        follower.changes_ms.push(now_us() / 1_000);
        match &mut follower.client {
            Client::Program { stdin, .. } => {
                let line = format!("mode {mode}\n");
                stdin.write_all(line.as_bytes()).await.unwrap();
                stdin.flush().await.unwrap();
            }
            Client::Rust(modes) => {
                let named = Mode::ALL.into_iter().find(|each| each.name() == mode);
                modes.send(named.unwrap()).unwrap();
            }
        }
    }
}

/// Waits until each client has printed `count` more ticks of a mode.
async fn await_ticks(followers: &[Follower], mode: &str, count: usize, time_max: Duration) {
    let printed = |follower: &Follower| {
        let printed = follower.printed();
        printed.iter().filter(|(tick, _)| tick.mode == mode).count()
    };
    let wanted: Vec<_> = followers.iter().map(|each| printed(each) + count).collect();
    for (follower, wanted) in followers.iter().zip(wanted) {
        let what = format!("{} prints {count} more ticks of {mode}", follower.name);
        eventually(&what, time_max, async || printed(follower) >= wanted).await;
    }
}

/// Returns the clients that this machine can run.
fn languages() -> Vec<Language> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients");
    let python = Language {
        name: "python",
        program: "python3".into(),
        args: vec![
            clients
                .join("python/tests/follow.py")
                .to_str()
                .unwrap()
                .to_owned(),
        ],
        python_path: Some(clients.join("python/src")),
    };
    [Some(python), go(&clients.join("go"))]
        .into_iter()
        .flatten()
        .collect()
}

/// Builds the test program of the Go client. If this machine has no Go, `cargo xtask test` says
/// that the Go client is skipped, and fails in CI.
fn go(client: &Path) -> Option<Language> {
    if std::process::Command::new("go")
        .arg("version")
        .output()
        .is_err()
    {
        assert!(
            std::env::var_os("CI").is_none(),
            "this machine is missing Go"
        );
        println!("the Go client is SKIPPED, since this machine has no Go");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-follow");
    let built = std::process::Command::new("go")
        .current_dir(client)
        .args(["build", "-o", program.to_str().unwrap(), "./cmd/follow"])
        .status();
    assert!(built.unwrap().success(), "the Go client does not build");
    Some(Language {
        name: "go",
        program,
        args: Vec::new(),
        python_path: None,
    })
}

impl Language {
    /// Returns a command that follows the edges at these addresses.
    fn command(&self, addresses: &str, user: &str, password_file: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .args(["--addr", addresses, "--user", user, "--password-file"])
            .arg(password_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(path) = &self.python_path {
            command.env("PYTHONPATH", path);
        }
        command
    }
}

impl Follower {
    fn start(language: &Language, addresses: &str, password_file: &Path, ahead: bool) -> Self {
        let mut command = language.command(addresses, USER, password_file);
        if ahead {
            command.arg("--ahead");
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let printed: Arc<Mutex<Vec<Printed>>> = Arc::default();
        let recorded = Arc::clone(&printed);
        let reader = tokio::spawn(async move {
            while let Some(line) = lines.next_line().await.unwrap() {
                let tick = serde_json::from_str(&line).unwrap();
                let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                recorded.push((tick, now_us() / 1_000));
            }
        });
        Self {
            name: format!("{}{}", language.name, if ahead { " ahead" } else { "" }),
            client: Client::Program {
                stdin: child.stdin.take().unwrap(),
                child: Box::new(child),
            },
            printed,
            reader,
            changes_ms: Vec::new(),
        }
    }

    async fn rust(addresses: &[String], password_file: &Path, ahead: bool) -> Self {
        let options = Options::new(&addresses[0])
            .or_at(&addresses[1])
            .password_file(USER, password_file)
            .ahead(ahead);
        let mut ticks = connect(options).await.unwrap().into_tick_stream();
        let printed: Arc<Mutex<Vec<Printed>>> = Arc::default();
        let (modes, mut wanted) = mpsc::unbounded_channel();
        let recorded = Arc::clone(&printed);
        let reader = tokio::spawn(async move {
            loop {
                tokio::select! {
                    tick = ticks.next() => {
                        let tick = tick.expect("this client reconnects");
                        let tick = Tick {
                            epoch_ms: tick.epoch.as_ms(),
                            mode: tick.mode.name().to_owned(),
                        };
                        let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                        recorded.push((tick, now_us() / 1_000));
                    }
                    mode = wanted.recv() => match mode {
                        Some(mode) => ticks.subscription().set_mode(mode),
                        None => return,
                    },
                }
            }
        });
        Self {
            name: format!("rust{}", if ahead { " ahead" } else { "" }),
            client: Client::Rust(modes),
            printed,
            reader,
            changes_ms: Vec::new(),
        }
    }

    fn printed(&self) -> MutexGuard<'_, Vec<Printed>> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the client, and checks what it has printed.
    async fn finish(self) {
        match self.client {
            Client::Program { mut child, stdin } => {
                drop(stdin);
                let status = timeout(PATIENCE, child.wait()).await;
                let status = status.expect("it ends with its standard input").unwrap();
                assert!(status.success(), "{}: {status}", self.name);
            }
            Client::Rust(modes) => drop(modes),
        }
        self.reader.await.unwrap();
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        check(&self.name, &printed, &self.changes_ms);
    }
}

/// Asserts that no tick is missing, doubled or early.
fn check(name: &str, printed: &[Printed], changes_ms: &[i64]) {
    let unique: HashSet<_> = printed.iter().map(|(tick, _)| tick).collect();
    assert_eq!(
        unique.len(),
        printed.len(),
        "{name} repeats a tick: {printed:?}"
    );
    for (tick, at_ms) in printed {
        assert!(
            at_ms + EARLY_MAX_MS >= tick.epoch_ms,
            "{name}: {tick:?} at {at_ms}"
        );
    }
    let mut changes = changes_ms.iter();
    for (index, pair) in printed.windows(2).enumerate() {
        let [(last, _), (next, _)] = pair else {
            unreachable!("windows of two")
        };
        let fits = if last.mode == next.mode {
            next.epoch_ms == last.epoch_ms + period_ms(&last.mode)
        } else {
            let asked_ms = *changes.next().expect("a change was asked for");
            follows_change(last, next, asked_ms)
        };
        assert!(
            fits,
            "{name}: {next:?} follows {last:?}, as number {}: {printed:?}",
            index + 1
        );
    }
    assert_eq!(
        changes.next(),
        None,
        "{name} has not changed its mode: {printed:?}"
    );
    println!("{name}: {} ticks, none missing, none twice", printed.len());
}

/// Returns whether a tick may be the first of a new mode: it follows the last one on the grid of
/// minutes, or is one of the first seconds after the change was asked for.
fn follows_change(last: &Tick, next: &Tick, asked_ms: i64) -> bool {
    let period_ms = period_ms(&next.mode);
    let latest_ms = if next.mode == "minute" {
        (last.epoch_ms.div_euclid(period_ms) + 1) * period_ms
    } else {
        asked_ms + CHANGE_MAX_MS
    };
    next.epoch_ms <= latest_ms && next.epoch_ms > last.epoch_ms - period_ms
}

fn period_ms(mode: &str) -> i64 {
    match mode {
        "second" => 1_000,
        "minute" => 60_000,
        other => panic!("mode {other}"),
    }
}
