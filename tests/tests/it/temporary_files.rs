//! Keys and tokens that programs write for one run: no signal that ends the program leaves them on
//! disk.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;
use tickstorm_testkit::{TempDir, poll_until};
use tokio::process::Command;

use crate::dev::dev;
use crate::tickstorm::{PATIENCE, Running, binary, tickstorm};

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Runs of `bench` that write keys or tokens, and would take minutes.
const BENCHES: [&[&str]; 2] = [
    &["bench", "fanout", "-n", "5", "--ticks", "600", "--tls"],
    &["bench", "auth", "-n", "5", "--ticks", "600"],
];

/// A program whose directory for temporary files is no longer empty.
struct Writing {
    program: Running,
    temporary: TempDir,
}

impl Writing {
    /// Starts the program, and returns as soon as it has written something.
    fn start(mut command: Command) -> Self {
        let temporary = TempDir::new("temporary_files");
        command.env("TMPDIR", temporary.path());
        let this = Self {
            program: Running::start(command),
            temporary,
        };
        poll_until("a temporary file", PATIENCE, || this.files() > 0);
        this
    }

    fn files(&self) -> usize {
        fs::read_dir(self.temporary.path()).unwrap().count()
    }

    /// Sends the signal, and asserts that the program exits with this code and leaves nothing.
    async fn assert_leaves_nothing(mut self, signal: Signal, code: i32) {
        let status = self.program.end_with(signal).await;
        let stderr = self.program.stderr().await;
        assert_eq!(status.code(), Some(code), "{signal}: {status}: {stderr}");
        assert_eq!(self.files(), 0, "{signal}: {stderr}");
    }
}

/// Returns the command as `nohup` starts it: SIGHUP is ignored.
fn ignoring_hangups(command: &Command) -> Command {
    let mut ignoring = Command::new("/bin/sh");
    ignoring
        .args(["-c", r#"trap "" HUP; exec "$0" "$@""#])
        .arg(command.as_std().get_program())
        .args(command.as_std().get_args())
        .env_clear()
        .envs([
            ("LISTEN_ADDR", "127.0.0.1:0"),
            ("ADMIN_ADDR", "127.0.0.1:0"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    ignoring
}

fn dev_with_tls() -> Command {
    let mut command = dev();
    command.arg("--tls");
    command
}

#[tokio::test]
async fn bench_removes_its_keys_and_tokens_and_reports_the_signal() {
    binary("tickstorm");
    for signal in SIGNALS {
        for args in BENCHES {
            let writing = Writing::start(tickstorm(args));
            let code = 128 + signal as i32;
            writing.assert_leaves_nothing(signal, code).await;
        }
    }
}

#[tokio::test]
async fn dev_removes_its_keys_even_if_the_signal_comes_as_soon_as_they_exist() {
    binary("tickstorm");
    for signal in SIGNALS {
        let writing = Writing::start(dev_with_tls());
        writing.assert_leaves_nothing(signal, 0).await;
    }
}

#[tokio::test]
async fn programs_that_nohup_starts_go_on_after_the_terminal_is_closed() {
    let commands = BENCHES.map(|args| (tickstorm(args), 128 + Signal::SIGTERM as i32));
    for (command, code) in commands.into_iter().chain([(dev_with_tls(), 0)]) {
        let writing = Writing::start(ignoring_hangups(&command));
        writing.program.send(Signal::SIGHUP);
        writing.assert_leaves_nothing(Signal::SIGTERM, code).await;
    }
}
