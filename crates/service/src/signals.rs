//! The signals that ask a process to shut down.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal that asked the process to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// SIGINT, as sent by Ctrl-C.
    Interrupt,
    /// SIGTERM, as sent by an orchestrator or an init system.
    Terminate,
    /// SIGHUP, as sent when a terminal is closed.
    Hangup,
}

impl EndSignal {
    /// Returns the exit code with which a shell reports a process that the signal has ended.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        let number = match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        };
        128 + number
    }
}

/// Catches the signals that ask the process to shut down, for as long as it exists.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Starts catching the signals of a daemon, SIGINT and SIGTERM. Must be called inside a
    /// runtime.
    ///
    /// # Errors
    /// Returns an error if the system does not let a handler be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// Starts catching the signals of a program that people run in a terminal: also SIGHUP, unless
    /// it is ignored, as it is under nohup. Must be called inside a runtime.
    ///
    /// # Errors
    /// Returns an error if the system does not let a handler be installed.
    pub fn catch_at_terminal() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut signals = Self::catch()?;
        if !ignores_hangup(&status) {
            signals.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(signals)
    }

    /// Waits for the next signal. Cancel safe: no signal is lost if the future is dropped.
    pub async fn next(&mut self) -> EndSignal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => EndSignal::Interrupt,
            _ = self.terminate.recv() => EndSignal::Terminate,
            _ = hangup => EndSignal::Hangup,
        }
    }
}

/// Returns whether the process with this `/proc/<pid>/status` ignores SIGHUP, which is the lowest
/// bit of its mask.
fn ignores_hangup(status: &str) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}
