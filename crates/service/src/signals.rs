//! The signals that ask a process to shut down.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal that asked the process to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// SIGINT, as sent by Ctrl-C.
    Interrupt,
    /// SIGTERM, as sent by an orchestrator or an init system.
    Terminate,
}

/// Catches the signals that ask the process to shut down, for as long as it exists.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts catching the signals. Must be called inside a runtime.
    ///
    /// # Errors
    /// Returns an error if the system does not let a handler be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal. Cancel safe: no signal is lost if the future is dropped.
    pub async fn next(&mut self) -> EndSignal {
        tokio::select! {
            _ = self.interrupt.recv() => EndSignal::Interrupt,
            _ = self.terminate.recv() => EndSignal::Terminate,
        }
    }
}
