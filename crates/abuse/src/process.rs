//! Reads the CPU time and the memory of another process from /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

/// A process whose figures are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched(u32);

impl Watched {
    pub(crate) fn new(pid: u32) -> Self {
        Self(pid)
    }

    /// Returns the CPU time so far, user and system, to within hundredths of a second.
    pub(crate) fn cpu_time(self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        let ticks = cpu_ticks(&stat).ok_or_else(|| anyhow!("can't parse {stat}"))?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Duration::from_millis(ticks * 1_000 / per_second))
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn resident(self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// Returns the highest resident memory in bytes since the process started, or since
    /// [`Self::forget_height`].
    pub(crate) fn height(self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    /// Makes the kernel forget the highest resident memory.
    pub(crate) fn forget_height(self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        fs::write(&path, "5").with_context(|| format!("can't write {path}"))
    }

    fn memory(self, name: &str) -> anyhow::Result<u64> {
        let status = self.read("status")?;
        bytes_of(&status, name).ok_or_else(|| anyhow!("process {} has no {name}", self.0))
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("can't read {path}"))
    }
}

/// Returns utime and stime together: fields 14 and 15. The second field is a name in parentheses,
/// which may contain spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let [user, system]: [u64; 2] = [fields.next()?.parse().ok()?, fields.next()?.parse().ok()?];
    Some(user + system)
}

fn bytes_of(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_name() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 3 0 1234 5678 90";
        assert_eq!(cpu_ticks(stat), Some(325));
    }

    #[test]
    fn memory_is_in_kilobytes() {
        let status = "Name:\tedge\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(bytes_of(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(bytes_of(status, "VmSwap:"), None);
    }

    #[test]
    fn the_figures_of_this_process_are_plausible() {
        let own = Watched::new(std::process::id());
        assert!(own.cpu_time().is_ok());
        assert!(own.resident().unwrap() <= own.height().unwrap() + (1 << 20));
    }
}
