//! Validates every field of the manifests with Kubernetes' own schemas.

use std::process::Command;

use tickstorm_testkit::{TempDir, tool};
use tickstorm_tests::manifests::{OVERLAYS, build};

const PROGRAM: &str = "kubernetes-validate";

#[test]
fn every_field_of_every_overlay_is_valid_for_kubernetes_1_32() {
    let dir = TempDir::new("manifests");
    for overlay in OVERLAYS {
        let file = dir.write(overlay, build(overlay));
        let mut command = Command::new(tool(PROGRAM));
        let output = command
            .args(["--kubernetes-version", "1.32", "--strict"])
            .arg(&file)
            .output();
        let output = output.unwrap_or_else(|error| {
            panic!("could not run {PROGRAM}, which `cargo xtask test tests` installs: {error}")
        });
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{overlay}: {printed}");
        assert!(
            printed.contains("deployment/edge"),
            "{overlay} was not validated: {printed}"
        );
    }
}
