//! `cargo xtask test`: runs the checks that a change must pass, and reports on them. If this
//! machine is missing something, no check runs. Otherwise the run ends at the first failure.

use std::{process::ExitCode, thread};

use anyhow::Result;
use clap::ValueEnum;
use nix::sched::{CloneFlags, unshare};

use crate::{
    abuse, advisories, checkov, clients,
    command::{Call, cargo, program},
    dependencies, monitoring,
    nats::TestNats,
    oldest_compiler, portable,
    preflight::{Missing, Preflight, Skippable, Skipped},
    prose,
    python_tool::{
        self, CODESPELL, GRAFANA, KUBECTL, KUBERNETES_VALIDATE, PROMETHEUS_OPERATOR, PythonTool,
        ROTEL,
    },
    sbom,
    stopwatch::Stopwatch,
    tool::{self, DENY, NEXTEST},
    unsafe_code, weight,
};

/// One check. The variants are in the order in which they run: the quick ones first, and the tests
/// last, so that their summary is at the end of the output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// Formatting, including that of the fuzz targets
    Fmt,
    /// Allowed dependencies between crates, and libraries that must not be used
    Dependencies,
    /// Banned and duplicate libraries, licences and sources
    Deny,
    /// Published vulnerabilities of dependencies, and yanked versions
    Advisories,
    /// Unsafe code, compared with its justifications in docs/security.md
    Unsafe,
    /// The software bills of materials, which are made and validated
    Sbom,
    /// Warnings of Clippy and the compiler, including those for the fuzz targets
    Clippy,
    /// Compilation of the client for Windows and macOS
    Portable,
    /// Compilation of the client with the oldest compiler that it supports
    OldestCompiler,
    /// Spelling, wording and width of everything that people read, and warnings of rustdoc
    Prose,
    /// Insecure settings in the Dockerfiles and the manifests of Kubernetes
    Checkov,
    /// The clients in other languages, with their examples, the vectors, and the dissector
    Clients,
    /// Prometheus' rules, the tests of the alerts, the runbooks, the dashboards, and the routes of
    /// notifications
    Monitoring,
    /// Examples in the API documentation
    Doctests,
    /// Instructions and allocations of the hot path, compared with the baseline
    Weight,
    /// Unit, property, integration and end-to-end tests
    Tests,
    /// The tests that run NATS servers, without the longest; part of `tests`, and run by name only
    Nats,
    /// Each attack of `cargo xtask abuse` for a few seconds; run by name only
    Abuse,
}

impl Check {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Records what this machine is missing for the check.
    fn look(self, preflight: &mut Preflight) {
        match self {
            Self::Fmt => preflight.need(tool::missing_component("rustfmt", "fmt")),
            Self::Clippy => preflight.need(tool::missing_component("clippy", "clippy")),
            Self::Dependencies
            | Self::Deny
            | Self::Advisories
            | Self::Unsafe
            | Self::Sbom
            | Self::Doctests => {}
            Self::Abuse => preflight.need(abuse::missing()),
            Self::Prose => preflight.need(python_tool::missing(&[&CODESPELL])),
            Self::Checkov => preflight.need(checkov::missing()),
            Self::Clients => clients::look(preflight),
            Self::Monitoring => {
                preflight.need_for(Skippable::Monitoring, monitoring::missing());
                preflight.need(python_tool::missing(&[&PROMETHEUS_OPERATOR, &GRAFANA]));
            }
            Self::Portable => preflight.skip_without(Skippable::Portable, portable::missing()),
            Self::OldestCompiler => {
                preflight.skip_without(Skippable::OldestCompiler, oldest_compiler::missing());
            }
            Self::Weight => preflight.need_for(Skippable::Weight, weight::missing()),
            Self::Tests => {
                preflight.need(missing_openssl());
                preflight.need_for(Skippable::PerShardTables, missing_tables());
                preflight.need_for(Skippable::Promtool, missing_promtool());
                preflight.need_for(Skippable::StatusPage, missing_browser());
                preflight.need_for(Skippable::GoClient, clients::missing_go());
                look_for_tests(TEST_TOOLS, preflight);
            }
            Self::Nats => look_for_tests(&[], preflight),
        }
    }

    /// Returns whether the check is skipped completely.
    fn is_skipped(self, skipped: &Skipped) -> bool {
        match self {
            Self::Weight => skipped.has(Skippable::Weight),
            Self::Portable => skipped.has(Skippable::Portable),
            Self::OldestCompiler => skipped.has(Skippable::OldestCompiler),
            Self::Advisories => skipped.has(Skippable::Advisories),
            Self::Monitoring => skipped.has(Skippable::Monitoring),
            Self::Fmt
            | Self::Dependencies
            | Self::Deny
            | Self::Unsafe
            | Self::Sbom
            | Self::Clippy
            | Self::Prose
            | Self::Checkov
            | Self::Clients
            | Self::Doctests
            | Self::Tests
            | Self::Nats
            | Self::Abuse => false,
        }
    }

    fn run(self, skipped: &mut Skipped) -> Result<()> {
        match self {
            Self::Fmt => {
                tool::provide_component("rustfmt", "fmt")?;
                cargo("fmt --all --check").run()?;
                cargo("fmt --check --manifest-path fuzz/Cargo.toml").run()
            }
            Self::Dependencies => dependencies::check(),
            Self::Deny => {
                DENY.provide()?;
                // After the fetch, the check runs offline and reads only the lock file and the
                // packages in it.
                cargo("fetch --locked").run()?;
                cargo("deny --offline --locked check bans licenses sources").run()
            }
            Self::Advisories => advisories::check(skipped),
            Self::Unsafe => unsafe_code::check(),
            Self::Sbom => sbom::write(),
            Self::Clippy => {
                tool::provide_component("clippy", "clippy")?;
                cargo("clippy --workspace --all-targets --locked -- -D warnings").run()?;
                // The fuzz targets are compiled but not linked. The path of a libFuzzer that does
                // not exist prevents a build of libFuzzer, which would require a C++ compiler.
                cargo("clippy --manifest-path fuzz/Cargo.toml --locked -- -D warnings")
                    .env("CUSTOM_LIBFUZZER_PATH", "none/libfuzzer.a")
                    .run()
            }
            Self::Portable => portable::check(),
            Self::OldestCompiler => oldest_compiler::check(),
            Self::Prose => prose::check(),
            Self::Checkov => checkov::check(),
            Self::Clients => clients::check(skipped),
            Self::Monitoring => monitoring::check(),
            Self::Doctests => cargo("test --doc --workspace --locked").run(),
            Self::Weight => weight::run(false),
            Self::Tests => {
                run_tests(TEST_TOOLS, &selection(skipped))?;
                // No program of the workspace uses this feature.
                let of_feature = "--package tickstorm-timebase --features jiff convert::";
                cargo(&format!("nextest run --locked {of_feature}")).run()
            }
            Self::Nats => run_tests(
                &[],
                &["--profile", "nats", "--filterset", WITHOUT_THE_LONGEST],
            ),
            Self::Abuse => abuse::check(),
        }
    }
}

/// The oldest major version of openssl that the tests of TLS can use.
const OPENSSL_MAJOR_MIN: u32 = 3;

/// All tests but those that need a browser.
const WITHOUT_STATUS_PAGE: &str = "!(package(tickstorm-tests)&test(/^status_page::/))";

/// The tests that run NATS servers but for those of some minutes, which are not about NATS. Once is
/// enough for them.
const WITHOUT_THE_LONGEST: &str = "!(package(tickstorm-tests)\
    &test(/^(clients|dark|faults|moves|rolls|stolen_logins|traces)::/))";

/// The programs that tests call: those of the manifests, and those of traces.
const TEST_TOOLS: &[&PythonTool] = &[&KUBECTL, &KUBERNETES_VALIDATE, &ROTEL];

fn look_for_tests(programs: &[&'static PythonTool], preflight: &mut Preflight) {
    match TestNats::choose() {
        Ok(nats) => {
            preflight.need(nats.missing());
            preflight.need(python_tool::missing(&with_server(programs, nats)));
        }
        Err(missing) => preflight.need([missing]),
    }
}

/// Returns what is missing if the tests of TLS have no openssl 3.0 or later.
fn missing_openssl() -> Option<Missing> {
    let answer = program("openssl", &["version"]).probe();
    let major = answer.as_deref().and_then(openssl_major);
    major
        .is_none_or(|major| major < OPENSSL_MAJOR_MIN)
        .then(|| {
            let found = answer.as_deref().map_or("none", str::trim);
            let remedy = format!("install or upgrade openssl (this machine has {found})");
            Missing::new("the program openssl, 3.0 or later", remedy)
        })
}

/// Returns the major version from the answer of `openssl version`. LibreSSL, which answers with its
/// own name, has other options.
fn openssl_major(answer: &str) -> Option<u32> {
    let (major, _) = answer.strip_prefix("OpenSSL ")?.split_once('.')?;
    major.parse().ok()
}

/// Returns what is missing if the names of metrics can't be checked. The tests find this out
/// themselves.
fn missing_promtool() -> Option<Missing> {
    let answer = program("promtool", &["--version"]).probe();
    answer.is_none().then(|| {
        let remedy = "install it with Prometheus; Debian's package prometheus contains it";
        Missing::new("the program promtool", remedy)
    })
}

/// Returns what is missing if a thread may not have its own file descriptor table, which the
/// seccomp profiles of some container engines deny.
fn missing_tables() -> Option<Missing> {
    let asking = thread::spawn(|| unshare(CloneFlags::CLONE_FILES));
    let may = asking.join().is_ok_and(|answer| answer.is_ok());
    (!may).then(|| {
        let remedy = "use a seccomp profile that allows unshare(2)";
        Missing::new("permission to call unshare(2)", remedy)
    })
}

/// Returns what is missing if no browser can be driven.
fn missing_browser() -> Option<Missing> {
    let answer = program("chromedriver", &["--version"]).probe();
    answer.is_none().then(|| {
        let remedy = "install Chromium and its driver (chromium-driver)";
        Missing::new("the program chromedriver", remedy)
    })
}

/// Returns the arguments by which nextest leaves out the tests that are skipped.
fn selection(skipped: &Skipped) -> Vec<&'static str> {
    let mut arguments = Vec::new();
    if skipped.has(Skippable::PerShardTables) {
        arguments.extend(["--profile", "without-per-shard-tables"]);
    }
    if skipped.has(Skippable::StatusPage) {
        arguments.extend(["--filterset", WITHOUT_STATUS_PAGE]);
    }
    arguments
}

/// Returns `programs` and, if NATS servers run as processes, the server's program.
fn with_server(programs: &[&'static PythonTool], nats: TestNats) -> Vec<&'static PythonTool> {
    programs.iter().copied().chain(nats.tool()).collect()
}

fn run_tests(programs: &[&'static PythonTool], profile: &[&str]) -> Result<()> {
    NEXTEST.provide()?;
    let nats = match TestNats::choose() {
        Ok(nats) => nats,
        Err(missing) => anyhow::bail!("this machine is missing {missing}"),
    };
    nats.provide()?;
    python_tool::provide(&with_server(programs, nats))?;
    // Builds the programs that end-to-end tests start, exactly as those tests would. Tests have a
    // time limit, which a build must not use up.
    binaries().run()?;
    let (name, value) = nats.variable();
    cargo("nextest run --workspace --locked")
        .args(profile)
        .env(name, value)
        .run()
}

fn binaries() -> Call {
    cargo(
        "build --locked --bins \
         --package tickstorm-cli --package tickstorm-clock --package tickstorm-edge",
    )
}

/// Runs the named checks up to the first failure. If none is named, runs all except `nats` and
/// `abuse`.
pub(crate) fn run(named: &[Check]) -> ExitCode {
    let mut checks = named.to_vec();
    if checks.is_empty() {
        let all = Check::value_variants().iter().copied();
        checks.extend(all.filter(|check| !matches!(check, Check::Nats | Check::Abuse)));
    }
    let mut preflight = Preflight::start();
    for check in &checks {
        check.look(&mut preflight);
    }
    match preflight.finish() {
        Ok(skipped) => run_all(&checks, skipped),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(checks: &[Check], mut skipped: Skipped) -> ExitCode {
    let run = Stopwatch::start();
    let mut passed = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        if check.is_skipped(&skipped) {
            continue;
        }
        let name = check.name();
        eprintln!("==> {name}");
        let stopwatch = Stopwatch::start();
        if let Err(error) = check.run(&mut skipped) {
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
        if check.is_skipped(&skipped) {
            eprintln!("<== {name} was SKIPPED");
            continue;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_openssl_is_recognized() {
        let debian = "OpenSSL 3.0.19 27 Jan 2026 (Library: OpenSSL 3.0.19 27 Jan 2026)\n";
        assert_eq!(openssl_major(debian), Some(3));
        assert_eq!(openssl_major("OpenSSL 1.1.1w  11 Sep 2023\n"), Some(1));
        assert_eq!(openssl_major("LibreSSL 3.3.6\n"), None);
    }
}
