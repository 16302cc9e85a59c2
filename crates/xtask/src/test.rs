//! `cargo xtask test`: the checks that a change must pass, and the report on them. What this
//! machine lacks ends the run before the first check, and the first failure ends it there.

use std::{process::ExitCode, thread};

use anyhow::Result;
use clap::ValueEnum;
use nix::sched::{CloneFlags, unshare};

use crate::{
    command::{Call, cargo},
    dependencies,
    nats::TestNats,
    portable,
    preflight::{Lack, Preflight, Skippable, Skipped},
    prose,
    python_tool::{self, CODESPELL, KUBECTL, KUBERNETES_VALIDATE, PythonTool},
    stopwatch::Stopwatch,
    tool::{self, DENY, NEXTEST},
    weight,
};

/// One check. They stand here in the order in which they run: the quick ones first, and last the
/// tests, so that their summary ends the run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// Formatting, for the fuzz targets too
    Fmt,
    /// Which crate may know which, and what must not be in the tree
    Dependencies,
    /// Banned and doubled libraries, licences, sources
    Deny,
    /// Clippy and the compiler, without a warning, for the fuzz targets too
    Clippy,
    /// Whether the client compiles for Windows and macOS
    Portable,
    /// Spelling, wording and width of everything that is read, and rustdoc without a warning
    Prose,
    /// Examples in the documentation
    Doctests,
    /// Instructions and allocations of the hot path, against the baseline
    Weight,
    /// Unit, property, integration and end-to-end tests
    Tests,
    /// Those of `tests` that run NATS servers; only by its name
    Nats,
}

impl Check {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Notes what this machine lacks for it.
    fn look(self, preflight: &mut Preflight) {
        match self {
            Self::Fmt => preflight.need(tool::component_lack("rustfmt", "fmt")),
            Self::Clippy => preflight.need(tool::component_lack("clippy", "clippy")),
            Self::Dependencies | Self::Deny | Self::Doctests => {}
            Self::Prose => preflight.need(python_tool::lack(&[&CODESPELL])),
            Self::Portable => preflight.skip_without(Skippable::Portable, portable::lack()),
            Self::Weight => preflight.need_for(Skippable::Weight, weight::lack()),
            Self::Tests => {
                preflight.need_for(Skippable::PerShardTables, tables_lack());
                look_for_tests(OF_MANIFESTS, preflight);
            }
            Self::Nats => look_for_tests(&[], preflight),
        }
    }

    /// Whether nothing of it runs here.
    fn is_skipped(self, skipped: &Skipped) -> bool {
        match self {
            Self::Weight => skipped.has(Skippable::Weight),
            Self::Portable => skipped.has(Skippable::Portable),
            Self::Fmt
            | Self::Dependencies
            | Self::Deny
            | Self::Clippy
            | Self::Prose
            | Self::Doctests
            | Self::Tests
            | Self::Nats => false,
        }
    }

    fn run(self, skipped: &Skipped) -> Result<()> {
        match self {
            Self::Fmt => {
                tool::provide_component("rustfmt", "fmt")?;
                cargo("fmt --all --check").run()?;
                cargo("fmt --check --manifest-path fuzz/Cargo.toml").run()
            }
            Self::Dependencies => dependencies::check(),
            Self::Deny => {
                DENY.provide()?;
                // Offline, so that the check itself reads nothing but the lock file and what it
                // names.
                cargo("fetch --locked").run()?;
                cargo("deny --offline --locked check bans licenses sources").run()
            }
            Self::Clippy => {
                tool::provide_component("clippy", "clippy")?;
                cargo("clippy --workspace --all-targets --locked -- -D warnings").run()?;
                // The targets are compiled but not linked. Naming a libFuzzer that does not exist
                // keeps one from being built, which would take a C++ compiler.
                cargo("clippy --manifest-path fuzz/Cargo.toml --locked -- -D warnings")
                    .env("CUSTOM_LIBFUZZER_PATH", "none/libfuzzer.a")
                    .run()
            }
            Self::Portable => portable::check(),
            Self::Prose => prose::check(),
            Self::Doctests => cargo("test --doc --workspace --locked").run(),
            Self::Weight => weight::run(false),
            Self::Tests if skipped.has(Skippable::PerShardTables) => {
                run_tests(OF_MANIFESTS, &["--profile", "without-per-shard-tables"])
            }
            Self::Tests => run_tests(OF_MANIFESTS, &[]),
            Self::Nats => run_tests(&[], &["--profile", "nats"]),
        }
    }
}

/// What tests of manifests call.
const OF_MANIFESTS: &[&PythonTool] = &[&KUBECTL, &KUBERNETES_VALIDATE];

fn look_for_tests(programs: &[&'static PythonTool], preflight: &mut Preflight) {
    match TestNats::choose() {
        Ok(nats) => {
            preflight.need(nats.lack());
            preflight.need(python_tool::lack(&with_server(programs, nats)));
        }
        Err(lack) => preflight.need([lack]),
    }
}

/// The right to a table of open files of a thread's own, which the profiles of some container
/// engines deny.
fn tables_lack() -> Option<Lack> {
    let asking = thread::spawn(|| unshare(CloneFlags::CLONE_FILES));
    let may = asking.join().is_ok_and(|answer| answer.is_ok());
    (!may).then(|| {
        let remedy = "let the seccomp profile that this runs under allow unshare(2)";
        Lack::new("the right to call unshare(2)", remedy)
    })
}

/// These, and what servers need that run in this way.
fn with_server(programs: &[&'static PythonTool], nats: TestNats) -> Vec<&'static PythonTool> {
    programs.iter().copied().chain(nats.tool()).collect()
}

fn run_tests(programs: &[&'static PythonTool], profile: &[&str]) -> Result<()> {
    NEXTEST.provide()?;
    let nats = match TestNats::choose() {
        Ok(nats) => nats,
        Err(lack) => anyhow::bail!("this machine lacks {lack}"),
    };
    nats.provide()?;
    python_tool::provide(&with_server(programs, nats))?;
    // The programs that end-to-end tests start, built as these do: a test's time is bounded, and a
    // build is not the test's.
    binaries().run()?;
    let (name, value) = nats.variable();
    cargo("nextest run --workspace --locked")
        .args(profile)
        .env(name, value)
        .run()
}

fn binaries() -> Call {
    cargo(
        "build --locked --bins --package tickstorm-cli --package tickstorm-clock --package tickstorm-edge",
    )
}

/// Runs these checks, or all that run without being named, up to the first that fails.
pub(crate) fn run(named: &[Check]) -> ExitCode {
    let mut checks = named.to_vec();
    if checks.is_empty() {
        let all = Check::value_variants().iter().copied();
        checks.extend(all.filter(|check| *check != Check::Nats));
    }
    let mut preflight = Preflight::start();
    for check in &checks {
        check.look(&mut preflight);
    }
    match preflight.finish() {
        Ok(skipped) => run_all(&checks, &skipped),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(checks: &[Check], skipped: &Skipped) -> ExitCode {
    let run = Stopwatch::start();
    let mut passed = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        if check.is_skipped(skipped) {
            continue;
        }
        let name = check.name();
        eprintln!("==> {name}");
        let stopwatch = Stopwatch::start();
        if let Err(error) = check.run(skipped) {
            let waiting: Vec<_> = checks[index + 1..]
                .iter()
                .map(|check| check.name())
                .collect();
            eprintln!(
                "\nxtask: {name} failed after {}: {error:#}",
                stopwatch.seconds()
            );
            eprintln!("  passed:    {}", list(&passed));
            eprintln!("  not run:   {}", list(&waiting));
            eprintln!("  repeat it: cargo xtask test {name}");
            return ExitCode::FAILURE;
        }
        let took = stopwatch.seconds();
        eprintln!("<== {name} passed in {took}");
        passed.push(format!("{name} {took}"));
    }
    eprintln!(
        "xtask: all passed in {}: {}{}",
        run.seconds(),
        list(&passed),
        skipped.summary()
    );
    ExitCode::SUCCESS
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(", ")
    }
}
