//! [`Tree`]: the dependencies that `cargo tree` lists, with the features that a build enables.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// A package: its name and its version.
pub(super) type Package = (String, String);

/// What each package is linked with.
#[derive(Debug)]
pub(super) struct Tree {
    dependencies_by_package: BTreeMap<Package, BTreeSet<Package>>,
}

impl Tree {
    /// Parses the lines of `cargo tree --prefix depth --format {p}`. Each starts with a depth. The
    /// dependencies of a package are listed once; further lines with it end with `(*)`.
    pub(super) fn parse(listed: &str) -> Result<Self> {
        let mut dependencies_by_package = BTreeMap::<Package, BTreeSet<Package>>::new();
        let mut path = Vec::<Package>::new();
        for line in listed.lines().filter(|line| !line.is_empty()) {
            let (depth, package) = parse_line(line)
                .with_context(|| format!("could not parse the line of cargo tree: {line}"))?;
            if depth > path.len() {
                bail!("cargo tree lists a package without the one that depends on it: {line}");
            }
            path.truncate(depth);
            if let Some(parent) = path.last() {
                let dependencies = dependencies_by_package.entry(parent.clone()).or_default();
                dependencies.insert(package.clone());
            }
            dependencies_by_package.entry(package.clone()).or_default();
            path.push(package);
        }
        Ok(Self {
            dependencies_by_package,
        })
    }

    /// Returns the package with this name, if there is exactly one.
    pub(super) fn find(&self, name: &str) -> Option<&Package> {
        let mut found = self
            .dependencies_by_package
            .keys()
            .filter(|(found, _)| found == name);
        found.next().filter(|_| found.next().is_none())
    }

    /// Returns `root` and everything that it depends on, also indirectly, each with its direct
    /// dependencies.
    pub(super) fn below(&self, root: &Package) -> BTreeMap<&Package, &BTreeSet<Package>> {
        let (mut reached, mut waiting) = (BTreeMap::new(), vec![root]);
        while let Some(package) = waiting.pop() {
            if let Some((package, dependencies)) =
                self.dependencies_by_package.get_key_value(package)
                && reached.insert(package, dependencies).is_none()
            {
                waiting.extend(dependencies);
            }
        }
        reached
    }
}

/// Parses a line such as `2tokio v1.54.1 (*)`.
fn parse_line(line: &str) -> Option<(usize, Package)> {
    let digits = line.find(|character: char| !character.is_ascii_digit())?;
    let (depth, rest) = line.split_at(digits);
    let mut words = rest.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some((depth.parse().ok()?, (name.to_owned(), version.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "0a v0.1.0 (/a)\n1b v1.2.3\n2c v1.0.0+x\n1c v1.0.0+x (*)\n\n\
                          0d v0.1.0 (/d)\n1b v1.2.3 (*)\n1e v2.0.0\n";

    fn package(name: &str, version: &str) -> Package {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn packages_that_are_listed_again_keep_their_dependencies() {
        let tree = Tree::parse(LISTED).unwrap();
        let d = tree.find("d").unwrap();
        let names: Vec<_> = tree.below(d).keys().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "c", "d", "e"]);
        let below = tree.below(d);
        let of_b = below[&package("b", "1.2.3")];
        assert_eq!(of_b, &BTreeSet::from([package("c", "1.0.0+x")]));
    }

    #[test]
    fn a_name_with_two_versions_is_ambiguous() {
        let tree = Tree::parse("0a v0.1.0\n1b v1.0.0\n1b v2.0.0\n").unwrap();
        assert_eq!(tree.find("b"), None);
        assert_eq!(tree.find("x"), None);
    }

    #[test]
    fn a_line_of_another_form_is_an_error() {
        for line in ["a v0.1.0", "0a", "0a 0.1.0", "1a v0.1.0"] {
            assert!(Tree::parse(line).is_err(), "{line}");
        }
    }
}
