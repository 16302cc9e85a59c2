//! In which way tests run their NATS servers, and what that takes.

use std::{env, os::unix::net::UnixStream};

use anyhow::Result;

use crate::{
    command::docker,
    preflight::Lack,
    python_tool::{NATS_SERVER, PythonTool},
    stand_in::{self, NATS},
};

/// What testkit reads, too.
const CHOICE: &str = "TICKSTORM_TEST_NATS";

/// The image, whose stand-in [`NATS`] is.
#[cfg(test)]
pub(crate) const IMAGE: &str = NATS.image;

const ENGINE: &str = "a container engine that answers";

/// Where an engine listens if nobody says otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// How servers run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TestNats {
    Container,
    Process,
}

impl TestNats {
    /// What is asked for or, if nothing is, a container if an engine answers.
    pub(crate) fn choose() -> Result<Self, Lack> {
        let choice = env::var_os(CHOICE).unwrap_or_default();
        Self::chosen_by(&choice.to_string_lossy(), engine_answers)
    }

    fn chosen_by(choice: &str, engine_answers: impl FnOnce() -> bool) -> Result<Self, Lack> {
        match choice {
            "container" => Ok(Self::Container),
            "process" => Ok(Self::Process),
            "" if engine_answers() => Ok(Self::Container),
            "" => Ok(Self::Process),
            other => Err(Lack::new(
                format!("an allowed value of {CHOICE}"),
                format!(
                    "{CHOICE}={other} is neither `container` nor `process`; unset, it means a container if an engine answers"
                ),
            )),
        }
    }

    /// What this machine lacks for it, besides programs from the index.
    pub(crate) fn lack(self) -> Option<Lack> {
        match self {
            Self::Process => None,
            Self::Container if !engine_answers() => Some(Lack::new(
                ENGINE,
                format!("install Docker and start it, or set {CHOICE}=process"),
            )),
            Self::Container => stand_in::lack(&NATS, &format!("or set {CHOICE}=process")),
        }
    }

    /// What it takes from the index.
    pub(crate) const fn tool(self) -> Option<&'static PythonTool> {
        match self {
            Self::Process => Some(&NATS_SERVER),
            Self::Container => None,
        }
    }

    /// Makes sure that there is an image of the server.
    pub(crate) fn provide(self) -> Result<()> {
        match self {
            Self::Process => Ok(()),
            Self::Container => stand_in::provide(&[&NATS]),
        }
    }

    /// What the tests find in their environment.
    pub(crate) const fn variable(self) -> (&'static str, &'static str) {
        match self {
            Self::Container => (CHOICE, "container"),
            Self::Process => (CHOICE, "process"),
        }
    }
}

/// What a task lacks that calls the engine's client.
pub(crate) fn engine_lack() -> Option<Lack> {
    let remedy = "install Docker with its client `docker`, start it, and see that you may use it";
    (!answers_client()).then(|| Lack::new(ENGINE, remedy))
}

/// Whether a container engine answers: to its client or, without one, at its socket.
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
    use std::fs;

    use super::*;
    use crate::command::in_workspace;

    #[test]
    fn what_is_asked_for_holds_and_otherwise_an_engine_decides() {
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

    /// Else a new test of NATS would be run in one way only.
    #[test]
    fn the_profile_nats_has_every_test_that_runs_a_server() {
        let config = fs::read_to_string(in_workspace(".config/nextest.toml")).unwrap();
        let (_, profile) = config.split_once("[profile.nats]").unwrap();
        let (_, filter) = profile.split_once("default-filter = ").unwrap();
        let (filter, _) = filter.split_once('\n').unwrap();
        assert!(
            filter.contains("package(tickstorm-bus) and binary(nats)"),
            "{filter}"
        );
        let (_, modules) = filter.split_once("test(/^(").unwrap();
        let (modules, _) = modules.split_once(")::").unwrap();
        let named: Vec<_> = modules.split('|').map(str::to_owned).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir(in_workspace("tests/tests/it")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.contains("Nats::run(") || text.contains("Nats::create(") {
                found.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
            }
        }
        found.sort();
        assert_eq!(found, named);
    }
}
