//! `cargo xtask sbom`: writes a software bill of materials for each program, in CycloneDX's JSON
//! format. It lists what is linked into the program: neither dependencies of tests and build
//! scripts nor procedural macros are. The same sources yield the same bytes, so a bill has neither
//! a time nor a serial number.

mod bill;
mod packages;
mod tree;

use std::fs;

use anyhow::{Context, Result};

use self::{packages::Packages, tree::Tree};
use crate::command::{cargo, in_workspace};

/// The directory for the bills, relative to the workspace's root.
const DIRECTORY: &str = "target/sbom";

/// The system for which dependencies are listed: that of the images.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program that is shipped.
struct Program {
    name: &'static str,
    package: &'static str,
    /// The options that select the packages with which it is built. They share their features.
    built_with: &'static str,
}

/// The options with which the images' programs are built.
const DAEMONS: &str = "-p tickstorm-clock -p tickstorm-edge";

const PROGRAMS: [Program; 3] = [
    Program {
        name: "tickstorm-clock",
        package: "tickstorm-clock",
        built_with: DAEMONS,
    },
    Program {
        name: "tickstorm-edge",
        package: "tickstorm-edge",
        built_with: DAEMONS,
    },
    Program {
        name: "tickstorm",
        package: "tickstorm-cli",
        built_with: "-p tickstorm-cli",
    },
];

/// Writes the bills of all programs. Fails if one does not conform to the specification, or if it
/// lacks a licence or a checksum.
pub(crate) fn write() -> Result<()> {
    let packages = Packages::of_workspace()?;
    let directory = in_workspace(DIRECTORY);
    fs::create_dir_all(&directory)
        .with_context(|| format!("could not create {}", directory.display()))?;
    for program in PROGRAMS {
        let bill = bill_of(&program, &packages)?;
        let file = format!("{}.cdx.json", program.name);
        fs::write(directory.join(&file), bill)
            .with_context(|| format!("could not write {DIRECTORY}/{file}"))?;
        eprintln!("    {DIRECTORY}/{file}");
    }
    Ok(())
}

fn bill_of(program: &Program, packages: &Packages) -> Result<String> {
    let listed = cargo(&format!(
        "tree --locked --edges normal,no-proc-macro --prefix depth --format {{p}} \
         --target {TARGET} {}",
        program.built_with
    ))
    .output()?;
    let tree = Tree::parse(&String::from_utf8(listed)?)?;
    bill::write(program.name, program.package, &tree, packages)
        .with_context(|| format!("could not make the bill of {}", program.name))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    fn bills() -> Vec<(&'static str, String)> {
        let packages = Packages::of_workspace().unwrap();
        let of = |program: Program| (program.name, bill_of(&program, &packages).unwrap());
        PROGRAMS.into_iter().map(of).collect()
    }

    fn components(bill: &Value) -> BTreeMap<&str, &Value> {
        let components = bill["components"].as_array().unwrap();
        let name = |component: &'_ Value| component["name"].as_str().unwrap().to_owned();
        let by_name: BTreeMap<_, _> = components
            .iter()
            .map(|component| (component["name"].as_str().unwrap(), component))
            .collect();
        assert!(by_name.len() > 50, "{:?}", by_name.keys());
        assert!(
            components
                .iter()
                .all(|component| !name(component).is_empty())
        );
        by_name
    }

    #[test]
    fn a_bill_lists_what_is_linked_and_nothing_else() {
        for (program, bill) in bills() {
            let bill: Value = serde_json::from_str(&bill).unwrap();
            assert_eq!(bill["bomFormat"], "CycloneDX");
            assert_eq!(bill["specVersion"], "1.5");
            assert_eq!(bill["metadata"]["component"]["name"], program);
            let components = components(&bill);
            for linked in ["tokio", "rustls", "aws-lc-sys", "tickstorm-service"] {
                assert!(components.contains_key(linked), "{program} lacks {linked}");
            }
            for absent in [
                // Of tests, of build scripts, and procedural macros.
                "proptest",
                "tickstorm-testkit",
                "protox",
                "prost-build",
                "serde_derive",
                "thiserror-impl",
                // For other systems.
                "windows-sys",
            ] {
                assert!(!components.contains_key(absent), "{program} has {absent}");
            }
            let has_edge = components.contains_key("tickstorm-edge");
            assert_eq!(has_edge, program == "tickstorm", "{program}");
        }
    }

    #[test]
    fn components_of_the_registry_have_a_purl_a_licence_and_a_checksum() {
        for (program, bill) in bills() {
            let bill: Value = serde_json::from_str(&bill).unwrap();
            for (name, component) in components(&bill) {
                let licences = component["licenses"].as_array().unwrap();
                assert_eq!(licences.len(), 1, "{program}: {name}");
                let version = component["version"].as_str().unwrap();
                if name.starts_with("tickstorm-") {
                    assert!(component["purl"].is_null(), "{component}");
                    continue;
                }
                // A plus sign in a version is escaped.
                let version = version.replace('+', "%2B");
                assert_eq!(component["purl"], format!("pkg:cargo/{name}@{version}"));
                let hash = &component["hashes"][0];
                assert_eq!(hash["alg"], "SHA-256", "{program}: {name}");
                assert_eq!(hash["content"].as_str().unwrap().len(), 64);
            }
        }
    }

    #[test]
    fn the_dependency_graph_reaches_every_component_from_the_program() {
        for (program, bill) in bills() {
            let bill: Value = serde_json::from_str(&bill).unwrap();
            let root = bill["metadata"]["component"]["bom-ref"].as_str().unwrap();
            let edges: BTreeMap<&str, Vec<&str>> = bill["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|node| {
                    let to = node["dependsOn"].as_array().into_iter().flatten();
                    let to = to.map(|to| to.as_str().unwrap()).collect();
                    (node["ref"].as_str().unwrap(), to)
                })
                .collect();
            let (mut reached, mut waiting) = (BTreeSet::new(), vec![root]);
            while let Some(at) = waiting.pop() {
                if reached.insert(at) {
                    waiting.extend(&edges[at]);
                }
            }
            let components = bill["components"].as_array().unwrap();
            let refs = components
                .iter()
                .map(|component| component["bom-ref"].as_str().unwrap());
            let all: BTreeSet<_> = refs.chain([root]).collect();
            assert_eq!(reached, all, "{program}");
        }
    }

    #[test]
    fn the_same_sources_yield_the_same_bytes() {
        assert_eq!(bills(), bills());
    }
}
