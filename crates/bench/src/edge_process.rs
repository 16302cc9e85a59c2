//! The edge under test as the load generator sees it: a child process that obeys orders, or a stranger at an address.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tickstorm_command::Failure;
use tickstorm_service::exit;

use super::orders::{ChildAnswer, ChildOrder, EdgeFacts, ProcessSample};

/// The command that makes this program the edge under test. A program with [`crate::Bench`] among
/// its commands must have this one, with [`crate::BenchEdge`], as well.
pub const CHILD_COMMAND: &str = "bench-edge";

/// How long the child has for an answer beyond what its order takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What the child gets where nothing else is set: one shard, logs that are no part of the measurement, and no limit of failed
/// attempts, since all clients have one address.
const DEFAULTS: [(&str, &str); 5] = [
    ("LISTEN_ADDR", "127.0.0.1:0"),
    ("SHARDS", "1"),
    ("LOG_LEVEL", "warn"),
    ("LOG_FORMAT", "text"),
    ("EDGE_ID", "edge-under-test"),
];

/// A child process with the edge in it. It ends with this.
pub(crate) struct EdgeProcess {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<ChildAnswer>,
    /// Answers that nobody has waited for yet.
    early: VecDeque<ChildAnswer>,
    pub(crate) ready: EdgeFacts,
}

impl EdgeProcess {
    /// Starts it on these CPUs, with this process's environment and what a measurement of so many clients needs beside.
    /// `settings` replace what the environment says.
    pub(crate) fn start(
        cpus: &[usize],
        clients: u32,
        settings: &[(&str, OsString)],
    ) -> Result<Self, Failure> {
        let cannot = |error: anyhow::Error| Failure::new(exit::UNAVAILABLE, error);
        let program = std::env::current_exe()
            .context("this program does not know its own path")
            .map_err(cannot)?;
        let mut command = Command::new(program);
        command.arg(CHILD_COMMAND);
        if !cpus.is_empty() {
            let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
            command.args(["--cpus", &list.join(",")]);
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
            .context("the edge under test can't be started")
            .map_err(cannot)?;
        let orders = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (says, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line)
                    .unwrap_or_else(|error| ChildAnswer::Failed(format!("{error} in {line}")));
                if says.send(answer).is_err() {
                    return;
                }
            }
        });
        match answers.recv_timeout(ANSWER_WITHIN) {
            Ok(ChildAnswer::Ready(ready)) => Ok(Self {
                child,
                orders,
                answers,
                early: VecDeque::new(),
                ready,
            }),
            Ok(other) => Err(cannot(anyhow!(
                "the edge under test said {other:?} at first"
            ))),
            Err(_) => Err(failed_start(child)),
        }
    }

    /// Gives an order, whose answer is waited for later.
    pub(crate) fn order(&mut self, order: ChildOrder) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.orders
            .write_all(line.as_bytes())
            .and_then(|()| self.orders.flush())
            .context("the edge under test has ended")
    }

    /// Waits for the first answer that `wanted` takes, at most `beyond` longer than an answer takes otherwise.
    pub(crate) fn answer<T>(
        &mut self,
        beyond: Duration,
        wanted: impl Fn(&ChildAnswer) -> Option<T>,
    ) -> anyhow::Result<T> {
        if let Some(place) = self
            .early
            .iter()
            .position(|answer| wanted(answer).is_some())
        {
            let found = self.early.remove(place).and_then(|answer| wanted(&answer));
            return found.ok_or_else(|| anyhow!("an answer has changed"));
        }
        loop {
            match self.answers.recv_timeout(ANSWER_WITHIN + beyond) {
                Ok(ChildAnswer::Failed(why)) => bail!("the edge under test: {why}"),
                Ok(answer) => match wanted(&answer) {
                    Some(found) => return Ok(found),
                    None => self.early.push_back(answer),
                },
                Err(RecvTimeoutError::Timeout) => bail!("the edge under test does not answer"),
                Err(RecvTimeoutError::Disconnected) => bail!("the edge under test has ended"),
            }
        }
    }

    /// What it is now; with `all`, counting its open files and closed connections.
    pub(crate) fn sample(&mut self, all: bool) -> anyhow::Result<ProcessSample> {
        self.order(ChildOrder::Sample { all })?;
        self.answer(Duration::ZERO, ChildAnswer::sample)
    }

    /// Lets it listen otherwise, and says where.
    pub(crate) fn listen(&mut self, order: ChildOrder) -> anyhow::Result<SocketAddr> {
        self.order(order)?;
        self.answer(Duration::ZERO, ChildAnswer::listening)
    }
}

/// A child that ended before it was ready has said why on standard error; its exit code is this program's.
fn failed_start(mut child: Child) -> Failure {
    // One that hangs has been given its time.
    let _ = child.kill();
    let code = child.wait().ok().and_then(|status| status.code());
    let code = code.and_then(|code| u8::try_from(code).ok());
    Failure::said(
        code.filter(|code| *code != 0).unwrap_or(exit::UNAVAILABLE),
        "the edge under test did not start".into(),
    )
}

impl Drop for EdgeProcess {
    fn drop(&mut self) {
        // It has nothing to lose, and must not outlive this process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
