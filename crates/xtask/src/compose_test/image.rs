//! Checks that an image contains one small program, which runs without privileges, and no shell.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::command::docker;

/// The size that the image's binary must stay below.
const BINARY_BYTES_MAX: usize = 20_000_000;

/// The user and group as numbers: an orchestrator can't verify that a name is not root's.
const USER: &str = "65532:65532";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One of TickStorm's images, identified by the name of its program.
pub(crate) struct Image {
    program: &'static str,
}

/// The engine's description of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    config: ImageConfig,
}

/// The configuration that containers of the image start with.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    user: String,
    entrypoint: Vec<String>,
    healthcheck: Healthcheck,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    test: Vec<String>,
}

impl Image {
    pub(crate) const fn new(program: &'static str) -> Self {
        Self { program }
    }

    /// Fails at the first property of the image that is wrong.
    pub(crate) fn check(&self) -> Result<()> {
        let image = format!("{}:local", self.program);
        self.check_config(&image)
            .and_then(|()| self.check_files(&image))
            .and_then(|()| self.check_run(&image))
            .with_context(|| format!("the image {image} is wrong"))
    }

    fn check_config(&self, image: &str) -> Result<()> {
        let json = docker(&format!("image inspect {image}")).output()?;
        let [Inspected { config }] = serde_json::from_slice::<[Inspected; 1]>(&json)?;
        let program = format!("/{}", self.program);
        ensure!(
            config.user == USER,
            "it runs as {:?} instead of {USER:?}",
            config.user
        );
        ensure!(
            config.entrypoint == [program.as_str()],
            "its entrypoint is {:?} instead of {program:?}",
            config.entrypoint
        );
        ensure!(
            config.healthcheck.test == ["CMD", program.as_str(), "healthcheck"],
            "its health check is {:?} instead of `{program} healthcheck`",
            config.healthcheck.test
        );
        Ok(())
    }

    fn check_files(&self, image: &str) -> Result<()> {
        let container = docker(&format!("create {image}")).output()?;
        let container = String::from_utf8(container)?;
        let container = container.trim();
        let binary = docker(&format!("cp {container}:/{} -", self.program)).output();
        let shell = docker(&format!("cp {container}:/bin/sh -")).probe();
        docker(&format!("rm {container}")).output()?;
        // The size of a tar archive that contains just this file, which is hardly larger than the
        // file.
        let bytes = binary?.len();
        ensure!(
            bytes < BINARY_BYTES_MAX,
            "its program has {bytes} bytes, but must have fewer than {BINARY_BYTES_MAX}"
        );
        ensure!(shell.is_none(), "it has a shell");
        eprintln!("    {image}: {:.1} MB", bytes as f64 / 1e6);
        Ok(())
    }

    /// Fails unless the program starts without privileges on a read-only file system and reports
    /// this version.
    fn check_run(&self, image: &str) -> Result<()> {
        let version = docker(&format!(
            "run --rm --read-only --cap-drop=ALL --security-opt=no-new-privileges {image} --version"
        ))
        .output()?;
        let version = String::from_utf8(version)?;
        let wanted = format!("{} {VERSION}", self.program);
        ensure!(
            version.trim() == wanted,
            "its `--version` prints {version:?} instead of {wanted:?}"
        );
        Ok(())
    }
}
