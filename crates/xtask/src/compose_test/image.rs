//! What an image of ours must be: one small program that runs without rights, and nothing else that could be run.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::command::docker;

/// A binary in it is smaller than that.
const BINARY_BYTES_MAX: usize = 20_000_000;

/// By number, since an orchestrator can't see that a name is not root's.
const USER: &str = "65532:65532";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One of our images, by the name of its program.
pub(crate) struct Image {
    program: &'static str,
}

/// As the engine tells it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    config: ImageConfig,
}

/// What a container of it starts with.
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

    /// Fails with what is not as it must be.
    pub(crate) fn check(&self) -> Result<()> {
        let image = format!("{}:local", self.program);
        self.check_config(&image)
            .and_then(|()| self.check_files(&image))
            .and_then(|()| self.check_run(&image))
            .with_context(|| format!("the image {image} is not as it must be"))
    }

    fn check_config(&self, image: &str) -> Result<()> {
        let json = docker(&format!("image inspect {image}")).output()?;
        let [Inspected { config }] = serde_json::from_slice::<[Inspected; 1]>(&json)?;
        let program = format!("/{}", self.program);
        ensure!(config.user == USER, "it runs as {:?}", config.user);
        ensure!(
            config.entrypoint == [program.as_str()],
            "it starts {:?}",
            config.entrypoint
        );
        ensure!(
            config.healthcheck.test == ["CMD", program.as_str(), "healthcheck"],
            "its probe is {:?}",
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
        // An archive with one file in it, which is hardly larger than the file.
        let bytes = binary?.len();
        ensure!(
            bytes < BINARY_BYTES_MAX,
            "its program has {bytes} bytes; {BINARY_BYTES_MAX} are allowed"
        );
        ensure!(shell.is_none(), "it has a shell");
        eprintln!("    {image}: {:.1} MB", bytes as f64 / 1e6);
        Ok(())
    }

    /// Its program starts without rights and without a place to write to, and is of this version.
    fn check_run(&self, image: &str) -> Result<()> {
        let version = docker(&format!(
            "run --rm --read-only --cap-drop=ALL --security-opt=no-new-privileges {image} --version"
        ))
        .output()?;
        let version = String::from_utf8(version)?;
        let wanted = format!("{} {VERSION}", self.program);
        ensure!(
            version.trim() == wanted,
            "it calls itself {version:?} instead of {wanted:?}"
        );
        Ok(())
    }
}
