//! Scans the Dockerfiles and the manifests for insecure settings with checkov: the manifests as
//! kustomize builds them, and also the files in `k8s/`, since a file may not be part of an overlay.
//! What checkov finds is changed, or answered in a comment or an annotation where it is found.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{in_workspace, program},
    preflight::Missing,
    python_tool::{self, CHECKOV, KUBECTL},
};

/// A directory for what is scanned, relative to the workspace's root.
const DIRECTORY: &str = "target/checkov/scanned";

/// The report on the latest scan.
const REPORT: &str = "target/checkov/report.json";

/// The directories that overlays refer to.
const SOURCES: [&str; 4] = ["k8s", "deploy/nats", "deploy/nats-logins", "deploy/grafana"];

/// An overlay with the component that no other one has.
const MONITORED: &str = "namespace: tickstorm\n\
     resources: [../prod]\n\
     components: [../../components/monitoring]\n";

const DOCKERFILES: [&str; 2] = ["Dockerfile.clock", "Dockerfile.edge"];

/// Returns what this machine is missing for the check.
pub(crate) fn missing() -> Option<Missing> {
    python_tool::missing(&[&KUBECTL, &CHECKOV])
}

/// Fails at the first file in which checkov finds something that is not answered there.
pub(crate) fn check() -> Result<()> {
    python_tool::provide(&[&KUBECTL, &CHECKOV])?;
    let directory = in_workspace(DIRECTORY);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let built = directory.join("built");
    fs::create_dir_all(&built)?;
    for source in SOURCES {
        copy(
            &in_workspace(source),
            &directory.join("sources").join(source),
        )
        .with_context(|| format!("could not copy {source}"))?;
    }
    let overlays = directory.join("sources/k8s/overlays");
    fs::create_dir(overlays.join("monitored"))?;
    fs::write(overlays.join("monitored/kustomization.yaml"), MONITORED)?;
    build(&overlays, &built)?;
    for scanned in ["built", "sources/k8s"] {
        scan(
            "kubernetes",
            &["--directory", &format!("{DIRECTORY}/{scanned}")],
        )?;
    }
    for dockerfile in DOCKERFILES {
        scan("dockerfile", &["--file", dockerfile])?;
    }
    Ok(())
}

/// Builds all overlays, with the example's secrets, into files in `built`.
fn build(overlays: &Path, built: &Path) -> Result<()> {
    let example = in_workspace("k8s/secrets.example");
    let mut count = 0;
    for entry in fs::read_dir(overlays)? {
        let overlay = entry?.path();
        let kustomization = fs::read_to_string(overlay.join("kustomization.yaml"))?;
        if kustomization.contains("secrets/") {
            copy(&example, &overlay.join("secrets"))?;
        }
    }
    for entry in fs::read_dir(overlays)? {
        let overlay = entry?;
        let yaml = program(
            &KUBECTL.executable(),
            &["kustomize", text(&overlay.path())?],
        )
        .output()?;
        let name = overlay.file_name();
        fs::write(built.join(name).with_extension("yaml"), yaml)?;
        count += 1;
    }
    ensure!(count > 0, "there are no overlays in {}", overlays.display());
    Ok(())
}

/// Scans files, of which there must be some that checkov understands. Their paths are relative to
/// the workspace's root: checkov skips a path in which any part begins with a dot.
fn scan(framework: &str, what: &[&str]) -> Result<()> {
    program(&CHECKOV.executable(), &["--framework", framework])
        .args(what)
        // Only failures are printed. Nothing is downloaded.
        .args(&["--compact", "--quiet", "--skip-download"])
        .args(&["--output", "cli", "--output", "json"])
        .args(&["--output-file-path", &format!("console,{REPORT}")])
        .run()?;
    let report = fs::read(in_workspace(REPORT))?;
    let report: serde_json::Value = serde_json::from_slice(&report)?;
    let passed = report["summary"]["passed"].as_u64();
    ensure!(
        passed.is_some_and(|passed| passed > 0),
        "checkov found nothing to check in {}",
        what.join(" ")
    );
    Ok(())
}

/// Copies a directory without the secrets of an installation.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "secrets" {
                copy(&entry.path(), &to)?;
            }
        } else if name != ".env" {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not valid UTF-8", path.display()))
}
