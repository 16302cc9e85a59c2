//! The dependency rule: which of our crates may know which, which of them must stay free of tokio,
//! and which libraries may not be in the tree at all.
//!
//! It is checked against what cargo resolved, never against what a manifest says. Adding an edge
//! means to change the table here and the arrows in ARCHITECTURE.md, with a reason for both.

mod graph;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, ensure};

use self::graph::{Graph, Purpose};
use crate::command::cargo;

/// What one of our crates may depend on directly, among our crates.
struct Rule {
    name: &'static str,
    /// In its product code and its build script.
    product: &'static [&'static str],
    /// Besides those, in its tests.
    tests: &'static [&'static str],
}

const fn rule(
    name: &'static str,
    product: &'static [&'static str],
    tests: &'static [&'static str],
) -> Rule {
    Rule {
        name,
        product,
        tests,
    }
}

const TIMEBASE: &str = "tickstorm-timebase";
const TIMER: &str = "tickstorm-timer";
const PROTOCOL: &str = "tickstorm-protocol";
const BUS: &str = "tickstorm-bus";
const SERVICE: &str = "tickstorm-service";
const CLOCK: &str = "tickstorm-clock";
const EDGE: &str = "tickstorm-edge";
const CLIENT: &str = "tickstorm-client";
const COMMAND: &str = "tickstorm-command";
const BENCH: &str = "tickstorm-bench";
const CLI: &str = "tickstorm-cli";
const TESTKIT: &str = "tickstorm-testkit";
const WEIGHT: &str = "tickstorm-weight";

/// Arrows point one way, from I/O to logic. `clock` and `edge` never see each other, nor the
/// client; only the commands of `tickstorm` put them together.
const RULES: &[Rule] = &[
    rule(TIMEBASE, &[], &[]),
    rule(TIMER, &[TIMEBASE], &[]),
    rule(PROTOCOL, &[TIMEBASE], &[]),
    rule(BUS, &[TIMEBASE], &[TESTKIT]),
    // For the connection to NATS, which both daemons have.
    rule(SERVICE, &[BUS], &[TESTKIT]),
    rule(CLOCK, &[TIMEBASE, BUS, SERVICE], &[TESTKIT]),
    // Its tests depend on it with its feature `bench`.
    rule(
        EDGE,
        &[TIMEBASE, TIMER, PROTOCOL, BUS, SERVICE],
        &[EDGE, TESTKIT],
    ),
    rule(CLIENT, &[TIMEBASE, TIMER, PROTOCOL], &[TESTKIT]),
    rule(COMMAND, &[BUS, SERVICE, CLOCK, EDGE, CLIENT], &[TESTKIT]),
    rule(
        BENCH,
        &[TIMEBASE, PROTOCOL, SERVICE, CLOCK, EDGE, CLIENT, COMMAND],
        &[],
    ),
    rule(CLI, &[SERVICE, CLOCK, EDGE, CLIENT, COMMAND, BENCH], &[]),
    rule(TESTKIT, &[TIMEBASE, PROTOCOL], &[]),
    // It ships no more than testkit does.
    rule(WEIGHT, &[TIMEBASE, PROTOCOL, SERVICE, EDGE, TESTKIT], &[]),
    rule(
        "tickstorm-tests",
        &[TIMEBASE, CLIENT, TESTKIT],
        &[PROTOCOL, BUS],
    ),
    rule("xtask", &[], &[]),
];

/// Sans-I/O crates: no runtime, not even in their tests, so that time and bytes can only come in as
/// arguments.
const WITHOUT_TOKIO: &[&str] = &[TIMEBASE, PROTOCOL];

/// Libraries that nothing we ship or build with may bring in, and why.
const ABSENT: &[(&str, &str)] = &[
    ("ring", "the one crypto provider is aws-lc-rs"),
    ("openssl", "TLS is rustls, without a C library of the host"),
    (
        "openssl-sys",
        "TLS is rustls, without a C library of the host",
    ),
    (
        "native-tls",
        "TLS is rustls, without a C library of the host",
    ),
];

/// Fails with every violation in the workspace as cargo resolves it.
pub(crate) fn check() -> Result<()> {
    let metadata = cargo("metadata --format-version 1 --locked").output()?;
    let graph = Graph::from_metadata(&metadata).context("cargo's metadata are not understood")?;
    let violations = violations(&graph);
    ensure!(
        violations.is_empty(),
        "the dependency rule is broken\n  - {}",
        violations.join("\n  - ")
    );
    Ok(())
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut found = strangers(graph);
    for rule in RULES {
        found.extend(forbidden_edges(graph, rule));
    }
    for name in WITHOUT_TOKIO {
        if let Some(path) = graph.path(
            &[name],
            &[Purpose::Product, Purpose::Build, Purpose::Test],
            "tokio",
        ) {
            found.push(format!(
                "{path}: {name} does no I/O and may not depend on tokio"
            ));
        }
    }
    let members: Vec<_> = graph.members().collect();
    for (library, reason) in ABSENT {
        if let Some(path) = graph.path(&members, &[Purpose::Product, Purpose::Build], library) {
            found.push(format!("{path}: {library} may not be used, since {reason}"));
        }
    }
    found
}

/// Crates without a rule, and rules without a crate: either would make the rest of the check look
/// at nothing.
fn strangers(graph: &Graph) -> Vec<String> {
    let unruled = graph
        .members()
        .filter(|member| RULES.iter().all(|rule| rule.name != *member))
        .map(|member| format!("{member} has no line in xtask's table of allowed edges"));
    let unused = RULES
        .iter()
        .filter(|rule| graph.members().all(|member| member != rule.name))
        .map(|rule| format!("{} has a line in xtask's table but is no member", rule.name));
    unruled.chain(unused).collect()
}

fn forbidden_edges(graph: &Graph, rule: &Rule) -> Vec<String> {
    graph
        .members()
        .flat_map(|member| {
            graph
                .kinds(rule.name, member)
                .filter(move |kind| !allows(rule, *kind, member))
                .map(move |kind| format!("{} → {member} is not allowed in {kind}", rule.name))
        })
        .collect()
}

fn allows(rule: &Rule, kind: Purpose, to: &str) -> bool {
    match kind {
        Purpose::Product | Purpose::Build => rule.product.contains(&to),
        Purpose::Test => rule.product.contains(&to) || rule.tests.contains(&to),
    }
}
