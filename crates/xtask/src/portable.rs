//! Whether the client builds for other systems than this one. It is compiled and not run: nobody
//! here has the systems.

use std::process::Command;

use anyhow::Result;

use crate::command::cargo;
use crate::preflight::Lack;
use crate::tool;

const TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "x86_64-apple-darwin"];

/// Targets whose standard library is not installed. It comes from where the toolchain came from,
/// which is not every machine's to reach, so it is not installed here.
pub(crate) fn lack() -> Option<Lack> {
    let listed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output();
    let installed = listed.map_or(Vec::new(), |listed| listed.stdout);
    let installed = String::from_utf8_lossy(&installed);
    let is_missing = |target: &&str| !installed.lines().any(|line| line == *target);
    let missing: Vec<_> = TARGETS.into_iter().filter(is_missing).collect();
    (!missing.is_empty()).then(|| {
        let missing = missing.join(" ");
        let what = format!("the standard library for {missing}");
        Lack::new(what, format!("rustup target add {missing}"))
    })
}

/// Fails if the client or what it depends on calls for Linux. Checking takes no linker of the
/// target.
pub(crate) fn check() -> Result<()> {
    tool::provide_component("clippy", "clippy")?;
    for target in TARGETS {
        cargo(&format!(
            "clippy -p tickstorm-client --locked --target {target} -- -D warnings"
        ))
        .run()?;
    }
    Ok(())
}
