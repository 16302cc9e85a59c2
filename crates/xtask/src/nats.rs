//! Decides whether tests run their NATS servers in containers or as processes, and provides what
//! they need for that.

use std::{env, os::unix::net::UnixStream};

use anyhow::Result;

use crate::{
    command::docker,
    preflight::Missing,
    python_tool::{NATS_SERVER, PythonTool},
    stand_in::{self, NATS},
};

/// The environment variable with the choice. testkit also reads it.
const CHOICE: &str = "TICKSTORM_TEST_NATS";

/// The image that containers run.
#[cfg(test)]
pub(crate) const IMAGE: &str = NATS.image;

const ENGINE: &str = "a container engine that answers";

/// The engine's default socket.
const SOCKET: &str = "/var/run/docker.sock";

/// The way in which tests run NATS servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TestNats {
    Container,
    Process,
}

impl TestNats {
    /// Returns what the environment variable asks for. If it is not set, returns `Container` if a
    /// container engine answers and `Process` otherwise.
    pub(crate) fn choose() -> Result<Self, Missing> {
        let choice = env::var_os(CHOICE).unwrap_or_default();
        Self::chosen_by(&choice.to_string_lossy(), engine_answers)
    }

    fn chosen_by(choice: &str, engine_answers: impl FnOnce() -> bool) -> Result<Self, Missing> {
        match choice {
            "container" => Ok(Self::Container),
            "process" => Ok(Self::Process),
            "" if engine_answers() => Ok(Self::Container),
            "" => Ok(Self::Process),
            other => Err(Missing::new(
                format!("a valid value of {CHOICE}"),
                format!(
                    "instead of {CHOICE}={other}, set it to `container` or `process`, or unset it \
                     to use containers if a container engine answers"
                ),
            )),
        }
    }

    /// Returns what this machine is missing to run servers in this way, apart from programs of
    /// Python's package index.
    pub(crate) fn missing(self) -> Option<Missing> {
        match self {
            Self::Process => None,
            Self::Container if !engine_answers() => Some(Missing::new(
                ENGINE,
                format!("install and start Docker, or set {CHOICE}=process"),
            )),
            Self::Container => stand_in::missing(&NATS, &format!("set {CHOICE}=process")),
        }
    }

    /// Returns the program of Python's package index that servers need, if any.
    pub(crate) const fn tool(self) -> Option<&'static PythonTool> {
        match self {
            Self::Process => Some(&NATS_SERVER),
            Self::Container => None,
        }
    }

    /// Makes sure that the server's image is available, if servers run in containers.
    pub(crate) fn provide(self) -> Result<()> {
        match self {
            Self::Process => Ok(()),
            Self::Container => stand_in::provide(&[&NATS]),
        }
    }

    /// Returns the name and the value of the environment variable that tells tests this choice.
    pub(crate) const fn variable(self) -> (&'static str, &'static str) {
        match self {
            Self::Container => (CHOICE, "container"),
            Self::Process => (CHOICE, "process"),
        }
    }
}

/// Returns what is missing if `docker` does not reach a container engine.
pub(crate) fn missing_engine() -> Option<Missing> {
    let remedy = "install and start Docker with its client `docker`, and get permission to use it";
    (!answers_client()).then(|| Missing::new(ENGINE, remedy))
}

/// Returns whether a container engine answers its client or, if there is no client, listens on its
/// socket.
fn engine_answers() -> bool {
    answers_client() || UnixStream::connect(SOCKET).is_ok()
}

fn answers_client() -> bool {
    docker("version --format {{.Server.Version}}")
        .probe()
        .is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::command::in_workspace;

    #[test]
    fn the_variable_decides_and_without_it_whether_an_engine_answers() {
        for answers in [true, false] {
            let choose = |choice| TestNats::chosen_by(choice, || answers).ok();
            assert_eq!(choose("container"), Some(TestNats::Container));
            assert_eq!(choose("process"), Some(TestNats::Process));
            assert_eq!(choose("") == Some(TestNats::Container), answers);
        }
        let error = TestNats::chosen_by("docker", || true).err().unwrap();
        let error = error.to_string();
        for part in ["TICKSTORM_TEST_NATS=docker", "`container`", "`process`"] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }

    /// A new test that is missing from that profile would run either in containers or as processes,
    /// never both.
    #[test]
    fn the_profile_nats_lists_every_test_that_runs_a_server() {
        let config = fs::read_to_string(in_workspace(".config/nextest.toml")).unwrap();
        let (_, profile) = config.split_once("[profile.nats]").unwrap();
        let (_, filter) = profile.split_once("default-filter = \"\"\"").unwrap();
        let (filter, _) = filter.split_once("\"\"\"").unwrap();
        assert!(
            filter.contains("package(tickstorm-bus) and binary(nats)"),
            "{filter}"
        );
        let groups = filter.split("test(/^(").skip(1);
        let groups = groups.map(|group| group.split_once(")::").unwrap().0);
        let listed: Vec<_> = groups.flat_map(|group| group.split('|')).collect();
        let runs_a_server = |path: &Path| {
            let text = fs::read_to_string(path).unwrap();
            text.contains("Nats::run(") || text.contains("Nats::create(")
        };
        let mut found = BTreeSet::new();
        for path in entries(&in_workspace("tests/tests/it")) {
            let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let files = if path.is_dir() {
                entries(&path)
            } else {
                vec![path]
            };
            if module != "support" && files.iter().any(|file| runs_a_server(file)) {
                found.insert(module);
            }
        }
        assert_eq!(Vec::from_iter(found), listed);
    }

    fn entries(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}
