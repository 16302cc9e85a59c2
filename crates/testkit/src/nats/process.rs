//! A NATS server as a child process, with its files and its log in a temporary directory.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use super::{CHOICE, ClusterMember, NatsPlan, RunningNats, VERSION};
use crate::{ReservedAddr, TempDir, tool};

const PROGRAM: &str = "nats-server";

/// The name of its log file.
const LOG: &str = "log";

/// A server, which is killed when this is dropped.
#[derive(Debug)]
pub(super) struct NatsProcess {
    arguments: Vec<String>,
    dir: TempDir,
    child: Mutex<Option<Child>>,
}

/// Describes a server of a cluster that listens on `port` for the others.
pub(super) fn member(port: &ReservedAddr) -> ClusterMember {
    let route = format!("nats://{}", port.addr());
    ClusterMember {
        listen: route.clone(),
        route,
        network: None,
    }
}

impl NatsProcess {
    pub(super) fn new(plan: &NatsPlan) -> Self {
        assert_version();
        let dir = TempDir::new("nats");
        let mut flags = plan.flags.clone();
        for (path, content) in &plan.files {
            let written = dir.write(path.trim_start_matches('/'), content);
            let behind_flag = format!("={path}");
            for flag in &mut flags {
                if flag == path {
                    *flag = written.display().to_string();
                } else if let Some(name) = flag.strip_suffix(&behind_flag) {
                    *flag = format!("{name}={}", written.display());
                }
            }
        }
        let (ip, port) = (plan.addr.ip(), plan.addr.port());
        let mut arguments = vec![format!("--addr={ip}"), format!("--port={port}")];
        arguments.append(&mut flags);
        Self {
            arguments,
            dir,
            child: Mutex::new(None),
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // Even a test that panicked meanwhile must stop its server.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, signal: Signal) {
        let child = self.child();
        let child = child.as_ref().expect("the server is running");
        kill_process(Pid::from_child(child), signal).expect("the server has not exited");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default()
    }
}

impl RunningNats for NatsProcess {
    fn start(&self) {
        let mut child = self.child();
        if child.is_some() {
            return;
        }
        let log = self.dir.path().join(LOG);
        let log = File::options().create(true).append(true).open(log);
        let log = log.expect("the directory is writable");
        let mut command = Command::new(tool(PROGRAM));
        command
            .args(&self.arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        *child = Some(
            command
                .spawn()
                .expect("the program can be run, since it printed its version"),
        );
    }

    fn assert_runs(&self) {
        let ended = self.child().as_mut().map(Child::try_wait);
        assert!(
            matches!(ended, Some(Ok(None))),
            "{PROGRAM} {:?} exited: {ended:?}\n{}",
            self.arguments,
            self.log()
        );
    }

    fn kill(&self) {
        let mut child = self.child().take().expect("the server is running");
        child.kill().expect("the server can be killed");
        child.wait().expect("the server exits");
    }

    fn pause(&self) {
        self.send(Signal::STOP);
    }

    fn unpause(&self) {
        self.send(Signal::CONT);
    }

    fn reload(&self, path: &str, content: &str) {
        self.dir.write(path.trim_start_matches('/'), content);
        self.send(Signal::HUP);
    }
}

impl Drop for NatsProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            // Best effort: a drop must not panic.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// Panics unless the program's version is the one that containers would run.
fn assert_version() {
    static ANSWER: OnceLock<Result<String, String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        let output = Command::new(tool(PROGRAM)).arg("--version").output();
        let output = output.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    let wanted = format!(" v{VERSION}.");
    assert!(
        answer.as_ref().is_ok_and(|answer| answer.contains(&wanted)),
        "this test runs {PROGRAM} {VERSION} as a process: install it with \
         `cargo xtask test tests`, or set {CHOICE}=container; {} --version: {answer:?}",
        tool(PROGRAM).display()
    );
}
