//! Checks that the client compiles for other operating systems. It is compiled but not run, since
//! those systems are not available.

use std::process::Command;

use anyhow::Result;

use crate::command::cargo;
use crate::preflight::Missing;
use crate::tool;

const TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "x86_64-apple-darwin"];

/// Returns the targets whose standard library is not installed. It is not installed automatically:
/// it comes from the same server as the toolchain, which not every machine can reach.
pub(crate) fn missing() -> Option<Missing> {
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
        Missing::new(what, format!("rustup target add {missing}"))
    })
}

/// Fails if the client or one of its dependencies compiles on Linux only. Nothing is linked, so no
/// linker for the targets is needed. TLS is left out, because its cryptography needs a C compiler
/// for the target.
pub(crate) fn check() -> Result<()> {
    tool::provide_component("clippy", "clippy")?;
    for target in TARGETS {
        cargo(&format!(
            "clippy -p tickstorm-client --no-default-features --locked --target {target} \
             -- -D warnings"
        ))
        .run()?;
    }
    Ok(())
}
