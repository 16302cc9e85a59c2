//! Shows for each kind of rule that a violation is found, in a workspace with all crates and
//! additional dependencies.

use serde_json::json;

use super::*;

/// Returns a workspace with the crates of the table, all dependencies that it allows, and `more`.
fn workspace(more: &[(&str, &str, Purpose)]) -> Graph {
    let mut graph = Graph::default();
    for rule in RULES {
        graph.add_member(rule.name);
        for to in rule.product {
            graph.add_edge(rule.name, to, Purpose::Product);
        }
        for to in rule.tests {
            graph.add_edge(rule.name, to, Purpose::Test);
        }
    }
    for (from, to, purpose) in more {
        graph.add_edge(from, to, *purpose);
    }
    graph
}

/// Returns the only violation in a workspace with the dependencies `more` in addition to the
/// allowed ones.
fn violation(more: &[(&str, &str, Purpose)]) -> String {
    let mut found = violations(&workspace(more));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn allowed_dependencies_are_no_violation() {
    let found = violations(&workspace(&[(EDGE, "tokio", Purpose::Product)]));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_forbidden_dependency_is_found_in_product_code_in_build_scripts_and_in_tests() {
    for purpose in [Purpose::Product, Purpose::Build, Purpose::Test] {
        assert_eq!(
            violation(&[(EDGE, CLOCK, purpose)]),
            format!("{EDGE} → {CLOCK} is not allowed in {purpose}")
        );
    }
}

#[test]
fn testkit_is_for_tests_only() {
    let found = violation(&[(CLIENT, TESTKIT, Purpose::Product)]);
    assert!(found.ends_with("is not allowed in product code"), "{found}");
}

#[test]
fn tokio_in_a_sans_io_crate_is_found_even_in_its_tests() {
    for purpose in [Purpose::Product, Purpose::Build, Purpose::Test] {
        let found = violation(&[(PROTOCOL, "tokio", purpose)]);
        assert!(found.starts_with("tickstorm-protocol → tokio:"), "{found}");
    }
}

#[test]
fn an_indirect_dependency_on_tokio_is_found_with_its_path() {
    let found = violation(&[
        (PROTOCOL, "codec", Purpose::Product),
        ("codec", "io", Purpose::Build),
        ("io", "tokio", Purpose::Product),
    ]);
    assert!(
        found.starts_with("tickstorm-protocol → codec → io → tokio:"),
        "{found}"
    );
}

#[test]
fn dependencies_of_a_librarys_tests_do_not_count() {
    let found = violations(&workspace(&[
        (PROTOCOL, "codec", Purpose::Product),
        ("codec", "tokio", Purpose::Test),
        (EDGE, "codec", Purpose::Product),
        ("codec", "ring", Purpose::Test),
    ]));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_banned_library_is_found_behind_a_build_script() {
    let found = violation(&[
        (BUS, "fetcher", Purpose::Build),
        ("fetcher", "ring", Purpose::Product),
    ]);
    assert!(
        found.starts_with("tickstorm-bus → fetcher → ring:"),
        "{found}"
    );
}

#[test]
fn a_crate_without_a_rule_and_a_rule_without_a_crate_are_found() {
    let mut graph = workspace(&[]);
    graph.add_member("tickstorm-new");
    assert!(violations(&graph)[0].starts_with("tickstorm-new has no rule"));

    let found = violations(&Graph::default());
    assert_eq!(found.len(), RULES.len(), "{found:#?}");
}

#[test]
fn all_three_purposes_are_read_from_cargos_metadata() {
    let metadata = json!({
        "packages": [{"id": "path#a@1", "name": "a"}, {"id": "registry#b@2", "name": "b"}],
        "workspace_members": ["path#a@1"],
        "resolve": {"nodes": [{
            "id": "path#a@1",
            "deps": [{"pkg": "registry#b@2", "dep_kinds": [
                {"kind": null, "target": null}, {"kind": "build"}, {"kind": "dev"},
            ]}],
        }]},
    });
    let graph = Graph::from_metadata(metadata.to_string().as_bytes()).unwrap();
    assert_eq!(graph.members().collect::<Vec<_>>(), ["a"]);
    assert_eq!(
        graph.purposes("a", "b").collect::<Vec<_>>(),
        [Purpose::Product, Purpose::Build, Purpose::Test]
    );
}

#[test]
fn a_library_that_features_refer_to_only_weakly_is_no_dependency() {
    let metadata = |wanted: &str| {
        format!(
            r#"{{"packages": [
                {{"id": "a 1", "name": "a", "features": {{"f": ["{wanted}"]}},
                 "dependencies": [{{"name": "ring", "rename": null, "optional": true}}]}},
                {{"id": "ring 1", "name": "ring"}}],
              "workspace_members": ["a 1"],
              "resolve": {{"nodes": [{{"id": "a 1", "features": ["f"],
                "deps": [{{"pkg": "ring 1", "dep_kinds": [{{"kind": null}}]}}]}}]}}}}"#
        )
    };
    for (wanted, is_dependency) in [
        ("ring?/std", false),
        ("dep:ring", true),
        ("ring", true),
        ("ring/std", true),
    ] {
        let graph = Graph::from_metadata(metadata(wanted).as_bytes()).unwrap();
        let path = graph.path(&["a"], &[Purpose::Product], "ring");
        assert_eq!(path.is_some(), is_dependency, "{wanted}");
    }
}
