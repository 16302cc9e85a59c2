//! The end of a program with all that it has started. A signal to a program alone leaves what it
//! started behind, as Compose its builds; a process group of its own would take it out of reach of
//! the terminal's Ctrl-C.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Kills a process and all of its descendants. Each is stopped before its children are looked for,
/// so that none is started unseen.
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
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// All processes of this machine, as /proc has them.
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

/// None if it has ended meanwhile.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may contain anything: the state, and the parent.
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
    fn what_a_program_has_started_ends_with_it() {
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
        assert_eq!(child.wait().unwrap().code(), None, "it was killed");
        // The pipe ends when the last of them has: with one left, this takes a thousand seconds.
        output.read_to_string(&mut line).unwrap();
    }
}
