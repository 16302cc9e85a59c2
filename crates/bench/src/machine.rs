//! Reads the machine's CPUs, CPU time, memory and open files, and requests CPUs, priority and a
//! table of open files for a thread. It uses only safe calls and /proc.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tickstorm_timebase::{Clock, SystemClock};

/// CPU time, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTime {
    /// In user space. The kernel samples it, so small amounts are inaccurate.
    pub(crate) user_us: u64,
    /// In user space and kernel, exact.
    pub(crate) total_us: u64,
}

impl CpuTime {
    /// Returns the CPU time of the process so far.
    pub(crate) fn of_process() -> Self {
        Self::of(UsageWho::RUSAGE_SELF, ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// Returns the CPU time of the calling thread so far.
    pub(crate) fn of_thread() -> Self {
        Self::of(UsageWho::RUSAGE_THREAD, ClockId::CLOCK_THREAD_CPUTIME_ID)
    }

    /// Reads both times. The total is read from a clock, since the total from getrusage is as old
    /// as the last timer interrupt, up to 4 ms.
    fn of(who: UsageWho, clock: ClockId) -> Self {
        let usage = getrusage(who).expect("getrusage can't fail with valid arguments");
        let total = clock_gettime(clock).expect("Linux has CPU time clocks");
        Self {
            user_us: usage.user_time().num_microseconds().unsigned_abs(),
            total_us: Duration::from(total)
                .as_micros()
                .try_into()
                .unwrap_or(u64::MAX),
        }
    }
}

/// Returns the reading of CLOCK_MONOTONIC_RAW in nanoseconds. All times in this crate are readings
/// of that clock.
#[must_use]
pub fn now_ns() -> u64 {
    SystemClock.now().as_nanos()
}

/// Returns the CPUs that this thread may run on.
#[must_use]
pub fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect()
}

/// Restricts this thread, and threads that it starts later, to these CPUs.
///
/// # Errors
/// A CPU does not exist, or this process may not run on it.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Gives this thread, and threads that it starts later, the highest priority. Only root may do
/// that.
pub(crate) fn raise_priority() -> io::Result<()> {
    const HIGHEST: i32 = -20;
    Ok(rustix::process::setpriority_process(None, HIGHEST)?)
}

/// Gives this thread, and threads that it starts later, the lowest priority.
pub(crate) fn lower_priority() -> io::Result<()> {
    const LOWEST: i32 = 19;
    Ok(rustix::process::setpriority_process(None, LOWEST)?)
}

/// Gives this thread its own table of open files; the limit applies to each table.
pub(crate) fn own_files() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_FILES)?)
}

/// Lowers the limit of open files of this process, which it can't raise again.
pub(crate) fn limit_files(files_max: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, files_max, files_max)?)
}

/// Returns the resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, "VmRSS:") * 1_024
}

/// Counts the open files of this process. If `per_shard` is set, it sums the tables of the threads
/// named `shard-…`, each of which has its own.
pub(crate) fn open_files(per_shard: bool) -> u64 {
    if !per_shard {
        return count("/proc/self/fd");
    }
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks
        .filter_map(|task| Some(task.ok()?.path()))
        .filter(|task| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("shard-"))
        })
        .map(|task| count(&task.join("fd").to_string_lossy()))
        .sum()
}

/// Memory that the kernel holds for all processes, in bytes: slabs, which include sockets, and TCP
/// buffers.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelMemory {
    /// The slabs.
    pub slab_bytes: u64,
    /// The TCP buffers.
    pub tcp_bytes: u64,
}

impl KernelMemory {
    /// Reads the current values.
    #[must_use]
    pub fn read() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp = sockstat.lines().find(|line| line.starts_with("TCP:"));
        let pages = tcp.and_then(|line| line.rsplit_once(" mem ")?.1.trim().parse::<u64>().ok());
        Self {
            slab_bytes: kilobytes(&meminfo, "Slab:") * 1_024,
            tcp_bytes: pages.unwrap_or_default() * 4_096,
        }
    }
}

/// Describes the machine in a line: processor, cores, kernel.
#[must_use]
pub fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

fn count(directory: &str) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.count() as u64)
}

fn kilobytes(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.parse().ok())
        .unwrap_or_default()
}
