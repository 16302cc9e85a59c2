//! Local stand-ins for the images that tests run, for machines that reach no registry of images. They are made only on request:
//! nobody is to test against something else than what runs in production without knowing it.

use std::env;

use anyhow::{Context, Result};

use crate::command::{docker, shell};

/// Asks for stand-ins where it is `1`.
const REQUEST: &str = "TICKSTORM_STAND_INS";

/// The NATS that tests run; testkit names it too.
const NATS: &str = "nats:2.15-alpine";

/// Where they are asked for, makes those for images that are neither here nor can be pulled.
pub(crate) fn provide() -> Result<()> {
    if env::var(REQUEST).is_ok_and(|value| value == "1") {
        provide_nats()
    } else {
        Ok(())
    }
}

fn provide_nats() -> Result<()> {
    let is_here = docker(&format!("image inspect {NATS}")).probe().is_some();
    if is_here || docker(&format!("pull --quiet {NATS}")).probe().is_some() {
        return Ok(());
    }
    eprintln!("    {NATS} can't be pulled: making a local stand-in, since {REQUEST}=1");
    shell(include_str!("stand-in-nats.sh"), "stand-in-nats.sh", NATS)
        .run()
        .with_context(|| format!("no stand-in for {NATS}; it takes docker, pip, python3, apt-get"))
}
