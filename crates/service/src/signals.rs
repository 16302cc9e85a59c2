//! The signals that a process handles: those that ask it to shut down, one that ends it at once,
//! and the one that asks it to reread its files. docs/operations.md lists what every signal does.

use std::future::pending;
use std::io;
use std::thread;

use nix::sys::signal::Signal as Number;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code with which a shell reports a process that SIGQUIT has ended.
pub const QUIT_EXIT_CODE: u8 = 131;

/// Signals that would end a daemon, although none of them is meant for it: an operator may confuse
/// it with a server that has a use for SIGUSR2, and SIGXFSZ says that the file of the logs is full.
const IGNORED: [Number; 6] = [
    Number::SIGUSR2,
    Number::SIGALRM,
    Number::SIGVTALRM,
    Number::SIGPROF,
    Number::SIGIO,
    Number::SIGXFSZ,
];

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

/// Catches SIGHUP, which asks a daemon to reread its files, for as long as it exists.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Starts catching the signal, even if it is ignored, as it is under nohup. Must be called
    /// inside a runtime.
    ///
    /// # Errors
    /// Returns an error if the system does not let a handler be installed.
    pub fn catch() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next signal. Several that arrive while none is awaited count as one. Cancel
    /// safe: no signal is lost if the future is dropped.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            pending::<()>().await;
        }
    }
}

/// Makes the process ignore the signals that are of no use to a daemon but would end it. Must be
/// called inside a runtime.
///
/// # Errors
/// Returns an error if the system does not let a handler be installed.
pub fn ignore_stray() -> io::Result<()> {
    for number in IGNORED {
        // The handler stays when this value is dropped, and then does nothing. A program that the
        // process starts does not inherit it.
        drop(signal(SignalKind::from_raw(number as i32))?);
    }
    Ok(())
}

/// Calls `end`, which ends the process, when SIGQUIT arrives. It is called on a thread of its own,
/// so that the signal works even if everything else hangs.
///
/// # Errors
/// Returns an error if the system does not let a handler be installed or a thread be started.
pub fn at_quit(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut quits = {
        let _entered = runtime.enter();
        signal(SignalKind::quit())?
    };
    let wait = move || {
        if runtime.block_on(quits.recv()).is_some() {
            end();
        }
    };
    thread::Builder::new().name("quit".into()).spawn(wait)?;
    Ok(())
}
