//! [`IpLists`]: the networks that clients may and may not connect from. Files are checked every
//! second; a file that can't be used leaves the lists in force as they are. A changed list applies
//! to new connections and ends no running one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tickstorm_service::env::{FileError, read_text_file};
use tickstorm_service::file_watch::{FileSet, FileWatch, FilesInUse, ReloadCounters, WatchedFile};
use tokio::sync::watch;

use crate::networks::{NetworkError, Networks, parse_network};

/// The most networks in a file: more than any provider's list, and a few MB of memory.
const NETWORKS_MAX: usize = 100_000;
/// The largest file, in bytes: enough for [`NETWORKS_MAX`] lines of the greatest length.
const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The sources of both lists.
#[derive(Clone, Debug, Default)]
pub struct IpListSources {
    /// IP_ALLOWLIST.
    pub allowed: Option<Networks>,
    /// IP_ALLOWLIST_FILE, whose networks are allowed too.
    pub allowed_file: Option<PathBuf>,
    /// IP_BLOCKLIST.
    pub blocked: Option<Networks>,
    /// IP_BLOCKLIST_FILE, whose networks are blocked too.
    pub blocked_file: Option<PathBuf>,
}

/// An error while reading a list.
#[derive(Debug, thiserror::Error)]
pub enum IpListError {
    /// The file can't be read as text.
    #[error("{name}={}", path.display())]
    File {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// The problem.
        source: FileError,
    },
    /// A line is not a network.
    #[error(
        "{name}={}: line {line}: {problem}; a line is one network, and empty lines and everything \
         after # are ignored",
        path.display()
    )]
    Line {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// The number of the line; the first line is 1.
        line: usize,
        /// The problem.
        problem: NetworkError,
    },
    /// The file has too many networks or is too large.
    #[error(
        "{name}={}: the file has more than {NETWORKS_MAX} networks or is larger than 8 MiB",
        path.display()
    )]
    TooLong {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The allowlist has no network.
    #[error(
        "{name}={}: the file has no network, which would refuse every client; to allow all \
         clients, unset {name}",
        path.display()
    )]
    NobodyAllowed {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// The lists in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpLists {
    /// The networks that clients may connect from; `None` means any.
    pub(crate) allowed: Option<Networks>,
    /// The networks that clients may not connect from, even if they are allowed.
    pub(crate) blocked: Networks,
}

impl IpLists {
    /// Returns whether a client at `ip` may connect.
    pub(crate) fn permit(&self, ip: IpAddr) -> bool {
        let is_allowed = |allowed: &Networks| allowed.contain(ip);
        !self.blocked.contain(ip) && self.allowed.as_ref().is_none_or(is_allowed)
    }
}

/// The lists, with the files that are reread.
pub(crate) struct IpListWatcher {
    files: FilesInUse<WatchedSources>,
    lists: watch::Sender<IpLists>,
}

impl IpListWatcher {
    /// Reads the lists.
    ///
    /// # Errors
    /// Returns an error if a file can't be read or has a line that is not a network.
    pub(crate) fn load(sources: IpListSources) -> Result<Self, IpListError> {
        let (files, lists) = FilesInUse::load(WatchedSources(sources))?;
        let lists = watch::Sender::new(lists);
        Ok(Self { files, lists })
    }

    /// Returns the lists in force, which change with the files.
    pub(crate) fn lists(&self) -> watch::Receiver<IpLists> {
        self.lists.subscribe()
    }

    /// Returns access to the files.
    pub(crate) fn access(&self) -> FileWatch {
        self.files.access()
    }

    /// Watches the files and publishes lists that have changed.
    pub(crate) async fn run(self, counters: ReloadCounters) {
        let Self { files, lists } = self;
        let publish = |changed| {
            if let Some(new) = changed {
                lists.send_replace(new);
            }
        };
        files.watch(counters, publish, |_| ()).await;
    }
}

/// The sources, of which the files are reread.
struct WatchedSources(IpListSources);

impl FileSet for WatchedSources {
    const NAME: &'static str = "IP lists";
    const EFFECT: &'static str = "new connections are checked against them";
    type Loaded = IpLists;
    type Error = IpListError;

    fn files(&self) -> Vec<WatchedFile> {
        let refused = "clients in these networks are refused";
        let let_in = "clients in these networks are no longer refused";
        let watched = |file: Option<ListFile<'_>>, loss| {
            file.map(|ListFile { name, path }| WatchedFile::lines(name, path, "networks", loss))
        };
        let allowlist = watched(self.0.allowlist(), refused);
        let blocklist = watched(self.0.blocklist(), let_in);
        allowlist.into_iter().chain(blocklist).collect()
    }

    fn load(&self) -> Result<IpLists, IpListError> {
        let Self(sources) = self;
        let read = |file: Option<ListFile<'_>>| {
            let networks = file.map(|file| file.parse(&file.read()?));
            networks.transpose()
        };
        let allowed = read(sources.allowlist())?;
        if let (Some(file), Some(networks)) = (sources.allowlist(), &allowed)
            && networks.is_empty()
        {
            return Err(file.nobody_allowed());
        }
        let blocked = read(sources.blocklist())?;
        Ok(IpLists {
            allowed: union(&sources.allowed, allowed),
            blocked: union(&sources.blocked, blocked).unwrap_or_default(),
        })
    }
}

impl IpListSources {
    fn allowlist(&self) -> Option<ListFile<'_>> {
        let path = self.allowed_file.as_deref()?;
        Some(ListFile {
            name: "IP_ALLOWLIST_FILE",
            path,
        })
    }

    fn blocklist(&self) -> Option<ListFile<'_>> {
        let path = self.blocked_file.as_deref()?;
        Some(ListFile {
            name: "IP_BLOCKLIST_FILE",
            path,
        })
    }
}

fn union(listed: &Option<Networks>, file: Option<Networks>) -> Option<Networks> {
    match (listed, file) {
        (Some(listed), Some(file)) => Some(listed.union(&file)),
        (Some(listed), None) => Some(listed.clone()),
        (None, file) => file,
    }
}

/// The file of a list, and the setting that names it.
#[derive(Clone, Copy, Debug)]
struct ListFile<'a> {
    name: &'static str,
    path: &'a Path,
}

impl ListFile<'_> {
    fn read(self) -> Result<String, IpListError> {
        let Self { name, path } = self;
        read_text_file(path, FILE_BYTES_MAX).map_err(|source| {
            if matches!(source, FileError::TooLong { .. }) {
                return self.too_long();
            }
            let path = path.to_owned();
            IpListError::File { name, path, source }
        })
    }

    fn parse(self, text: &str) -> Result<Networks, IpListError> {
        let mut networks = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let written = text.split('#').next().unwrap_or_default().trim();
            if written.is_empty() {
                continue;
            }
            let network = parse_network(written).map_err(|problem| IpListError::Line {
                name: self.name,
                path: self.path.to_owned(),
                line,
                problem,
            })?;
            networks.push(network);
            if networks.len() > NETWORKS_MAX {
                return Err(self.too_long());
            }
        }
        Ok(networks.into_iter().collect())
    }

    fn too_long(self) -> IpListError {
        IpListError::TooLong {
            name: self.name,
            path: self.path.to_owned(),
        }
    }

    fn nobody_allowed(self) -> IpListError {
        IpListError::NobodyAllowed {
            name: self.name,
            path: self.path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_service::env::Value as _;
    use tickstorm_service::error_chain::ErrorChain;
    use tickstorm_testkit::TempDir;

    use super::*;

    fn networks(text: &str) -> Networks {
        Networks::parse(text, &()).unwrap()
    }

    /// Loads lists with an allowlist and a blocklist file of these contents.
    fn load(allowed: Option<&str>, blocked: Option<&str>) -> Result<IpLists, String> {
        let dir = TempDir::new("lists");
        let sources = IpListSources {
            allowed_file: allowed.map(|text| dir.write("allowed", text)),
            blocked_file: blocked.map(|text| dir.write("blocked", text)),
            ..IpListSources::default()
        };
        let loaded = FilesInUse::load(WatchedSources(sources)).map(|(_, lists)| lists);
        loaded.map_err(|error| ErrorChain(&error).to_string())
    }

    #[test]
    fn a_file_has_a_network_on_each_line_and_comments() {
        let text = "# offices\n\n 10.0.0.0/8 # all of them\r\n2001:db8::/32\n";
        let lists = load(Some(text), Some("#\n")).unwrap();
        assert_eq!(lists.allowed, Some(networks("10.0.0.0/8,2001:db8::/32")));
        assert!(lists.blocked.is_empty());
        assert_eq!(load(None, None).unwrap(), IpLists::default());
    }

    #[test]
    fn a_setting_and_a_file_together_list_the_networks_of_both() {
        let dir = TempDir::new("lists");
        let sources = IpListSources {
            allowed: Some(networks("10.0.0.0/8")),
            allowed_file: Some(dir.write("allowed", "192.0.2.0/24")),
            blocked: Some(networks("10.6.6.0/24")),
            blocked_file: Some(dir.write("blocked", "10.7.7.0/24")),
        };
        let lists = FilesInUse::load(WatchedSources(sources)).unwrap().1;
        for (ip, is_permitted) in [
            ("10.0.0.1", true),
            ("192.0.2.1", true),
            ("198.51.100.1", false),
            ("10.6.6.1", false),
            ("10.7.7.1", false),
        ] {
            assert_eq!(lists.permit(ip.parse().unwrap()), is_permitted, "{ip}");
        }
    }

    #[test]
    fn the_error_about_a_file_names_the_setting_the_line_and_what_is_allowed() {
        let error = load(None, Some("# one\n10.0.0.0/8\n10.0.0.1\n")).unwrap_err();
        assert!(error.starts_with("IP_BLOCKLIST_FILE="), "{error}");
        assert!(
            error.contains("/blocked: line 3: it is not a network"),
            "{error}"
        );
        assert!(
            error.contains("such as 10.0.0.0/8 or 2001:db8::/32"),
            "{error}"
        );
        let error = load(Some("\n10.0.0.1/8"), None).unwrap_err();
        assert!(error.starts_with("IP_ALLOWLIST_FILE="), "{error}");
        assert!(error.contains("line 2: "), "{error}");
        assert!(error.contains("the network is 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn an_allowlist_file_without_a_network_is_refused() {
        let error = load(Some("# nobody\n"), None).unwrap_err();
        assert!(error.contains("would refuse every client"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_large_or_absent_or_not_text_is_refused() {
        let many = "10.0.0.0/8\n".repeat(NETWORKS_MAX + 1);
        let large = "#".repeat(FILE_BYTES_MAX + 1);
        for text in [many, large] {
            let error = load(None, Some(&text)).unwrap_err();
            assert!(error.contains("more than 100000 networks"), "{error}");
        }
        let sources = IpListSources {
            blocked_file: Some("/nowhere/list".into()),
            ..IpListSources::default()
        };
        let error = WatchedSources(sources).load().unwrap_err();
        let error = ErrorChain(&error).to_string();
        let start = "IP_BLOCKLIST_FILE=/nowhere/list: the file can't be read: ";
        assert!(error.starts_with(start), "{error}");
    }
}
