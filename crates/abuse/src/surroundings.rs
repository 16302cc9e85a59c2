//! [`Surroundings`]: what a run requests from the system: a network namespace of its own, CPUs,
//! firewall rules in that namespace, and a cgroup. Whatever the system refuses is reported aloud,
//! and the run does without it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use tickstorm_bench::machine;

use crate::addresses::HOSTILE_NETWORK;

/// The memory of a confined edge, in bytes: that of the manifests in k8s/.
const CONFINED_TO: u64 = 1 << 30;

/// What the system has granted.
pub(crate) struct Surroundings {
    /// The CPUs of the edge, of honest clients and of hostile ones; empty for all.
    pub(crate) edge_cpus: Vec<usize>,
    pub(crate) honest_cpus: Vec<usize>,
    pub(crate) hostile_cpus: Vec<usize>,
    /// Whether packets can be dropped without affecting the rest of the machine.
    pub(crate) may_drop_packets: bool,
    /// What the system has refused, and what that means.
    pub(crate) notes: Vec<String>,
}

impl Surroundings {
    /// Requests a network namespace and chooses CPUs. Must be called before any thread or process
    /// is started.
    pub(crate) fn request() -> Self {
        let mut notes = Vec::new();
        let own_network = own_network();
        if let Err(error) = &own_network {
            notes.push(format!(
                "no network namespace of its own ({error:#}): half-open clients do not vanish, \
                 but neither read nor close"
            ));
        }
        let cpus = machine::cpus();
        let [edge_cpus, honest_cpus, hostile_cpus] = match cpus[..] {
            [] | [_] => {
                notes.push(
                    "a single CPU: the edge and its clients delay each other, and latencies mean \
                     little"
                        .into(),
                );
                [vec![], vec![], vec![]]
            }
            [edge, clients] => [vec![edge], vec![clients], vec![clients]],
            [edge, honest, ref hostile @ ..] => [vec![edge], vec![honest], hostile.to_vec()],
        };
        Self {
            edge_cpus,
            honest_cpus,
            hostile_cpus,
            may_drop_packets: own_network.is_ok(),
            notes,
        }
    }
}

/// Moves this process to a network namespace of its own, which has only a loopback interface.
fn own_network() -> anyhow::Result<()> {
    // Both programs must exist before the process gives up the network that it has.
    for (program, version) in [("ip", "-Version"), ("iptables", "--version")] {
        let found = Command::new(program)
            .arg(version)
            .stdout(Stdio::null())
            .status();
        found.with_context(|| format!("can't run {program}"))?;
    }
    unshare(CloneFlags::CLONE_NEWNET)?;
    run("ip", &["link", "set", "lo", "up"])
}

/// A rule that drops all packets from and to hostile addresses, until this is dropped.
pub(crate) struct DroppedPackets(());

impl DroppedPackets {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let rule = Self(());
        rule.change("--append")?;
        Ok(rule)
    }

    fn change(&self, change: &str) -> anyhow::Result<()> {
        for direction in ["--source", "--destination"] {
            let rule = [direction, HOSTILE_NETWORK, "--jump", "DROP"];
            run(
                "iptables",
                &[&["--wait", change, "INPUT"], &rule[..]].concat(),
            )?;
        }
        Ok(())
    }
}

impl Drop for DroppedPackets {
    fn drop(&mut self) {
        // The namespace ends with the run, in which the rule only affects hostile addresses.
        if let Err(error) = self.change("--delete") {
            eprintln!("abuse: can't delete the rule that drops packets: {error:#}");
        }
    }
}

/// A cgroup with [`CONFINED_TO`] of memory, which is removed when this is dropped. The process in
/// it must have ended by then.
pub(crate) struct Confinement {
    path: PathBuf,
    height_file: &'static str,
}

impl Confinement {
    /// Makes a cgroup, of version 1 or 2, and moves the process to it. Memory that the process has
    /// already, a few megabytes, is not counted.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let name = format!("tickstorm-abuse-{}", std::process::id());
        let versions = [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.max_usage_in_bytes",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        let mut refusals = Vec::new();
        for (root, limit_file, height_file) in versions {
            let path = PathBuf::from(root).join(&name);
            match confine(&path, limit_file, pid) {
                Ok(()) => return Ok(Self { path, height_file }),
                Err(error) => refusals.push(format!("{root}: {error}")),
            }
            // It may not exist.
            let _ = fs::remove_dir(&path);
        }
        anyhow::bail!(
            "can't make a cgroup with a limit of memory: {}",
            refusals.join("; ")
        )
    }

    /// Returns the highest memory of the cgroup in bytes, which includes that of the kernel.
    pub(crate) fn height(&self) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(self.height_file)).ok()?;
        text.trim().parse().ok()
    }
}

impl Drop for Confinement {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("abuse: can't remove {}: {error}", self.path.display());
        }
    }
}

fn confine(path: &PathBuf, limit_file: &str, pid: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::write(path.join(limit_file), CONFINED_TO.to_string())?;
    fs::write(path.join("cgroup.procs"), pid.to_string())
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let line = || format!("{program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(line)?;
    anyhow::ensure!(status.success(), "{}: {status}", line());
    Ok(())
}
