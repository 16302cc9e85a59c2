//! A process that carries out one order: it gets the order on standard input, reports its counts on
//! standard output, and ends with its standard input. [`OrderedProcess`] is that process as the
//! program that measures sees it, and [`receive`] is where the process begins.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tickstorm_timebase::{Clock as _, Mono, SystemClock};

/// The interval between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// A process that reports counts of type `C`. It is killed when this is dropped.
pub(crate) struct OrderedProcess<C> {
    child: Child,
    /// The process ends when this is closed.
    input: Option<ChildStdin>,
    counts: Arc<Mutex<C>>,
    reader: Option<JoinHandle<()>>,
}

/// The priority of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Usual,
    /// It runs only while no other process wants the CPU, so that it does not delay the clients
    /// that are measured on the same CPU.
    Idle,
}

impl<C: Copy + Default + DeserializeOwned + Send + 'static> OrderedProcess<C> {
    /// Starts this program with the hidden command `name`, and gives it the order.
    pub(crate) fn start(
        name: &str,
        order: &impl Serialize,
        priority: Priority,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("can't find the path of this program")?;
        let mut command = match priority {
            Priority::Usual => Command::new(program),
            Priority::Idle => {
                let mut command = Command::new("chrt");
                command.args(["--idle", "0"]).arg(program);
                command
            }
        };
        let mut child = command
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("can't start another process; is chrt of util-linux installed?")?;
        let mut input = child.stdin.take().context("the stream is piped")?;
        let output = BufReader::new(child.stdout.take().context("the stream is piped")?);
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        input
            .write_all(line.as_bytes())
            .with_context(|| format!("the process {name} has exited"))?;
        let counts = Arc::<Mutex<C>>::default();
        let latest = Arc::clone(&counts);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Ok(counts) = serde_json::from_str(&line) {
                    *latest.lock().unwrap_or_else(PoisonError::into_inner) = counts;
                }
            }
        });
        Ok(Self {
            child,
            input: Some(input),
            counts,
            reader: Some(reader),
        })
    }

    /// Returns the last counts that it reported.
    pub(crate) fn counts(&self) -> C {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops it and returns its last counts. Fails if it had ended by itself.
    pub(crate) fn stop(mut self) -> anyhow::Result<C> {
        self.input = None;
        let status = self
            .child
            .wait()
            .context("can't wait for another process")?;
        if let Some(reader) = self.reader.take() {
            // It ends with the process's output.
            let _ = reader.join();
        }
        anyhow::ensure!(status.success(), "another process failed: {status}");
        Ok(self.counts())
    }
}

impl<C> Drop for OrderedProcess<C> {
    fn drop(&mut self) {
        // After `stop`, neither has an effect.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process's own side: when it must stop, and its reports.
pub(crate) struct Reports {
    stopped: Arc<AtomicBool>,
    next: Mono,
}

/// Receives the order. The reports begin with it.
pub(crate) fn receive<O: DeserializeOwned>() -> anyhow::Result<(O, Reports)> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("can't read the order")?;
    let order = serde_json::from_str(&line).context("can't parse the order")?;
    let stopped = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stopped);
    std::thread::spawn(move || {
        // Nothing more is sent; the end of the stream is what counts.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stopping.store(true, Ordering::Relaxed);
    });
    let next = SystemClock.now();
    Ok((order, Reports { stopped, next }))
}

impl Reports {
    /// Returns whether the process must stop.
    pub(crate) fn are_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Reports the counts if it is time.
    pub(crate) fn report_in_time(&mut self, counts: &impl Serialize) -> anyhow::Result<()> {
        let now = SystemClock.now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + REPORT_INTERVAL;
        Self::report(counts)
    }

    /// Reports the counts now.
    pub(crate) fn report(counts: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(counts)?;
        line.push('\n');
        let mut output = io::stdout().lock();
        output.write_all(line.as_bytes())?;
        Ok(output.flush()?)
    }
}
