//! `cargo xtask test`: the steps that a change must pass, and the report on them. The first failure ends the run.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    command::cargo,
    dependencies, portable,
    stand_in::{self, NATS},
    stopwatch::Stopwatch,
    tool::{self, DENY, NEXTEST},
    weight,
};

/// One step. They stand here in the order in which they run: the quick ones first, and last the tests, so that their
/// summary ends the run.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Step {
    /// Formatting, for the fuzz targets too
    Fmt,
    /// Which crate may know which, and what must not be in the tree
    Dependencies,
    /// Banned and doubled libraries, licences, sources
    Deny,
    /// Clippy and the compiler, without a warning, for the fuzz targets too
    Clippy,
    /// The client for macOS and Windows, compiled only
    Portable,
    /// Documentation, without a warning
    Docs,
    /// Examples in the documentation
    Doctests,
    /// Instructions and allocations of the hot path, against the baseline
    Weight,
    /// Unit, property, integration and end-to-end tests
    Tests,
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => {
                tool::provide_component("rustfmt", "fmt")?;
                cargo("fmt --all --check").run()?;
                cargo("fmt --check --manifest-path fuzz/Cargo.toml").run()
            }
            Self::Dependencies => dependencies::check(),
            Self::Deny => {
                DENY.provide()?;
                // Offline, so that the check itself reads nothing but the lock file and what it names.
                cargo("fetch --locked").run()?;
                cargo("deny --offline --locked check bans licenses sources").run()
            }
            Self::Clippy => {
                tool::provide_component("clippy", "clippy")?;
                cargo("clippy --workspace --all-targets --locked -- -D warnings").run()?;
                // The targets are compiled but not linked. Naming a libFuzzer that does not exist keeps one from being
                // built, which would take a C++ compiler.
                cargo("clippy --manifest-path fuzz/Cargo.toml --locked -- -D warnings")
                    .env("CUSTOM_LIBFUZZER_PATH", "none/libfuzzer.a")
                    .run()
            }
            Self::Portable => portable::check(),
            Self::Docs => cargo("doc --workspace --no-deps --locked")
                .env("RUSTDOCFLAGS", "-D warnings")
                .run(),
            Self::Doctests => cargo("test --doc --workspace --locked").run(),
            Self::Weight => weight::run(false),
            Self::Tests => {
                NEXTEST.provide()?;
                stand_in::provide(&[&NATS])?;
                let kubernetes_validate = tool::provide_kubernetes_validate()?;
                cargo("nextest run --workspace --locked")
                    .env("KUBERNETES_VALIDATE", &kubernetes_validate)
                    .run()
            }
        }
    }
}

/// Runs these steps, or all where none is named, up to the first that fails.
pub(crate) fn run(steps: &[Step]) -> ExitCode {
    let steps = if steps.is_empty() {
        Step::value_variants()
    } else {
        steps
    };
    let run = Stopwatch::start();
    let mut passed = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let name = step.name();
        eprintln!("==> {name}");
        let stopwatch = Stopwatch::start();
        if let Err(error) = step.run() {
            let waiting: Vec<_> = steps[index + 1..].iter().map(|step| step.name()).collect();
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
    eprintln!("xtask: all passed in {}: {}", run.seconds(), list(&passed));
    ExitCode::SUCCESS
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(", ")
    }
}
