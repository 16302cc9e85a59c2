//! The clients in other languages, the vectors that all clients share, and the dissector: checked
//! with the tools of their languages. Their end-to-end tests are in `tests/tests/it`.

use std::{fs, panic::resume_unwind, thread};

use anyhow::Result;

use crate::{
    command::{debug_build, in_workspace, program},
    preflight::{Missing, Preflight, Skippable, Skipped},
    python_tool::{self, MYPY, fresh_environment},
};

const PYTHON_CLIENT: &str = "clients/python";
/// The directory for the wheel, relative to the workspace's root.
const WHEELS: &str = "target/python-client/wheels";
/// The virtual environment into which only the wheel is installed.
const FRESH: &str = "target/python-client-fresh";

/// A part that has a script of its own, because it needs a program that not every machine has.
struct Scripted {
    script: &'static str,
    piece: Skippable,
    program: &'static str,
    version: &'static str,
    package: &'static str,
}

const SCRIPTED: [Scripted; 2] = [
    Scripted {
        script: "clients/go/test.sh",
        piece: Skippable::GoClient,
        program: "go",
        version: "version",
        package: "golang",
    },
    Scripted {
        script: "contrib/wireshark/test.sh",
        piece: Skippable::Dissector,
        program: "tshark",
        version: "--version",
        package: "tshark",
    },
];

/// Records what this machine is missing for the check.
pub(crate) fn look(preflight: &mut Preflight) {
    preflight.need(python_tool::missing(&[&MYPY]));
    for scripted in &SCRIPTED {
        preflight.need_for(scripted.piece, scripted.missing());
    }
}

/// Returns what this machine is missing for the tests of the Go client.
pub(crate) fn missing_go() -> Option<Missing> {
    SCRIPTED
        .iter()
        .find(|scripted| scripted.piece == Skippable::GoClient)
        .and_then(Scripted::missing)
}

/// Checks the vectors, the Python client and its examples, the Go client, and the dissector.
pub(crate) fn check(skipped: &Skipped) -> Result<()> {
    python_tool::provide(&[&MYPY])?;
    program("python3", &["conformance/generate.py", "--check"]).run()?;
    // The clients follow the scenarios of `tickstorm dev`.
    let tickstorm = debug_build("tickstorm")?.display().to_string();
    // The tests of Python and Go wait for most of their time.
    thread::scope(|scope| {
        let scripts: Vec<_> = SCRIPTED
            .iter()
            .filter(|scripted| !skipped.has(scripted.piece))
            .map(|scripted| scope.spawn(|| scripted.run(&tickstorm)))
            .collect();
        let python = check_python(&tickstorm);
        for script in scripts {
            let ended = script.join();
            ended.unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        python
    })
}

fn check_python(tickstorm: &str) -> Result<()> {
    let settings = format!("{PYTHON_CLIENT}/pyproject.toml");
    let (sources, tests) = (
        format!("{PYTHON_CLIENT}/src"),
        format!("{PYTHON_CLIENT}/tests"),
    );
    program(&MYPY.executable(), &["--config-file", &settings])
        .args(&["--cache-dir", "target/python-client/mypy-cache"])
        .args(&[&sources, &tests, "examples/python"])
        .run()?;
    MYPY.python(&["-W", "error", "-m", "unittest", "discover"])
        .args(&["--start-directory", &tests])
        .args(&["--top-level-directory", PYTHON_CLIENT])
        .env("PYTHONPATH", &sources)
        .env("TICKSTORM", tickstorm)
        .run()?;
    check_wheel(tickstorm)
}

/// Installs the wheel where nothing else is installed, and runs the examples of its README.
fn check_wheel(tickstorm: &str) -> Result<()> {
    let wheels = in_workspace(WHEELS);
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    MYPY.pip()?
        .args(&["wheel", "--quiet", "--disable-pip-version-check"])
        .args(&["--no-deps", "--no-build-isolation", "--wheel-dir", WHEELS])
        .args(&[PYTHON_CLIENT])
        .run()?;
    let fresh = fresh_environment(FRESH)?;
    fresh
        .pip()?
        .args(&["install", "--quiet", "--disable-pip-version-check"])
        .args(&["--no-index", "--find-links", WHEELS, "tickstorm"])
        .run()?;
    let script = format!("{PYTHON_CLIENT}/tests/quick_start.py");
    fresh.python(&["-W", "error", &script, tickstorm]).run()
}

impl Scripted {
    /// Runs the script beside others.
    fn run(&self, tickstorm: &str) -> Result<()> {
        program("sh", &["-eu", self.script])
            .env("TICKSTORM", tickstorm)
            .run_beside()
    }

    fn missing(&self) -> Option<Missing> {
        let answer = program(self.program, &[self.version]).probe();
        answer.is_none().then(|| {
            let remedy = format!("install it; Debian's package is {}", self.package);
            Missing::new(format!("the program {}", self.program), remedy)
        })
    }
}
