//! The dependency graph that `cargo metadata` resolves. Nodes are names of packages: two versions
//! of a library are one node, since no rule distinguishes them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use serde::Deserialize;

/// The purpose for which a crate depends on another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    #[serde(skip)]
    Product,
    Build,
    #[serde(rename = "dev")]
    Test,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Product => "product code",
            Self::Build => "a build script",
            Self::Test => "tests",
        })
    }
}

#[derive(Default)]
pub(super) struct Graph {
    members: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<(String, Purpose)>>,
}

impl Graph {
    pub(super) fn from_metadata(json: &[u8]) -> serde_json::Result<Self> {
        let metadata: Metadata = serde_json::from_slice(json)?;
        let name_by_id: BTreeMap<_, _> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let name = |id: &String| {
            name_by_id
                .get(id.as_str())
                .unwrap_or(&id.as_str())
                .to_string()
        };

        let package_by_id: BTreeMap<_, _> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package))
            .collect();

        let mut graph = Self::default();
        for member in &metadata.workspace_members {
            graph.add_member(&name(member));
        }
        for node in &metadata.resolve.nodes {
            let package = package_by_id.get(node.id.as_str());
            for dependency in &node.deps {
                let library = name(&dependency.pkg);
                if package.is_some_and(|package| package.leaves_out(&library, &node.features)) {
                    continue;
                }
                for dep_kind in &dependency.dep_kinds {
                    let purpose = dep_kind.kind.unwrap_or(Purpose::Product);
                    graph.add_edge(&name(&node.id), &library, purpose);
                }
            }
        }
        Ok(graph)
    }

    pub(super) fn add_member(&mut self, name: &str) {
        self.members.insert(name.to_owned());
    }

    pub(super) fn add_edge(&mut self, from: &str, to: &str, purpose: Purpose) {
        self.edges
            .entry(from.to_owned())
            .or_default()
            .insert((to.to_owned(), purpose));
    }

    /// Returns the names of the workspace's crates.
    pub(super) fn members(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(String::as_str)
    }

    /// Returns the purposes for which `from` directly depends on `to`. There are none if it does
    /// not.
    pub(super) fn purposes(&self, from: &str, to: &str) -> impl Iterator<Item = Purpose> {
        self.dependencies(from)
            .filter(move |(name, _)| name == to)
            .map(|(_, purpose)| *purpose)
    }

    /// Returns a shortest path from one of the crates in `from` to `library`, as `a → b → library`.
    /// The first step follows dependencies for one of `purposes`. Further steps follow the
    /// dependencies that a crate passes on to its dependants, which excludes its tests.
    pub(super) fn path(
        &self,
        from: &[&str],
        purposes: &[Purpose],
        library: &str,
    ) -> Option<String> {
        let mut paths: VecDeque<Vec<&str>> = from.iter().map(|name| vec![*name]).collect();
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            let (&last, is_start) = (path.last()?, path.len() == 1);
            if last == library {
                return Some(path.join(" → "));
            }
            for (next, purpose) in self.dependencies(last) {
                let counts = if is_start {
                    purposes.contains(purpose)
                } else {
                    *purpose != Purpose::Test
                };
                if counts && seen.insert(next.as_str()) {
                    paths.push_back([path.as_slice(), &[next.as_str()]].concat());
                }
            }
        }
        None
    }

    fn dependencies(&self, of: &str) -> impl Iterator<Item = &(String, Purpose)> {
        self.edges.get(of).into_iter().flatten()
    }
}

/// The fields of `cargo metadata --format-version 1` that the rules need.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    #[serde(default)]
    dependencies: Vec<Declared>,
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

impl Package {
    /// Returns whether `library` is an optional dependency that no feature in `enabled` requests.
    /// Cargo's metadata lists such a library if a feature merely refers to it with
    /// `library?/feature`.
    fn leaves_out(&self, library: &str, enabled: &[String]) -> bool {
        let declared: Vec<_> = self
            .dependencies
            .iter()
            .filter(|it| it.name == library)
            .collect();
        let requests = |feature: &String| {
            self.features.get(feature).is_some_and(|wants| {
                wants.iter().any(|wanted| {
                    let wanted = wanted.strip_prefix("dep:").unwrap_or(wanted);
                    wanted.split('/').next() == Some(library)
                })
            })
        };
        !declared.is_empty()
            && declared.iter().all(|it| it.optional && it.rename.is_none())
            && !enabled.iter().any(requests)
    }
}

/// A dependency as a manifest declares it.
#[derive(Deserialize)]
struct Declared {
    name: String,
    rename: Option<String>,
    optional: bool,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    #[serde(default)]
    features: Vec<String>,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for a dependency of the product code.
    kind: Option<Purpose>,
}
