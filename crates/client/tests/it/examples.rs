//! The examples as programs. Each connects over loopback to an edge that the test plays.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tickstorm_protocol::message::encode_batch;
use tickstorm_protocol::session::Request;
use tickstorm_protocol::session::server::{self, Greeting, Limits, ServerSession, Step};
use tickstorm_testkit::TempDir;
use tickstorm_timebase::{Clock as _, Epoch, Mode, Quality, SystemClock, Tick};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{Instant, timeout};

/// A time limit that only a defect exceeds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The authority time at which each test begins, a multiple of five minutes.
const START_MS: i64 = 1_800_000_000_000;
const MINUTE_MS: i64 = 60_000;
const EXAMPLES: [&str; 4] = ["candles", "fleet", "rounds", "scheduler"];
/// The address of `tickstorm dev`, in place of which the programs get that of a test's edge.
const DEV_ADDR: &str = "127.0.0.1:8080";

/// A program, and the test's end of its connection.
struct Example {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    edge: Edge,
}

/// An edge that answers HEARTBEATs, and sends ticks when the test says so.
struct Edge {
    login: (&'static str, &'static str),
    /// The HEARTBEATs that wait for their answers, with the times of their arrival; `None` if they
    /// are answered at once.
    held_heartbeats: Option<Vec<(i64, i64)>>,
    socket: TcpStream,
    session: ServerSession,
    limits: Limits,
    input: Vec<u8>,
    began: Instant,
    request: Option<Request>,
}

/// Returns an example's program. It is built together with the tests.
fn program(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo build -p tickstorm-client --examples` builds it",
        path.display()
    );
    path
}

fn source(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/rust");
    fs::read_to_string(directory.join(format!("{name}.rs"))).unwrap()
}

/// Returns a command that runs an example in an empty environment.
fn command(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program(name));
    command.args(args).env_clear();
    command
}

impl Example {
    /// Runs an example until it has subscribed.
    async fn start(name: &str, args: &[&str], options: &str) -> Self {
        let mut command = command(name, args);
        command.env("STREAM_PASS", "open sesame");
        let url = format!("tickstorm://ada@{DEV_ADDR}{options}");
        Self::launch(&mut command, &url, |_| {}).await
    }

    /// Runs a command until it has subscribed to an edge that the test prepares.
    async fn launch(command: &mut Command, url: &str, prepare: impl FnOnce(&mut Edge)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(url.contains(DEV_ADDR), "{url}");
        let mut child = command
            .env("TICKSTORM_URL", url.replace(DEV_ADDR, &addr.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut example = Self {
            stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
            stderr: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
            edge: Edge::new(socket),
        };
        prepare(&mut example.edge);
        while example.edge.request.is_none() {
            example.edge.serve_once().await;
        }
        example
    }

    async fn send(&mut self, epochs_ms: impl IntoIterator<Item = i64>) {
        self.send_as(Quality::Normal, epochs_ms).await;
    }

    async fn send_as(&mut self, quality: Quality, epochs_ms: impl IntoIterator<Item = i64>) {
        let mode = self.edge.request.unwrap().mode;
        for epoch_ms in epochs_ms {
            self.edge.send(mode, quality, epoch_ms).await;
        }
    }

    /// Returns the next line of standard output, while the edge answers HEARTBEATs.
    async fn line(&mut self) -> String {
        Self::read(&mut self.stdout, &mut self.edge).await
    }

    async fn error_line(&mut self) -> String {
        Self::read(&mut self.stderr, &mut self.edge).await
    }

    async fn read<R: AsyncRead + Unpin>(
        lines: &mut Lines<BufReader<R>>,
        edge: &mut Edge,
    ) -> String {
        let read = async {
            loop {
                tokio::select! {
                    line = lines.next_line() => break line,
                    () = edge.serve_once() => {}
                }
            }
        };
        let line = timeout(PATIENCE, read).await.expect("a line in time");
        line.unwrap().expect("a further line")
    }

    /// Serves until the condition holds.
    async fn until(&mut self, condition: impl Fn() -> bool) {
        let holds = async {
            while !condition() {
                let turn = timeout(Duration::from_millis(20), self.edge.serve_once());
                let _ = turn.await;
            }
        };
        timeout(PATIENCE, holds).await.expect("it holds in time");
    }
}

impl Edge {
    fn new(socket: TcpStream) -> Self {
        Self {
            login: ("ada", "open sesame"),
            held_heartbeats: None,
            socket,
            session: ServerSession::new(SystemClock.now()),
            limits: Limits {
                auth_timeout: PATIENCE,
                heartbeat_interval: Duration::from_secs(15),
                heartbeat_timeout: Duration::from_secs(20),
                frame_rate: 10,
                max_msg_size: 65_536,
                edge_id: "edge-0".into(),
            },
            input: Vec::new(),
            began: Instant::now(),
            request: None,
        }
    }

    fn authority_us(&self) -> i64 {
        START_MS * 1_000 + i64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// Reads once, and answers what has arrived. It is cancel safe up to the bytes read.
    async fn serve_once(&mut self) {
        let read = self.socket.read_buf(&mut self.input).await.unwrap();
        assert_ne!(read, 0, "the client has closed the connection");
        loop {
            let mut rest = &self.input[..];
            let step = self
                .session
                .step(&self.limits, &mut rest, SystemClock.now());
            self.input = rest.to_vec();
            let mut answer = Vec::new();
            match step {
                Step::NeedsInput => return,
                Step::Auth(auth) => {
                    assert_eq!((&*auth.username, &*auth.password), self.login);
                    let (greeting, now) = (Greeting::default(), SystemClock.now());
                    self.session
                        .accept(&self.limits, &greeting, now, &mut answer);
                }
                Step::Subscribe(request) => {
                    let start = request.resume_after.unwrap_or(Epoch::from_ms(START_MS));
                    self.session.subscribed(&self.limits, start, &mut answer);
                    self.request = Some(request);
                }
                Step::Heartbeat { client_time_us } => {
                    let now_us = self.authority_us();
                    match &mut self.held_heartbeats {
                        Some(held) => held.push((client_time_us, now_us)),
                        None => server::pong(client_time_us, now_us, now_us, 10, 0, &mut answer),
                    }
                }
                other => panic!("{other:?}"),
            }
            self.socket.write_all(&answer).await.unwrap();
        }
    }

    /// Answers the HEARTBEATs that wait for it, and then all others at once.
    async fn answer_held(&mut self) {
        let mut answers = Vec::new();
        for (client_time_us, received_us) in self.held_heartbeats.take().unwrap_or_default() {
            let now_us = self.authority_us();
            server::pong(client_time_us, received_us, now_us, 10, 0, &mut answers);
        }
        self.socket.write_all(&answers).await.unwrap();
    }

    async fn send(&mut self, mode: Mode, quality: Quality, epoch_ms: i64) {
        let tick = Tick {
            epoch: Epoch::from_ms(epoch_ms),
            quality,
        };
        let mut frame = Vec::new();
        encode_batch(mode, &[tick], self.authority_us(), &mut frame);
        self.socket.write_all(&frame).await.unwrap();
    }
}

/// Returns the URL and the arguments of the command in an example's header.
fn documented(name: &str) -> (String, Vec<String>) {
    let source = source(name);
    let lines = source
        .lines()
        .filter_map(|line| line.strip_prefix("//!     "));
    let command = lines.collect::<Vec<_>>().join("\n").replace("\\\n", "");
    let (before, command) = command
        .split_once("TICKSTORM_URL=")
        .unwrap_or_else(|| panic!("{name} names no edge: {command}"));
    assert!(before.is_empty() || before.ends_with("| "), "{before}");
    let mut words = command.split_whitespace();
    let url = words.next().unwrap().to_owned();
    let cargo = ["cargo", "run", "-p", "tickstorm-client", "--example", name];
    assert_eq!(words.by_ref().take(cargo.len()).collect::<Vec<_>>(), cargo);
    assert!(matches!(words.next(), None | Some("--")), "{command}");
    (url, words.map(str::to_owned).collect())
}

#[tokio::test]
async fn the_commands_in_the_headers_work_as_written() {
    let directory = TempDir::new("headers");
    for name in EXAMPLES {
        let (url, args) = documented(name);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut command = command(name, &args);
        command.current_dir(directory.path());
        // The login of `tickstorm dev`.
        let login = ("stream_user", "stream_pass");
        let example = Example::launch(&mut command, &url, |edge| edge.login = login).await;
        assert!(example.edge.request.is_some());
    }
}

#[test]
fn examples_are_shorter_than_80_lines() {
    for name in EXAMPLES {
        let lines = source(name).lines().count();
        assert!(lines < 80, "{name} has {lines} lines");
    }
}

#[tokio::test]
async fn candles_close_with_the_trades_of_their_minute() {
    let mut example = Example::start("candles", &[], "").await;
    assert_eq!(example.edge.request.unwrap().mode, Mode::Minute);
    let mut stdin = example.child.stdin.take().unwrap();
    let trades = [
        (1_000, "10 1"),
        (30_000, "12 2.5"),
        (59_999, "9 1"),
        (60_000, "20 1"),
    ];
    for (after_ms, trade) in trades {
        let line = format!("{} {trade}\n", START_MS + after_ms);
        stdin.write_all(line.as_bytes()).await.unwrap();
    }
    stdin.write_all(b"the end\n").await.unwrap();
    drop(stdin);
    // Then it has read all trades.
    assert_eq!(example.error_line().await, "not a trade: the end");
    example
        .send([1, 2, 3].map(|minute| START_MS + minute * MINUTE_MS))
        .await;
    assert_eq!(example.line().await, format!("{START_MS} 10 12 9 9 4.5"));
    let second_ms = START_MS + MINUTE_MS;
    assert_eq!(example.line().await, format!("{second_ms} 20 20 20 20 1"));
}

#[tokio::test]
async fn candles_report_what_they_do_not_count_and_leave_no_minute_open() {
    let mut example = Example::start("candles", &[], "?reconnect=0").await;
    let mut stdin = example.child.stdin.take().unwrap();
    for (line, shown) in [
        ("".as_bytes(), ""),
        (b"1800000000000 10 1 1", "1800000000000 10 1 1"),
        (b"1800000000000 10 one", "1800000000000 10 one"),
        (b"\xff 10 1", "\u{fffd} 10 1"),
    ] {
        stdin.write_all(line).await.unwrap();
        stdin.write_all(b"\n").await.unwrap();
        assert_eq!(example.error_line().await, format!("not a trade: {shown}"));
    }
    let second_ms = START_MS + MINUTE_MS;
    let trades = format!("{START_MS} 10 1\n{second_ms} 20 1\nthe end\n");
    stdin.write_all(trades.as_bytes()).await.unwrap();
    assert_eq!(example.error_line().await, "not a trade: the end");
    // The edge no longer has the two ticks before.
    example.send([START_MS + 3 * MINUTE_MS]).await;
    assert_eq!(example.line().await, format!("{START_MS} 10 10 10 10 1"));
    assert_eq!(example.line().await, format!("{second_ms} 20 20 20 20 1"));

    let late = format!("{} 30 1", START_MS + 3 * MINUTE_MS - 1);
    stdin
        .write_all(format!("{late}\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(example.error_line().await, format!("too late: {late}"));

    // The program ends although it still waits for trades.
    let Example {
        mut child,
        mut stderr,
        edge,
        ..
    } = example;
    drop(edge);
    let line = timeout(PATIENCE, stderr.next_line()).await.unwrap();
    assert_eq!(line.unwrap().unwrap(), "the connection has ended");
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends");
    assert!(!status.unwrap().success());
    drop(stdin);
}

#[tokio::test]
async fn rounds_begin_at_their_instant_and_only_then() {
    let mut example = Example::start("rounds", &[], "").await;
    assert!(example.edge.request.unwrap().ahead);
    let began = example.edge.began;
    example
        .send((1..=10).map(|second| START_MS + second * 1_000))
        .await;
    let line = example.line().await;
    let number = (START_MS + 10_000) / 10_000;
    assert!(
        line.starts_with(&format!("round {number}: first card ")),
        "{line}"
    );
    assert!(line.ends_with(" µs after the instant"), "{line}");
    // Within the bound that the edge and the way from it add.
    assert!(
        began.elapsed() > Duration::from_millis(9_990),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_scheduler_neither_misses_nor_doubles_a_minute_across_crashes() {
    let directory = TempDir::new("scheduler");
    let path = directory.path().join("journal.txt");
    let name = path.to_str().unwrap();
    let minutes = |from: i64, to: i64| (from..=to).map(|minute| START_MS + minute * MINUTE_MS);
    let mut example = Example::start("scheduler", &[name], "").await;
    assert_eq!(example.edge.request.unwrap().resume_after, None);
    example.send(minutes(1, 3)).await;
    example
        .until(|| is_done(&path, START_MS + 3 * MINUTE_MS))
        .await;
    example.child.kill().await.unwrap();

    // What a crash in the middle of a write may leave.
    let mut journal = fs::read_to_string(&path).unwrap();
    journal += &format!("{} report for minute 3", START_MS + 4 * MINUTE_MS);
    fs::write(&path, journal).unwrap();
    let mut example = Example::start("scheduler", &[name], "").await;
    let resumed = example.edge.request.unwrap().resume_after;
    assert_eq!(resumed, Some(Epoch::from_ms(START_MS + 3 * MINUTE_MS)));
    // The edge no longer has minutes 5 to 59.
    example.send(minutes(4, 4)).await;
    example.send(minutes(60, 61)).await;
    example
        .until(|| is_done(&path, START_MS + 61 * MINUTE_MS))
        .await;

    let journal = fs::read_to_string(&path).unwrap();
    let ran = |job: &str| -> Vec<i64> {
        let lines = journal.lines().filter(|line| line.contains(job));
        lines
            .map(|line| line.split_once(' ').unwrap().0.parse().unwrap())
            .collect()
    };
    assert_eq!(
        ran("report"),
        minutes(1, 61).collect::<Vec<_>>(),
        "{journal}"
    );
    let hourly = minutes(1, 61).filter(|ms| ms / MINUTE_MS % 60 == 0);
    assert_eq!(ran("clean up"), hourly.collect::<Vec<_>>(), "{journal}");
}

fn is_done(journal: &Path, epoch_ms: i64) -> bool {
    let content = fs::read_to_string(journal).unwrap_or_default();
    content.ends_with(&format!("{epoch_ms} done\n"))
}

#[tokio::test]
async fn the_fleet_wakes_each_device_once_and_spread_out() {
    let names: Vec<_> = (0..40).map(|number| format!("lamp-{number}")).collect();
    let mut args = vec!["2"];
    args.extend(names.iter().map(String::as_str));
    let mut example = Example::start("fleet", &args, "").await;
    let due_ms = START_MS + 5 * MINUTE_MS;
    example
        .send((1..=5).map(|minute| START_MS + minute * MINUTE_MS))
        .await;
    let mut woken = Vec::new();
    for _ in &names {
        woken.push((example.line().await, Instant::now()));
    }
    let lines: HashSet<_> = woken.iter().map(|(line, _)| line.clone()).collect();
    let expected = names
        .iter()
        .map(|name| format!("{name} wakes for {due_ms}"));
    assert_eq!(lines, expected.collect());
    let (first, last) = (woken[0].1, woken[woken.len() - 1].1);
    assert!(last - first > Duration::from_secs(1), "{:?}", last - first);
    let busiest = woken
        .windows(20)
        .map(|part| part[19].1 - part[0].1)
        .min()
        .unwrap();
    assert!(
        busiest > Duration::from_millis(200),
        "half of them within {busiest:?}"
    );
}

#[tokio::test]
async fn after_an_outage_the_fleet_wakes_each_device_once_even_before_the_time_is_known() {
    let names: Vec<_> = (0..10).map(|number| format!("lamp-{number}")).collect();
    let mut args = vec!["1"];
    args.extend(names.iter().map(String::as_str));
    let missed = (-60..=0).map(|minute| START_MS + minute * MINUTE_MS);
    let resume_ms = START_MS - 61 * MINUTE_MS;
    let mut command = command("fleet", &args);
    command.env("STREAM_PASS", "open sesame");
    let url = format!("tickstorm://ada@{DEV_ADDR}?resume_after={resume_ms}");
    let mut example = Example::launch(&mut command, &url, |edge| {
        edge.held_heartbeats = Some(Vec::new());
    })
    .await;
    example.send_as(Quality::Replay, missed).await;
    example.edge.answer_held().await;
    for due_ms in [START_MS, START_MS + 5 * MINUTE_MS] {
        if due_ms > START_MS {
            example.send([due_ms]).await;
        }
        let mut woken = HashSet::new();
        for _ in &names {
            woken.insert(example.line().await);
        }
        let expected = names
            .iter()
            .map(|name| format!("{name} wakes for {due_ms}"));
        assert_eq!(woken, expected.collect());
    }
}

#[tokio::test]
async fn the_programs_of_the_guide_print_what_arrives() {
    let mut example = Example::start("configured", &[], "?mode=minute").await;
    example.send([START_MS + MINUTE_MS]).await;
    assert_eq!(example.line().await, (START_MS + MINUTE_MS).to_string());
    let log = example.error_line().await;
    assert!(log.contains("subscribed"), "{log}");

    let resume_ms = (START_MS - 5_000).to_string();
    let mut example = Example::start("events", &[&resume_ms], "").await;
    example.send([START_MS - 4_000, START_MS - 1_000]).await;
    for expected in [
        format!("start {resume_ms}"),
        format!("tick {}", START_MS - 4_000),
        format!(
            "no ticks between {} and {}",
            START_MS - 4_000,
            START_MS - 1_000
        ),
        format!("tick {}", START_MS - 1_000),
    ] {
        assert_eq!(example.line().await, expected);
    }

    let mut example = Example::start("ahead", &[], "").await;
    example.send([START_MS + 2_000]).await;
    let line = example.line().await;
    assert!(
        line.starts_with(&(START_MS + 2_000).to_string()) && line.ends_with(" µs"),
        "{line}"
    );

    let mut example = Example::start("modes", &[], "").await;
    example.send([START_MS + MINUTE_MS]).await;
    assert_eq!(
        example.line().await,
        format!("minute {}", START_MS + MINUTE_MS)
    );
    while example.edge.request.unwrap().mode == Mode::Minute {
        timeout(PATIENCE, example.edge.serve_once()).await.unwrap();
    }
}
