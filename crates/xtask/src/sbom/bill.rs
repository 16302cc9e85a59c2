//! A bill of materials in the terms of CycloneDX.

use anyhow::{Context, Result, bail, ensure};
use cyclonedx_bom::{
    external_models::uri::{Purl, Uri},
    models::{
        bom::{Bom, SpecVersion},
        component::{Classification, Component, Components},
        dependency::{Dependencies, Dependency},
        external_reference::{ExternalReference, ExternalReferenceType, ExternalReferences},
        hash::{Hash, HashAlgorithm, HashValue, Hashes},
        license::{LicenseChoice, Licenses},
        metadata::Metadata,
    },
    prelude::{NormalizedString, Validate as _},
};

use super::{
    packages::Packages,
    tree::{Package, Tree},
};

const VERSION: SpecVersion = SpecVersion::V1_5;

/// Returns the bill of the program that `package` builds, as JSON.
pub(super) fn write(
    program: &str,
    package: &str,
    tree: &Tree,
    packages: &Packages,
) -> Result<String> {
    let root = tree
        .find(package)
        .with_context(|| format!("cargo tree does not list {package}"))?;
    let linked = tree.below(root);
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for (package, needs) in linked {
        dependencies.push(Dependency {
            dependency_ref: reference(package),
            dependencies: needs.iter().map(reference).collect(),
        });
        if package != root {
            components.push(component(package, packages)?);
        }
    }
    let mut itself = component(root, packages)?;
    itself.component_type = Classification::Application;
    itself.name = NormalizedString::new(program);
    let bom = Bom {
        // A serial number would differ each time.
        serial_number: None,
        metadata: Some(Metadata {
            component: Some(itself),
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(Dependencies(dependencies)),
        spec_version: VERSION,
        ..Bom::default()
    };
    let checked = bom.validate_version(VERSION);
    if checked.has_errors() {
        bail!("it does not conform to the specification: {checked:?}");
    }
    let mut json = Vec::new();
    bom.output_as_json(&mut json, VERSION)?;
    json.push(b'\n');
    Ok(String::from_utf8(json)?)
}

fn reference((name, version): &Package) -> String {
    format!("{name}@{version}")
}

/// Returns a library. A crate of the workspace has no package URL, because it is in no registry.
fn component(package: &Package, packages: &Packages) -> Result<Component> {
    let (name, version) = package;
    let facts = packages.facts(package)?;
    let mut component = Component::new(
        Classification::Library,
        name,
        version,
        Some(reference(package)),
    );
    let licence = facts.licence.as_deref();
    let licence = licence.with_context(|| format!("{name} {version} has no licence"))?;
    component.licenses = Some(Licenses(vec![LicenseChoice::expression(licence)]));
    component.description = facts.description.as_deref().map(NormalizedString::new);
    if let Some(repository) = &facts.repository {
        let reference = ExternalReference::new(ExternalReferenceType::Vcs, Uri::new(repository));
        component.external_references = Some(ExternalReferences(vec![reference]));
    }
    let is_ours = name.starts_with("tickstorm-");
    ensure!(
        is_ours == facts.checksum.is_none(),
        "{name} {version} should have a checksum in Cargo.lock only if it comes from a registry"
    );
    if let Some(checksum) = &facts.checksum {
        component.purl = Some(Purl::new("cargo", name, version)?);
        component.hashes = Some(Hashes(vec![Hash {
            alg: HashAlgorithm::SHA_256,
            content: HashValue(checksum.clone()),
        }]));
    }
    Ok(component)
}
