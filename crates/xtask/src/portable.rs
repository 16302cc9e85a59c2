//! Whether the client builds for other systems than this one. It is compiled and not run: nobody here has the systems.

use anyhow::{Context, Result};

use crate::command::{cargo, rustup};
use crate::tool;

const TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "x86_64-apple-darwin"];

/// Fails if the client or what it depends on calls for Linux. Checking takes no linker of the target.
pub(crate) fn check() -> Result<()> {
    tool::provide_component("clippy", "clippy")?;
    for target in TARGETS {
        // Does nothing if it is there.
        rustup(&format!("target add {target}"))
            .run()
            .with_context(|| format!("the standard library for {target} could not be installed"))?;
        cargo(&format!(
            "clippy -p tickstorm-client --locked --target {target} -- -D warnings"
        ))
        .run()?;
    }
    Ok(())
}
