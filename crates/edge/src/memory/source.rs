//! [`KernelBound`]: the file that tells the kernel's TCP memory, and how much of it is allowed. The
//! memory that counts is that of this process's cgroup. If the kernel does not account for TCP
//! there, only the figure of the whole host is left. It includes other processes, so it is then
//! compared with the memory of the host.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tickstorm_service::byte_size::ByteSize;

/// The share of the memory that the process may use, as a divisor, that its sockets may take.
const SHARE_DIVISOR: u64 = 4;

/// Limits of cgroups from here on mean that there is none; version 1 writes a number that depends
/// on the page size.
const UNLIMITED: u64 = 1 << 62;

/// The bound on TCP memory.
#[derive(Clone, Debug)]
pub(crate) struct KernelBound {
    source: Source,
    bytes: u64,
    reason: String,
}

/// The file from which TCP memory is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The line `sock` of a memory.stat, cgroup version 2.
    CgroupStat(PathBuf),
    /// A memory.kmem.tcp.usage_in_bytes, cgroup version 1.
    CgroupUsage(PathBuf),
    /// The field `mem` of /proc/net/sockstat: the pages of all TCP sockets of the host.
    Host { sockstat: PathBuf, page_bytes: u64 },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CgroupStat(file) | Self::CgroupUsage(file) => write!(f, "{}", file.display()),
            Self::Host { sockstat, .. } => {
                write!(f, "{} (the whole host)", sockstat.display())
            }
        }
    }
}

impl Source {
    /// Reads the TCP memory, in bytes.
    pub(crate) fn read(&self) -> io::Result<u64> {
        let (file, found) = match self {
            Self::CgroupStat(file) => (file, value_of(&fs::read_to_string(file)?, "sock")),
            Self::CgroupUsage(file) => (file, fs::read_to_string(file)?.trim().parse().ok()),
            Self::Host {
                sockstat,
                page_bytes,
            } => {
                let pages = tcp_pages(&fs::read_to_string(sockstat)?);
                (
                    sockstat,
                    pages.map(|pages| pages.saturating_mul(*page_bytes)),
                )
            }
        };
        found.ok_or_else(|| {
            let error = format!("{} does not tell the TCP memory", file.display());
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }
}

impl KernelBound {
    /// Finds out how much TCP memory this process may use, and where its use is read.
    pub(crate) fn find() -> Self {
        let page_bytes = rustix::param::page_size();
        Self::find_in(Path::new("/"), u64::try_from(page_bytes).unwrap_or(4_096))
    }

    /// Creates a bound that is never exceeded.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn none() -> Self {
        Self {
            source: Source::CgroupStat(PathBuf::new()),
            bytes: u64::MAX,
            reason: String::new(),
        }
    }

    /// Returns the bound in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Returns how the bound was found.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Does the same as [`find`](Self::find) in a file system whose root is at `root`.
    fn find_in(root: &Path, page_bytes: u64) -> Self {
        let proc = root.join("proc");
        let read = |file: &str| fs::read_to_string(proc.join(file)).unwrap_or_default();
        let places = Places::read_in(root);
        let total = value_of(&read("meminfo"), "MemTotal:").map(|kib| kib.saturating_mul(1_024));
        let host = Found {
            source: Source::Host {
                sockstat: proc.join("net/sockstat"),
                page_bytes,
            },
            memory_max: None,
            tcp_max: None,
        };
        let found = places.unified().or_else(|| places.legacy()).unwrap_or(host);
        let quarter = |bytes: u64, whose: &str| {
            let reason = format!("a quarter of {whose}, {}", ByteSize::from(bytes));
            (bytes / SHARE_DIVISOR, reason)
        };
        let pressure = read("sys/net/ipv4/tcp_mem")
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok());
        let bounds = [
            found
                .memory_max
                .map(|max| quarter(max, "the memory limit of this process's cgroup")),
            total.map(|total| quarter(total, "this host's memory")),
            found.tcp_max.map(|max| {
                (
                    max,
                    "the limit of this process's cgroup on TCP memory".to_owned(),
                )
            }),
            pressure.map(|pages| {
                let reason = "the pressure threshold in net.ipv4.tcp_mem".to_owned();
                (pages.saturating_mul(page_bytes), reason)
            }),
        ];
        let unknown = || (u64::MAX, "none: /proc can't be read".to_owned());
        let lowest = bounds.into_iter().flatten().min_by_key(|(bytes, _)| *bytes);
        let (bytes, reason) = lowest.unwrap_or_else(unknown);
        Self {
            source: found.source,
            bytes,
            reason,
        }
    }
}

/// A source, and the limits that hold for the memory that it shows.
struct Found {
    source: Source,
    memory_max: Option<u64>,
    tcp_max: Option<u64>,
}

/// The files in which a process finds its cgroups.
pub(super) struct Places<'a> {
    root: &'a Path,
    /// /proc/self/cgroup.
    cgroups: String,
    /// /proc/self/mountinfo.
    mounts: String,
}

impl<'a> Places<'a> {
    /// Reads the files in a file system whose root is at `root`. One that can't be read counts as
    /// empty.
    pub(super) fn read_in(root: &'a Path) -> Self {
        let read = |file| fs::read_to_string(root.join("proc").join(file)).unwrap_or_default();
        Self {
            root,
            cgroups: read("self/cgroup"),
            mounts: read("self/mountinfo"),
        }
    }

    /// Returns the files with the limits of the cgroup of version 2 and of those around it. The
    /// lowest counts.
    pub(super) fn unified_limits(&self) -> Option<Vec<PathBuf>> {
        let (top, dir) = self.unified_directory()?;
        let ancestors = dir.ancestors().take_while(|dir| dir.starts_with(&top));
        Some(ancestors.map(|dir| dir.join("memory.max")).collect())
    }

    /// Returns the directory at which version 2 is mounted, and in it that of the cgroup.
    fn unified_directory(&self) -> Option<(PathBuf, PathBuf)> {
        let mut lines = self.cgroups.lines();
        let path = lines.find_map(|line| line.strip_prefix("0::"))?;
        self.directory(path, |kind, _| kind == "cgroup2")
    }

    /// Returns the directory of the memory's cgroup of version 1.
    pub(super) fn legacy_directory(&self) -> Option<PathBuf> {
        let path = self.cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers
                .split(',')
                .any(|one| one == "memory")
                .then_some(path)
        })?;
        let (_, dir) = self.directory(path, |kind, options| {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        })?;
        Some(dir)
    }

    /// Finds the memory of a cgroup of version 2. The root cgroup has no limit and does not account
    /// for its sockets.
    fn unified(&self) -> Option<Found> {
        let (_, dir) = self.unified_directory()?;
        let stat = dir.join("memory.stat");
        value_of(&fs::read_to_string(&stat).ok()?, "sock")?;
        fs::metadata(dir.join("memory.max")).ok()?;
        let limits = self.unified_limits()?;
        Some(Found {
            memory_max: limits.iter().filter_map(|file| number_in(file)).min(),
            tcp_max: None,
            source: Source::CgroupStat(stat),
        })
    }

    /// Finds the memory of a cgroup of version 1, which accounts for TCP memory only if it is
    /// limited.
    fn legacy(&self) -> Option<Found> {
        let dir = self.legacy_directory()?;
        let tcp_max = number_in(&dir.join("memory.kmem.tcp.limit_in_bytes"))?;
        Some(Found {
            memory_max: legacy_limit_in(&dir.join("memory.stat")),
            tcp_max: Some(tcp_max),
            source: Source::CgroupUsage(dir.join("memory.kmem.tcp.usage_in_bytes")),
        })
    }

    /// Returns the directory at which a hierarchy is mounted, and in it the directory of the cgroup
    /// at `path`. `is_wanted` is given the type of a mount and its options.
    fn directory(
        &self,
        path: &str,
        is_wanted: impl Fn(&str, &str) -> bool,
    ) -> Option<(PathBuf, PathBuf)> {
        self.mounts.lines().find_map(|line| {
            let (place, file_system) = line.split_once(" - ")?;
            let mut place = place.split(' ').skip(3);
            let (mount_root, mount_point) = (place.next()?, place.next()?);
            let mut file_system = file_system.split(' ');
            let (kind, options) = (file_system.next()?, file_system.nth(1)?);
            if !is_wanted(kind, options) {
                return None;
            }
            let top = self.root.join(mount_point.trim_start_matches('/'));
            // A container may see only its own part of the hierarchy.
            let below = Path::new(path)
                .strip_prefix(mount_root)
                .unwrap_or(Path::new(""));
            let dir = top.join(below.strip_prefix("/").unwrap_or(below));
            Some((top, dir))
        })
    }
}

/// Returns the number after `name` in text with a name and a number on each line.
fn value_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

/// Returns the limit in a memory.stat of version 1, which includes those of the cgroups around it;
/// `None` if there is none.
pub(super) fn legacy_limit_in(stat: &Path) -> Option<u64> {
    let stat = fs::read_to_string(stat).ok()?;
    value_of(&stat, "hierarchical_memory_limit").filter(|limit| *limit < UNLIMITED)
}

/// Returns the number in a file that holds a limit; `None` if there is no limit.
pub(super) fn number_in(file: &Path) -> Option<u64> {
    let number = fs::read_to_string(file).ok()?.trim().parse().ok();
    number.filter(|number| *number < UNLIMITED)
}

/// Returns the pages of TCP memory in the text of /proc/net/sockstat.
fn tcp_pages(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:          1898272 kB\n";
    const SOCKSTAT: &str = "sockets: used 31\n\
        TCP: inuse 1 orphan 0 tw 0 alloc 200007 mem 827\n\
        UDP: inuse 0 mem 12\n";

    /// Returns a file system with these files.
    fn host(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn find(files: &[(&str, &str)]) -> (KernelBound, TempDir) {
        let root = host(
            &[
                &[
                    ("proc/meminfo", MEMINFO),
                    ("proc/net/sockstat", SOCKSTAT),
                    ("proc/sys/net/ipv4/tcp_mem", "100000\t200000\t300000\n"),
                ],
                files,
            ]
            .concat(),
        );
        (KernelBound::find_in(root.path(), 4_096), root)
    }

    #[test]
    fn a_pod_has_a_quarter_of_the_lowest_limit_above_it() {
        let (bound, root) = find(&[
            ("proc/self/cgroup", "0::/pods/edge\n"),
            (
                "proc/self/mountinfo",
                "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/pods/memory.max", "536870912\n"),
            ("sys/fs/cgroup/pods/edge/memory.max", "1073741824\n"),
            (
                "sys/fs/cgroup/pods/edge/memory.stat",
                "anon 5\nsock 4096000\nsocket 7\n",
            ),
        ]);
        assert_eq!(bound.bytes(), 128 * MIB, "{}", bound.reason());
        assert!(
            bound.reason().ends_with("cgroup, 512MiB"),
            "{}",
            bound.reason()
        );
        let stat = root.path().join("sys/fs/cgroup/pods/edge/memory.stat");
        assert_eq!(bound.source(), &Source::CgroupStat(stat));
        assert_eq!(bound.source().read().unwrap(), 4_096_000);
    }

    #[test]
    fn a_container_that_sees_only_its_own_cgroup_has_a_quarter_of_its_limit() {
        for (cgroup, mount_root) in [("/", "/"), ("/docker/1f", "/docker/1f")] {
            let mount = format!("1 2 0:26 {mount_root} /cg ro shared:9 - cgroup2 cgroup rw\n");
            let (bound, _root) = find(&[
                ("proc/self/cgroup", &format!("0::{cgroup}\n")),
                ("proc/self/mountinfo", &mount),
                ("cg/memory.max", "1073741824\n"),
                ("cg/memory.stat", "sock 0\n"),
            ]);
            assert_eq!(bound.bytes(), 256 * MIB, "{cgroup}: {}", bound.reason());
        }
    }

    #[test]
    fn without_a_limit_it_is_the_pressure_threshold_or_a_quarter_of_the_host() {
        let files = [
            ("proc/self/cgroup", "0::/a.slice\n"),
            (
                "proc/self/mountinfo",
                "1 2 0:26 / /cg rw - cgroup2 cgroup rw\n",
            ),
            ("cg/a.slice/memory.max", "max\n"),
            ("cg/a.slice/memory.stat", "sock 1\n"),
        ];
        let (bound, _root) = find(&files);
        assert_eq!(bound.bytes(), 200_000 * 4_096, "{}", bound.reason());
        assert!(bound.reason().contains("tcp_mem"), "{}", bound.reason());
        let (bound, _root) = find(
            &[
                &files[..],
                &[("proc/sys/net/ipv4/tcp_mem", "1 9999999 2\n")],
            ]
            .concat(),
        );
        assert_eq!(bound.bytes(), 2_048 * MIB, "{}", bound.reason());
        assert!(
            bound.reason().contains("host's memory"),
            "{}",
            bound.reason()
        );
    }

    #[test]
    fn the_root_cgroup_and_version_1_without_a_tcp_limit_count_the_whole_host() {
        let root_cgroup = [
            ("proc/self/cgroup", "0::/\n"),
            (
                "proc/self/mountinfo",
                "1 2 0:26 / /cg rw - cgroup2 cgroup rw\n",
            ),
            ("cg/memory.stat", "sock 1\n"),
        ];
        let version_1 = [
            ("proc/self/cgroup", "4:cpu,memory:/a\n0::/\n"),
            (
                "proc/self/mountinfo",
                "1 2 0:26 / /u rw - cgroup2 cgroup2 rw\n1 2 0:2 / /m rw - cgroup c rw,memory\n",
            ),
            (
                "m/a/memory.kmem.tcp.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("m/a/memory.kmem.tcp.usage_in_bytes", "0\n"),
            ("m/a/memory.stat", "hierarchical_memory_limit 1073741824\n"),
        ];
        for files in [&root_cgroup[..], &version_1, &[]] {
            let (bound, _root) = find(files);
            assert_eq!(bound.bytes(), 200_000 * 4_096, "{}", bound.reason());
            assert_eq!(bound.source().read().unwrap(), 827 * 4_096);
        }
    }

    #[test]
    fn version_1_with_a_tcp_limit_counts_the_cgroup() {
        for (tcp_max, expected) in [(900 * MIB, 256 * MIB), (100 * MIB, 100 * MIB)] {
            let (bound, _root) = find(&[
                ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/a\n"),
                (
                    "proc/self/mountinfo",
                    "1 2 0:2 / /m rw - cgroup c rw,memory\n",
                ),
                ("m/a/memory.kmem.tcp.limit_in_bytes", &tcp_max.to_string()),
                ("m/a/memory.kmem.tcp.usage_in_bytes", "4096\n"),
                ("m/a/memory.stat", "hierarchical_memory_limit 1073741824\n"),
            ]);
            assert_eq!(bound.bytes(), expected, "{}", bound.reason());
            assert_eq!(bound.source().read().unwrap(), 4_096);
        }
    }

    #[test]
    fn a_host_without_proc_has_no_bound() {
        let root = TempDir::new().unwrap();
        let bound = KernelBound::find_in(root.path(), 4_096);
        assert_eq!(bound.bytes(), u64::MAX);
        assert!(bound.source().read().is_err());
    }
}
