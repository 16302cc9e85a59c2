//! What Kubernetes' own schema says, field by field.

use std::env;
use std::process::Command;

use tickstorm_testkit::TempDir;
use tickstorm_tests::manifests::{OVERLAYS, build};

/// Names the program; `cargo xtask test` installs it and sets this.
const PROGRAM: &str = "KUBERNETES_VALIDATE";

#[test]
fn every_overlay_is_valid_for_kubernetes_1_32_field_by_field() {
    let program = env::var(PROGRAM).unwrap_or_else(|_| "kubernetes-validate".to_owned());
    let dir = TempDir::new("manifests");
    for overlay in OVERLAYS {
        let file = dir.write(overlay, build(overlay));
        let mut command = Command::new(&program);
        let output = command
            .args(["--kubernetes-version", "1.32", "--strict"])
            .arg(&file)
            .output();
        let output = output.unwrap_or_else(|error| {
            panic!("{program}: {error}; `cargo xtask test tests` installs it, or pip install kubernetes-validate")
        });
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{overlay}: {said}");
        assert!(
            said.contains("deployment/edge"),
            "{overlay} was not looked at: {said}"
        );
    }
}
