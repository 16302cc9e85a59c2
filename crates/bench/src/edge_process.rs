//! The edge under test as the load generator sees it: a child process that carries out orders.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tickstorm_command::Failure;
use tickstorm_service::exit;

use super::orders::{ChildAnswer, ChildOrder, EdgeFacts, ProcessSample};

/// The hidden command that turns this program into the edge under test. A program that offers
/// [`crate::Bench`] as a command must also offer [`crate::BenchEdge`] under this name.
pub const CHILD_COMMAND: &str = "bench-edge";

/// The time that the child may take to answer, beyond the time that its order takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Settings of the child unless the environment sets them: free ports, one shard, and no log events
/// below warnings, which would distort the measurement.
const DEFAULTS: [(&str, &str); 6] = [
    ("LISTEN_ADDR", "127.0.0.1:0"),
    ("ADMIN_ADDR", "127.0.0.1:0"),
    ("SHARDS", "1"),
    ("LOG_LEVEL", "warn"),
    ("LOG_FORMAT", "text"),
    ("EDGE_ID", "edge-under-test"),
];

/// What is special about a child process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChildOptions {
    /// The most open files, if not the system's limit.
    pub files_max: Option<u64>,
    /// Whether the edge has an admin port.
    pub has_admin_port: bool,
}

/// A child process that runs the edge. It is killed when this is dropped.
pub struct EdgeProcess {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<ChildAnswer>,
    /// Answers that arrived before they were asked for.
    unclaimed: VecDeque<ChildAnswer>,
    /// The facts that the edge reported when it was ready.
    pub ready: EdgeFacts,
}

impl EdgeProcess {
    /// Starts the edge on these CPUs, with this process's environment and defaults that suit
    /// `clients` clients. `settings` override the environment.
    ///
    /// # Errors
    /// The edge did not start. The exit code is that of the child, if it has one.
    pub fn start(
        cpus: &[usize],
        clients: u32,
        settings: &[(&str, OsString)],
    ) -> Result<Self, Failure> {
        Self::start_with(cpus, clients, settings, ChildOptions::default())
    }

    /// Does the same as [`Self::start`], for a child with these options.
    ///
    /// # Errors
    /// The edge did not start. The exit code is that of the child, if it has one.
    pub fn start_with(
        cpus: &[usize],
        clients: u32,
        settings: &[(&str, OsString)],
        options: ChildOptions,
    ) -> Result<Self, Failure> {
        let unavailable = |error: anyhow::Error| Failure::new(exit::UNAVAILABLE, error);
        let program = std::env::current_exe()
            .context("can't find the path of this program")
            .map_err(unavailable)?;
        let mut command = Command::new(program);
        command.arg(CHILD_COMMAND);
        if !cpus.is_empty() {
            let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
            command.args(["--cpus", &list.join(",")]);
        }
        if options.has_admin_port {
            command.arg("--admin");
        }
        if let Some(files_max) = options.files_max {
            command.args(["--files-max", &files_max.to_string()]);
        }
        let connections_max = clients.saturating_add(2_000).clamp(10_000, 1_000_000);
        let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        for (name, value) in DEFAULTS.iter().filter(|(name, _)| unset(name)) {
            command.env(name, value);
        }
        if unset("MAX_CONNECTIONS") {
            command.env("MAX_CONNECTIONS", connections_max.to_string());
        }
        if unset("MAX_HANDSHAKES") {
            command.env("MAX_HANDSHAKES", connections_max.to_string());
        }
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("can't start the edge under test")
            .map_err(unavailable)?;
        let orders = child.stdin.take().expect("the stream is piped");
        let output = BufReader::new(child.stdout.take().expect("the stream is piped"));
        let (answer_sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line)
                    .unwrap_or_else(|error| ChildAnswer::Failed(format!("{error} in {line}")));
                if answer_sender.send(answer).is_err() {
                    return;
                }
            }
        });
        match answers.recv_timeout(ANSWER_WITHIN) {
            Ok(ChildAnswer::Ready(ready)) => Ok(Self {
                child,
                orders,
                answers,
                unclaimed: VecDeque::new(),
                ready,
            }),
            Ok(other) => Err(unavailable(anyhow!(
                "the edge under test started with {other:?} instead of Ready"
            ))),
            Err(_) => Err(failed_start(child)),
        }
    }

    /// Sends an order, whose answer is awaited separately.
    pub(crate) fn order(&mut self, order: ChildOrder) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.orders
            .write_all(line.as_bytes())
            .and_then(|()| self.orders.flush())
            .context("the edge under test has exited")
    }

    /// Waits for the first answer that `wanted` accepts, for at most `beyond` longer than the usual
    /// bound.
    pub(crate) fn answer<T>(
        &mut self,
        beyond: Duration,
        wanted: impl Fn(&ChildAnswer) -> Option<T>,
    ) -> anyhow::Result<T> {
        if let Some(found) = self.claim(&wanted) {
            return Ok(found);
        }
        loop {
            match self.answers.recv_timeout(ANSWER_WITHIN + beyond) {
                Ok(ChildAnswer::Failed(why)) => bail!("the edge under test reported: {why}"),
                Ok(answer) => match wanted(&answer) {
                    Some(found) => return Ok(found),
                    None => self.unclaimed.push_back(answer),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the edge under test did not answer in time")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the edge under test has exited"),
            }
        }
    }

    /// Returns the first answer that `wanted` accepts, if it arrived before another one that was
    /// awaited.
    pub(crate) fn claim<T>(&mut self, wanted: impl Fn(&ChildAnswer) -> Option<T>) -> Option<T> {
        let index = self
            .unclaimed
            .iter()
            .position(|answer| wanted(answer).is_some())?;
        let answer = self.unclaimed.remove(index)?;
        wanted(&answer)
    }

    /// Samples the child. If `all` is set, the sample includes open files and closed connections.
    ///
    /// # Errors
    /// The child has exited, or did not answer in time.
    pub fn sample(&mut self, all: bool) -> anyhow::Result<ProcessSample> {
        self.order(ChildOrder::Sample { all })?;
        self.answer(Duration::ZERO, ChildAnswer::sample)
    }

    /// Returns the process id of the child.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the child has ended; `None` while it runs.
    ///
    /// # Errors
    /// The system does not report it, for which it has no reason.
    pub fn exited(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Makes the child start a bare loop, and returns the address that it listens on.
    pub(crate) fn listen(&mut self, order: ChildOrder) -> anyhow::Result<SocketAddr> {
        self.order(order)?;
        self.answer(Duration::ZERO, ChildAnswer::listening)
    }
}

/// Reports a child that exited before it was ready. It has printed the reason on standard error,
/// and its exit code becomes that of this program.
fn failed_start(mut child: Child) -> Failure {
    // If the child hangs, its time limit has passed.
    let _ = child.kill();
    let code = child.wait().ok().and_then(|status| status.code());
    let code = code.and_then(|code| u8::try_from(code).ok());
    Failure::message(
        code.filter(|code| *code != 0).unwrap_or(exit::UNAVAILABLE),
        "the edge under test did not start".into(),
    )
}

impl Drop for EdgeProcess {
    fn drop(&mut self) {
        // The child has no state to save, and must not outlive this process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
