//! [`FileLimit`]: leaves another process without file descriptors for a while.

use std::fs;

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A limit of open files that allows no more than are open, until this is dropped.
pub(crate) struct FileLimit {
    pid: Pid,
    before: Rlimit,
}

impl FileLimit {
    /// Lowers the limit of a process to the number of files that it has open.
    pub(crate) fn lower(pid: u32) -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
        let limits = read(&format!("/proc/{pid}/limits"))?;
        let before = open_files(&limits).ok_or_else(|| anyhow!("can't parse {limits}"))?;
        let files = format!("/proc/{pid}/fd");
        let open = fs::read_dir(&files).with_context(|| files.clone())?.count();
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let this = Self {
            pid: pid.ok_or_else(|| anyhow!("{files} is not that of a process"))?,
            before,
        };
        // The hard limit stays, so that no privilege is needed to raise the other one again.
        let lowered = Rlimit {
            current: Some(u64::try_from(open)?),
            maximum: this.before.maximum,
        };
        this.set(lowered)?;
        Ok(this)
    }

    fn set(&self, limit: Rlimit) -> anyhow::Result<()> {
        prlimit(Some(self.pid), Resource::Nofile, limit).context("can't change a file limit")?;
        Ok(())
    }
}

impl Drop for FileLimit {
    fn drop(&mut self) {
        let before = Rlimit {
            current: self.before.current,
            maximum: self.before.maximum,
        };
        if let Err(error) = self.set(before) {
            // The process may have ended.
            eprintln!("abuse: {error:#}");
        }
    }
}

/// Returns the limits of open files from `/proc/PID/limits`.
fn open_files(limits: &str) -> Option<Rlimit> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_whitespace();
    let mut limit = || match words.next()? {
        "unlimited" => Some(None),
        number => Some(Some(number.parse().ok()?)),
    };
    Some(Rlimit {
        current: limit()?,
        maximum: limit()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_table_of_the_kernel() {
        let limits = "Limit            Soft Limit   Hard Limit   Units\n\
                      Max processes    100          200          processes\n\
                      Max open files   1024         unlimited    files\n";
        let found = open_files(limits).unwrap();
        assert_eq!((found.current, found.maximum), (Some(1_024), None));
        assert!(open_files("Max processes 1 2 processes\n").is_none());
    }

    #[test]
    fn a_process_without_descriptors_gets_them_back() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let soft = || {
            let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
            open_files(&limits).unwrap().current
        };
        let before = soft();
        let limit = FileLimit::lower(child.id()).unwrap();
        assert!(soft() < Some(100), "{:?}", soft());
        drop(limit);
        assert_eq!(soft(), before);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
