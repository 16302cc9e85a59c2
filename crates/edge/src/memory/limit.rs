//! The metric of the memory that this process's cgroup may use. It is read when metrics are
//! collected, because an orchestrator can change the limit of a running container.

use std::path::{Path, PathBuf};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry};
use tickstorm_service::metrics::{RegisterError, collector};

use super::source::{Places, legacy_limit_in, number_in};

const NAME: &str = "tickstorm_memory_limit_bytes";

/// The files that tell the limit.
#[derive(Clone, Debug)]
enum LimitFiles {
    /// Each memory.max of the cgroup and of those around it, version 2.
    Unified(Vec<PathBuf>),
    /// The memory.stat of the cgroup, version 1.
    Legacy(PathBuf),
    /// There is no cgroup for memory.
    None,
}

/// The gauge, and the files that it is read from.
#[derive(Clone)]
struct MemoryLimit {
    gauge: IntGauge,
    files: LimitFiles,
}

/// Registers the metric. It has no series while there is no limit.
pub(crate) fn register(registry: &Registry) -> Result<(), RegisterError> {
    register_in(Path::new("/"), registry)
}

/// Does the same as [`register`] in a file system whose root is at `root`.
fn register_in(root: &Path, registry: &Registry) -> Result<(), RegisterError> {
    let help = "The memory limit of this process's cgroup. Without one, this has no series.";
    let limit = MemoryLimit {
        gauge: IntGauge::new(NAME, help).expect("the name is valid"),
        files: LimitFiles::find_in(root),
    };
    collector(registry, NAME, limit)?;
    Ok(())
}

impl LimitFiles {
    fn find_in(root: &Path) -> Self {
        let places = Places::read_in(root);
        let mut unified = places.unified_limits().unwrap_or_default();
        // The root cgroup has no such file, nor does any if version 1 manages memory.
        unified.retain(|file| file.exists());
        if !unified.is_empty() {
            return Self::Unified(unified);
        }
        let legacy = places.legacy_directory();
        legacy.map_or(Self::None, |dir| Self::Legacy(dir.join("memory.stat")))
    }

    /// Returns the limit in bytes, if there is one.
    fn read(&self) -> Option<u64> {
        match self {
            Self::Unified(files) => files.iter().filter_map(|file| number_in(file)).min(),
            Self::Legacy(stat) => legacy_limit_in(stat),
            Self::None => None,
        }
    }
}

impl Collector for MemoryLimit {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(bytes) = self.files.read() else {
            return Vec::new();
        };
        self.gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;
    use tickstorm_service::metrics::encode;

    use super::*;

    /// A file system, and the registry of the metric in it.
    struct Host {
        root: TempDir,
        registry: Registry,
    }

    impl Host {
        fn new(files: &[(&str, &str)]) -> Self {
            let root = TempDir::new().unwrap();
            let mut host = Self {
                root,
                registry: Registry::new(),
            };
            files.iter().for_each(|(file, text)| host.write(file, text));
            register_in(host.root.path(), &host.registry).unwrap();
            host
        }

        fn write(&mut self, file: &str, text: &str) {
            let path = self.root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Returns the value of the only series, if there is one.
        fn shown(&self) -> Option<u64> {
            let text = encode(&self.registry).unwrap();
            let line = text.lines().find(|line| !line.starts_with('#'))?;
            let value = line.strip_prefix(&format!("{NAME} ")).unwrap();
            Some(value.parse().unwrap())
        }
    }

    #[test]
    fn it_is_the_lowest_limit_of_all_cgroups_around_the_process_and_follows_changes() {
        let mut host = Host::new(&[
            ("proc/self/cgroup", "0::/pods/edge\n"),
            ("proc/self/mountinfo", "1 2 0:2 / /cg rw - cgroup2 c rw\n"),
            ("cg/pods/memory.max", "4096000\n"),
            ("cg/pods/edge/memory.max", "max\n"),
        ]);
        assert_eq!(host.shown(), Some(4_096_000));
        host.write("cg/pods/edge/memory.max", "1024000\n");
        assert_eq!(host.shown(), Some(1_024_000));
        host.write("cg/pods/edge/memory.max", "max\n");
        host.write("cg/pods/memory.max", "max\n");
        assert_eq!(host.shown(), None);
    }

    #[test]
    fn in_version_1_it_includes_the_cgroups_around_the_process() {
        let mut host = Host::new(&[
            ("proc/self/cgroup", "4:cpu,memory:/a\n0::/\n"),
            (
                "proc/self/mountinfo",
                "1 2 0:2 / /u rw - cgroup2 c rw\n1 2 0:3 / /m rw - cgroup c rw,memory\n",
            ),
            (
                "m/a/memory.stat",
                "cache 1\nhierarchical_memory_limit 512000\n",
            ),
        ]);
        assert_eq!(host.shown(), Some(512_000));
        let unlimited = "hierarchical_memory_limit 9223372036854771712\n";
        host.write("m/a/memory.stat", unlimited);
        assert_eq!(host.shown(), None);
    }

    #[test]
    fn without_a_cgroup_there_is_no_series() {
        assert_eq!(Host::new(&[]).shown(), None);
    }

    /// The test that compares all documented metrics with those of the daemons has no limit on some
    /// machines.
    #[test]
    fn it_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let document = fs::read_to_string(path).unwrap();
        let gauge = Host::new(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", "1 2 0:2 / /cg rw - cgroup2 c rw\n"),
            ("cg/memory.max", "1\n"),
        ]);
        let families = gauge.registry.gather();
        let help = families[0].help();
        let row = format!("| `{NAME}` | gauge | {help} |\n");
        assert!(document.contains(&row), "{row}");
    }
}
