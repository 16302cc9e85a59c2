//! Records the compiler and the target, for the metric `tickstorm_build_info`. The same compiler
//! and the same target give the same program.

use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").ok_or("cargo names the compiler in RUSTC")?;
    let answer = Command::new(rustc).arg("--version").output()?;
    let answer = String::from_utf8(answer.stdout)?;
    // Such as `rustc 1.95.0 (59807616e 2026-04-14)`.
    let version = answer.split_whitespace().nth(1);
    let version = version.ok_or("the compiler tells its version")?;
    println!("cargo::rustc-env=TICKSTORM_RUST_VERSION={version}");
    println!("cargo::rustc-env=TICKSTORM_TARGET={}", env::var("TARGET")?);
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
