//! [`Packages`]: what cargo knows of the packages in Cargo.lock: licences, and checksums.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::tree::Package;
use crate::command::{cargo, in_workspace};

/// The packages by name and version.
pub(super) struct Packages {
    facts_by_package: BTreeMap<Package, Facts>,
}

/// What is known of a package.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// An SPDX expression.
    pub(super) licence: Option<String>,
    pub(super) description: Option<String>,
    pub(super) repository: Option<String>,
    /// The SHA-256 checksum of the package's archive; `None` for crates of the workspace.
    pub(super) checksum: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Packages {
    /// Reads the packages that the workspace depends on.
    pub(super) fn of_workspace() -> Result<Self> {
        let metadata = cargo("metadata --format-version 1 --locked").output()?;
        let lock =
            fs::read_to_string(in_workspace("Cargo.lock")).context("could not read Cargo.lock")?;
        Self::parse(&metadata, &lock)
    }

    fn parse(metadata: &[u8], lock: &str) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_slice(metadata).context("could not parse cargo's metadata")?;
        let lock: Lock = toml::from_str(lock).context("could not parse Cargo.lock")?;
        let checksum_by_package: BTreeMap<Package, _> = lock
            .package
            .into_iter()
            .map(|locked| ((locked.name, locked.version), locked.checksum))
            .collect();
        let facts_by_package = metadata
            .packages
            .into_iter()
            .map(|described| {
                let package = (described.name, described.version);
                let facts = Facts {
                    // An old way of writing `OR`.
                    licence: described.license.map(|text| text.replace('/', " OR ")),
                    description: described.description,
                    repository: described.repository,
                    checksum: checksum_by_package.get(&package).cloned().flatten(),
                };
                (package, facts)
            })
            .collect();
        Ok(Self { facts_by_package })
    }

    /// Returns what is known of a package.
    pub(super) fn facts(&self, package: &Package) -> Result<&Facts> {
        let (name, version) = package;
        self.facts_by_package
            .get(package)
            .with_context(|| format!("cargo's metadata lacks {name} {version}"))
    }
}
