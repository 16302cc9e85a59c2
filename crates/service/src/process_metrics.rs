//! Metrics of the process, under the names by which Prometheus's client libraries report them. They
//! are read from /proc when metrics are collected.
//!
//! The collector of the prometheus crate is not used, because it needs an older rustix and counts
//! CPU time in whole seconds.

use std::{
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Counter, Gauge, IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use crate::{
    metrics::{RegisterError, register_collector},
    open_files,
};

/// Registers the metrics of this process.
pub(crate) fn register(registry: &Registry) -> Result<(), RegisterError> {
    let metrics = ProcessMetrics::new();
    register_collector(registry, CPU_SECONDS, Box::new(metrics))
}

const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// The metrics, which are brought up to date when they are collected.
struct ProcessMetrics {
    cpu_seconds: Counter,
    max_fds: IntGauge,
    open_fds: IntGauge,
    resident_memory: IntGauge,
    start_time: Gauge,
    threads: IntGauge,
    virtual_memory: IntGauge,
    /// Locked meanwhile, since several requests may do so at the same time.
    updating: Mutex<()>,
}

impl ProcessMetrics {
    fn new() -> Self {
        let gauge = |name: &str, help| IntGauge::new(name, help).expect("the name is valid");
        let cpu_seconds = Counter::new(CPU_SECONDS, "CPU time of the process, in user and kernel.");
        let start_time = Gauge::new(
            "process_start_time_seconds",
            "Unix time at which the process was started.",
        );
        Self {
            cpu_seconds: cpu_seconds.expect("the name is valid"),
            max_fds: gauge(
                "process_max_fds",
                "The most open files that one file descriptor table may hold.",
            ),
            open_fds: gauge(
                "process_open_fds",
                "Open files in the main file descriptor table. With FD_TABLES=per-shard, \
                 tickstorm_open_files counts all.",
            ),
            resident_memory: gauge(
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM.",
            ),
            start_time: start_time.expect("the name is valid"),
            threads: gauge("process_threads", "Threads of the process."),
            virtual_memory: gauge(
                "process_virtual_memory_bytes",
                "Address space of the process.",
            ),
            updating: Mutex::new(()),
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.max_fds,
            &self.open_fds,
            &self.resident_memory,
            &self.start_time,
            &self.threads,
            &self.virtual_memory,
        ]
    }

    fn update(&self) -> io::Result<()> {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let stat = ProcessStat::parse(&fs::read_to_string("/proc/self/stat")?)?;
        let booted_s = boot_time_s(&fs::read_to_string("/proc/stat")?)?;
        let cpu_s = seconds(stat.cpu_ticks);
        self.cpu_seconds
            .inc_by((cpu_s - self.cpu_seconds.get()).max(0.0));
        self.start_time.set(booted_s + seconds(stat.start_ticks));
        let page = u64::try_from(page_size()).unwrap_or(u64::MAX);
        let open = open_files::count(Path::new(open_files::OF_PROCESS))?;
        let limit = getrlimit(Resource::Nofile).current;
        for (gauge, value) in [
            (&self.max_fds, limit.unwrap_or(u64::MAX)),
            (&self.open_fds, open),
            (
                &self.resident_memory,
                stat.resident_pages.saturating_mul(page),
            ),
            (&self.threads, stat.threads),
            (&self.virtual_memory, stat.virtual_bytes),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        Ok(())
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    /// Returns nothing if /proc can't be read.
    fn collect(&self) -> Vec<MetricFamily> {
        if self.update().is_err() {
            return Vec::new();
        }
        let all = self.all().into_iter();
        all.flat_map(Collector::collect).collect()
    }
}

/// What is used of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct ProcessStat {
    /// The time in user and kernel, in clock ticks.
    cpu_ticks: u64,
    threads: u64,
    /// The time from the system's start to that of the process, in clock ticks.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl ProcessStat {
    /// Parses the file. proc_pid_stat(5) numbers the fields from 1; the second is the program's
    /// name in parentheses, which may itself contain spaces and parentheses.
    fn parse(stat: &str) -> io::Result<Self> {
        let (_, after_name) = stat.rsplit_once(')').ok_or_else(unexpected)?;
        let fields: Vec<_> = after_name.split_whitespace().collect();
        let field = |number: usize| number_of(fields.get(number - 3).copied());
        Ok(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Returns the Unix time at which the system was started, in seconds, from /proc/stat.
fn boot_time_s(stat: &str) -> io::Result<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    number_of(line.map(str::trim)).map(whole)
}

fn number_of(text: Option<&str>) -> io::Result<u64> {
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(unexpected)
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an unexpected file in /proc")
}

/// Returns clock ticks in seconds.
fn seconds(ticks: u64) -> f64 {
    whole(ticks) / whole(clock_ticks_per_second())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact for centuries, in seconds and in clock ticks"
)]
const fn whole(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use tickstorm_timebase::{HostClock as _, SystemHost};

    use super::*;
    use crate::metrics::encode;

    fn value(text: &str, name: &str) -> f64 {
        let value = text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            value.parse().ok()
        });
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    #[test]
    fn the_metrics_are_those_of_this_process() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let before = encode(&registry).unwrap();
        let files: Vec<_> = (0..100)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let mut work = 1_u64;
        let after = loop {
            for step in 0..10_000_000_u64 {
                work = std::hint::black_box(work.wrapping_mul(step | 1));
            }
            let after = encode(&registry).unwrap();
            // The kernel counts in ticks of 10 ms.
            if value(&after, CPU_SECONDS) >= value(&before, CPU_SECONDS) + 0.01 {
                break after;
            }
        };
        // Other tests in this process also open and close files.
        assert!(value(&after, "process_open_fds") >= value(&before, "process_open_fds") + 50.0);
        drop(files);
        assert!(value(&after, "process_max_fds") >= value(&after, "process_open_fds"));
        assert!(
            value(&after, "process_threads") >= 2.0,
            "the test has its own"
        );
        let resident = value(&after, "process_resident_memory_bytes");
        assert!(resident > 500_000.0, "{resident}");
        assert!(value(&after, "process_virtual_memory_bytes") > resident);
        let started_s = value(&after, "process_start_time_seconds");
        let now_s = whole(SystemHost::new(0).read().unix.as_millis().cast_unsigned()) / 1e3;
        // The boot time is in whole seconds, and follows steps of the host's clock.
        assert!(
            (now_s - 3_600.0..now_s + 60.0).contains(&started_s),
            "{started_s} at {now_s}"
        );
    }

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194304 1 2 3 4 500 25 0 0 20 0 3 0 900 4096 12 1";
        let expected = ProcessStat {
            cpu_ticks: 525,
            threads: 3,
            start_ticks: 900,
            virtual_bytes: 4_096,
            resident_pages: 12,
        };
        assert_eq!(ProcessStat::parse(stat).unwrap(), expected);
        for broken in [
            "",
            "7 (a) S 1 2",
            "7 (a S 1 7 7 0 -1 4 1 2 3 4 5 2 0 0 20 0 3 0 9 4 1 1",
        ] {
            assert!(ProcessStat::parse(broken).is_err(), "{broken}");
        }
        assert_eq!(
            boot_time_s("cpu  1 2\nbtime 1700000000\nprocesses 5\n").unwrap(),
            1.7e9
        );
        assert!(boot_time_s("cpu  1 2\n").is_err());
    }
}
