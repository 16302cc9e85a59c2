//! A daemon as a process. It can be started several times on the same addresses, stopped, killed
//! and paused, and queried at its admin port. Its log is printed if a test fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tickstorm_client::Options;
use tickstorm_testkit::{ReservedAddr, TempDir, poll_until_async};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::eventually;
use crate::tickstorm::{PATIENCE, binary};

/// The user that clients log in as.
pub(crate) const USER: &str = "ada";
/// The password of [`USER`].
pub(crate) const PASSWORD: &str = "open sesame";

/// The number of lines at the end of a log that are printed at most.
const LOG_LINES_MAX: usize = 200;

/// `tickstorm-clock` or `tickstorm-edge`, which may be running or not.
pub(crate) struct Daemon {
    program: &'static str,
    executable: PathBuf,
    /// What is done to each command that runs the program.
    adapt: fn(Command) -> Command,
    settings: BTreeMap<String, String>,
    clients: ReservedAddr,
    admin: ReservedAddr,
    _nowhere: ReservedAddr,
    dir: TempDir,
    child: Option<Child>,
    /// The length of standard error's file when the current run started.
    run: usize,
}

impl Daemon {
    /// Returns a daemon that is not started yet and has all settings that it needs. At its
    /// `NATS_URL`, nothing listens.
    pub(crate) fn new(program: &'static str) -> Self {
        let (clients, admin, nowhere) = (
            ReservedAddr::reserve(),
            ReservedAddr::reserve(),
            ReservedAddr::reserve(),
        );
        let settings = [
            ("NATS_URL", format!("nats://{}", nowhere.addr())),
            ("ADMIN_ADDR", admin.addr().to_string()),
            ("LISTEN_ADDR", clients.addr().to_string()),
            ("STREAM_USER", USER.to_owned()),
            ("STREAM_PASS", PASSWORD.to_owned()),
            ("DRAIN_DELAY", "0s".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        Self {
            program,
            executable: binary(program),
            adapt: |command| command,
            settings: settings.into(),
            clients,
            admin,
            _nowhere: nowhere,
            dir: TempDir::new(program),
            child: None,
            run: 0,
        }
    }

    /// Returns a clock with this id that connects to NATS at `urls`.
    pub(crate) fn clock(id: &str, urls: &str) -> Self {
        Self::new("tickstorm-clock")
            .with("NATS_URL", urls)
            .with("CLOCK_ID", id)
    }

    /// Returns an edge with this id that connects to NATS at `urls`.
    pub(crate) fn edge(id: &str, urls: &str) -> Self {
        Self::new("tickstorm-edge")
            .with("NATS_URL", urls)
            .with("EDGE_ID", id)
    }

    /// Adds a setting.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// Removes a setting.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// Runs the program from this file, with commands that `adapt` has changed.
    pub(crate) fn run_by(mut self, executable: PathBuf, adapt: fn(Command) -> Command) -> Self {
        (self.executable, self.adapt) = (executable, adapt);
        self
    }

    /// Changes a setting, which takes effect at the next start.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Returns the address that clients connect to, which is the same in every run.
    pub(crate) fn clients(&self) -> SocketAddr {
        self.clients.addr()
    }

    /// Returns the options of a client that connects to this edge only.
    pub(crate) fn client(&self) -> Options {
        Options::new(self.clients().to_string()).credentials(USER, PASSWORD)
    }

    /// Returns the address of the admin port, which is the same in every run.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Returns a command that runs the program with these arguments and the daemon's settings.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .args(args)
            .env_clear()
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        (self.adapt)(command)
    }

    /// Starts the daemon and waits until its admin port answers.
    pub(crate) async fn start(&mut self) {
        self.run = self.read("stderr").len();
        self.start_with_stderr("stderr").await;
    }

    /// Starts the daemon like [`Self::start`], with standard error in another file.
    pub(crate) async fn start_with_stderr(&mut self, stderr: &str) {
        assert!(self.child.is_none(), "{} is already running", self.program);
        let file = |name| {
            let path = self.dir.path().join(name);
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap()
        };
        let mut command = self.command(&[]);
        command.stdout(file("stdout")).stderr(file(stderr));
        self.child = Some(command.spawn().unwrap());
        let answers = async || self.get("/health/live").await.is_ok();
        let what = format!("{} answers at its admin port", self.program);
        eventually(&what, PATIENCE, answers).await;
    }

    /// Terminates the daemon with SIGTERM and starts it again.
    pub(crate) async fn restart(&mut self) {
        assert_eq!(self.terminate().await, Some(0));
        self.start().await;
    }

    /// Sends SIGTERM, waits until the daemon exits, and returns its exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        self.send(Signal::SIGTERM);
        self.ended().await
    }

    /// Sends SIGKILL and waits until the daemon is gone.
    pub(crate) async fn kill(&mut self) {
        self.send(Signal::SIGKILL);
        assert_eq!(
            self.ended().await,
            None,
            "it exited instead of being killed"
        );
    }

    /// Stops all threads of the daemon: its connections stay open, but it sends nothing.
    pub(crate) fn pause(&self) {
        self.send(Signal::SIGSTOP);
    }

    /// Resumes the threads of the daemon.
    pub(crate) fn unpause(&self) {
        self.send(Signal::SIGCONT);
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }

    /// Returns the id of the process.
    pub(crate) fn pid(&self) -> u32 {
        let pid = self.child.as_ref().and_then(Child::id);
        pid.unwrap_or_else(|| panic!("{} is not running", self.program))
    }

    /// Waits until the daemon exits, and returns its exit code, or `None` if a signal killed it.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the daemon is running");
        let status = timeout(PATIENCE, child.wait()).await;
        status.expect("the daemon exits in time").unwrap().code()
    }

    /// Returns the peak of the daemon's resident memory in this run, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        let kilobytes: u64 = peak
            .and_then(|peak| peak.parse().ok())
            .expect("Linux reports VmHWM in kB");
        kilobytes * 1_024
    }

    /// Returns what the daemon has written to standard output in all of its runs.
    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Returns what the daemon has logged in this run.
    pub(crate) fn log(&self) -> String {
        self.read("stderr").split_off(self.run)
    }

    /// Empties the file with the log, which makes room if it is full.
    pub(crate) fn empty_log(&mut self) {
        let file = File::options()
            .write(true)
            .open(self.dir.path().join("stderr"));
        file.unwrap().set_len(0).unwrap();
        self.run = 0;
    }

    /// Waits until the daemon has logged `text` in this run.
    pub(crate) async fn logs(&self, text: &str) {
        let what = format!("{text} in the log of {}", self.program);
        poll_until_async(&what, PATIENCE, || self.log().contains(text)).await;
    }

    /// Returns the address of the NATS server that the daemon connected to most recently, according
    /// to its log.
    pub(crate) fn nats(&self) -> Option<String> {
        let log = self.log();
        let events = log
            .lines()
            .rev()
            .filter(|line| line.contains("connected to NATS"));
        let mut servers = events.filter_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let server = event
                .get("server")
                .or_else(|| event["fields"].get("server"));
            Some(server?.as_str()?.to_owned())
        });
        servers.next()
    }

    /// Sends a GET request to the admin port and returns the status code and the body.
    pub(crate) async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        self.request("GET", path).await
    }

    /// Sends a request to the admin port and returns the status code and the body.
    pub(crate) async fn request(&self, method: &str, path: &str) -> io::Result<(u16, String)> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.admin()).await?;
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
            let code = code.ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok((code, body.to_owned()))
        };
        timeout(PATIENCE, exchange).await?
    }

    pub(crate) async fn is_live(&self) -> bool {
        self.get("/health/live").await.unwrap().0 == 200
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.get("/health/ready").await.unwrap().0 == 200
    }

    pub(crate) async fn status(&self) -> Value {
        let (code, body) = self.get("/status").await.unwrap();
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Returns the id of the clock that an edge follows.
    pub(crate) async fn following(&self) -> Option<String> {
        let following = &self.status().await["authority"]["following"];
        following.as_str().map(str::to_owned)
    }

    /// Returns the state of a clock in an edge's status.
    pub(crate) async fn state_of(&self, clock: &str) -> Option<String> {
        let status = self.status().await;
        let mut clocks = status["clocks"].as_array()?.iter();
        let clock = clocks.find(|found| found["id"] == clock)?;
        clock["state"].as_str().map(str::to_owned)
    }

    /// Returns the value of a metric. `name` includes the labels, exactly as in /metrics.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (code, body) = self.get("/metrics").await.unwrap();
        assert_eq!(code, 200, "{body}");
        let value = body.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            value.parse().ok()
        });
        value.unwrap_or_else(|| panic!("no {name} in\n{body}"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let log = self.read("stderr");
        let lines: Vec<_> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
        let (program, name) = (self.program, self.settings.get("CLOCK_ID"));
        let name = name
            .or(self.settings.get("EDGE_ID"))
            .map_or("", String::as_str);
        eprintln!("--- log of {program} {name}:\n{}", shown.join("\n"));
    }
}
