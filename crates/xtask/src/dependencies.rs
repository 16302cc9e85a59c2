//! The dependency rule: the dependencies that are allowed between the workspace's crates, the
//! crates that must not depend on tokio, and the libraries that must not be in the tree at all.
//!
//! The rule is checked against the graph that cargo resolves, not against the manifests. To allow a
//! new dependency between crates, change the table here and the arrows in ARCHITECTURE.md, and give
//! the reason.

mod graph;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, ensure};

use self::graph::{Graph, Purpose};
use crate::command::cargo;

/// The crates of the workspace that one crate may depend on directly.
struct Rule {
    name: &'static str,
    /// The crates that its product code and its build script may use.
    product: &'static [&'static str],
    /// The crates that its tests may use in addition.
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
const TLS: &str = "tickstorm-tls";
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
const ABUSE: &str = "tickstorm-abuse";

/// One rule per crate. Dependencies point one way, from I/O to logic. `clock`, `edge` and `client`
/// do not depend on each other; only the commands of `tickstorm` combine them.
const RULES: &[Rule] = &[
    rule(TIMEBASE, &[], &[]),
    rule(TIMER, &[TIMEBASE], &[]),
    rule(PROTOCOL, &[TIMEBASE], &[]),
    // The tests depend on the crate with its feature `bench`.
    rule(TLS, &[], &[TLS]),
    rule(BUS, &[TIMEBASE], &[TESTKIT]),
    // Both daemons connect to NATS through this crate, and their admin ports may have TLS. Clock
    // ids are values of both daemons' settings.
    rule(SERVICE, &[TIMEBASE, TLS, BUS], &[TESTKIT]),
    rule(CLOCK, &[TIMEBASE, BUS, SERVICE], &[TESTKIT]),
    // The edge's tests depend on the edge with its feature `bench`.
    rule(
        EDGE,
        &[TIMEBASE, TIMER, PROTOCOL, TLS, BUS, SERVICE],
        &[EDGE, TESTKIT],
    ),
    rule(CLIENT, &[TIMEBASE, TIMER, PROTOCOL], &[TESTKIT]),
    rule(
        COMMAND,
        &[TIMEBASE, BUS, SERVICE, CLOCK, EDGE, CLIENT],
        &[TESTKIT],
    ),
    rule(
        BENCH,
        &[
            TIMEBASE, PROTOCOL, TLS, SERVICE, CLOCK, EDGE, CLIENT, COMMAND,
        ],
        &[],
    ),
    // `check` speaks the protocol without a client.
    rule(
        CLI,
        &[
            TIMEBASE, PROTOCOL, SERVICE, CLOCK, EDGE, CLIENT, COMMAND, BENCH,
        ],
        &[],
    ),
    rule(TESTKIT, &[TIMEBASE, PROTOCOL], &[]),
    // Like testkit, it is not shipped, so its product code may use testkit.
    rule(WEIGHT, &[TIMEBASE, PROTOCOL, SERVICE, EDGE, TESTKIT], &[]),
    // Nor is this shipped. It shares the edge process and the clients of `bench`.
    rule(
        ABUSE,
        &[
            TIMEBASE, PROTOCOL, TLS, BUS, SERVICE, COMMAND, BENCH, TESTKIT,
        ],
        &[],
    ),
    rule(
        "tickstorm-tests",
        &[TIMEBASE, CLIENT, TESTKIT],
        &[PROTOCOL, BUS],
    ),
    rule("xtask", &[], &[]),
];

/// The sans-I/O crates. They use no async runtime, not even in their tests, so that time and bytes
/// can reach them only as arguments.
const WITHOUT_TOKIO: &[&str] = &[TIMEBASE, PROTOCOL, TLS];

/// Libraries that neither product code nor build scripts may depend on, even indirectly, each with
/// the reason.
const ABSENT: &[(&str, &str)] = &[
    ("ring", "the only crypto provider is aws-lc-rs"),
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

/// Fails with all violations in the dependency graph that cargo resolves for the workspace.
pub(crate) fn check() -> Result<()> {
    let metadata = cargo("metadata --format-version 1 --locked").output()?;
    let graph = Graph::from_metadata(&metadata).context("could not parse cargo's metadata")?;
    let violations = violations(&graph);
    ensure!(
        violations.is_empty(),
        "the dependency rule is violated\n  - {}",
        violations.join("\n  - ")
    );
    Ok(())
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut found = mismatches(graph);
    for rule in RULES {
        found.extend(forbidden_dependencies(graph, rule));
    }
    for name in WITHOUT_TOKIO {
        if let Some(path) = graph.path(
            &[name],
            &[Purpose::Product, Purpose::Build, Purpose::Test],
            "tokio",
        ) {
            found.push(format!(
                "{path}: {name} does no I/O and must not depend on tokio"
            ));
        }
    }
    let members: Vec<_> = graph.members().collect();
    for (library, reason) in ABSENT {
        if let Some(path) = graph.path(&members, &[Purpose::Product, Purpose::Build], library) {
            found.push(format!(
                "{path}: {library} must not be used, since {reason}"
            ));
        }
    }
    found
}

/// Returns the crates without a rule and the rules without a crate, both of which the other checks
/// would miss.
fn mismatches(graph: &Graph) -> Vec<String> {
    let unruled = graph
        .members()
        .filter(|member| RULES.iter().all(|rule| rule.name != *member))
        .map(|member| format!("{member} has no rule in xtask's table of allowed dependencies"));
    let unused = RULES
        .iter()
        .filter(|rule| graph.members().all(|member| member != rule.name))
        .map(|rule| {
            format!(
                "{} has a rule in xtask's table but is not a crate of the workspace",
                rule.name
            )
        });
    unruled.chain(unused).collect()
}

fn forbidden_dependencies(graph: &Graph, rule: &Rule) -> Vec<String> {
    graph
        .members()
        .flat_map(|member| {
            graph
                .purposes(rule.name, member)
                .filter(move |purpose| !allows(rule, *purpose, member))
                .map(move |purpose| format!("{} → {member} is not allowed in {purpose}", rule.name))
        })
        .collect()
}

fn allows(rule: &Rule, purpose: Purpose, to: &str) -> bool {
    match purpose {
        Purpose::Product | Purpose::Build => rule.product.contains(&to),
        Purpose::Test => rule.product.contains(&to) || rule.tests.contains(&to),
    }
}
