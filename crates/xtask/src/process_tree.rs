//! Kills a program together with all processes that it has started. A signal to the program alone
//! would leave its children running, such as the builds that Compose starts. A separate process
//! group would keep the terminal's Ctrl-C from reaching the program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Kills a process and all of its descendants. Each process is stopped before its children are
/// listed, so that it can't start another one unnoticed.
pub(crate) fn kill_tree(root: u32) {
    let mut doomed = BTreeSet::new();
    let mut found = BTreeSet::from([root]);
    while !found.is_empty() {
        send(&found, Signal::SIGSTOP);
        doomed.append(&mut found);
        let children = children_by_parent();
        let descendants = doomed
            .iter()
            .filter_map(|parent| children.get(parent))
            .flatten();
        found = descendants
            .copied()
            .filter(|child| !doomed.contains(child))
            .collect();
    }
    send(&doomed, Signal::SIGKILL);
}

fn send(processes: &BTreeSet<u32>, signal: Signal) {
    for pid in processes.iter().filter_map(|&pid| pid.try_into().ok()) {
        // Fails if the process has exited already.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Returns the children of every process on this machine, as listed in /proc.
fn children_by_parent() -> BTreeMap<u32, Vec<u32>> {
    let mut children = BTreeMap::<_, Vec<_>>::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let parent = pid.and_then(parent_of);
        if let (Some(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// Returns the parent of a process, or `None` if the process has exited.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain any character. The state and the parent follow it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_program_and_the_processes_that_it_started_are_killed() {
        let script = "sh -c 'echo started; sleep 1000; :' & wait";
        let mut command = Command::new("sh");
        let mut child = command
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        kill_tree(child.id());
        assert_eq!(child.wait().unwrap().code(), None, "not killed by a signal");
        // The pipe closes when the last process that holds it exits. If one survived, this would
        // take 1000 s.
        output.read_to_string(&mut line).unwrap();
    }
}
