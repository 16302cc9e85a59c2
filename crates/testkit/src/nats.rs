//! A NATS server in a container, which a test can stop, start and pause. Driven by the `docker` command, whose client speaks
//! to engines of any age.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::poll_until;

/// The server that tests run; `cargo xtask test` can make a stand-in of that name.
const IMAGE: &str = "nats:2.15-alpine";

/// Until a started server listens: a container's start on a machine under load.
const START_BOUND: Duration = Duration::from_secs(60);

/// A NATS server, removed when this is dropped. It keeps its port over restarts.
#[derive(Debug)]
pub struct Nats {
    container: String,
    port: u16,
}

impl Nats {
    /// Makes a server that does not run yet; `flags` are the server's own.
    ///
    /// # Panics
    /// Where there is no container engine, or no image of the server.
    #[must_use]
    pub fn create(flags: &[&str]) -> Self {
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:4222");
        let mut arguments = vec!["create", "--publish", &publish, IMAGE];
        arguments.extend(flags);
        let container = docker(&arguments).trim().to_owned();
        Self { container, port }
    }

    /// Makes a server and starts it.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn run(flags: &[&str]) -> Self {
        let nats = Self::create(flags);
        nats.start();
        nats
    }

    /// Copies a file or a directory into it, to the path `to`.
    ///
    /// # Panics
    /// Where that fails.
    pub fn copy(&self, from: &Path, to: &str) {
        let from = from.to_str().expect("a path of ours");
        docker(&["cp", from, &format!("{}:{to}", self.container)]);
    }

    /// Its URL, without any login.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it (again); returns when it listens.
    ///
    /// # Panics
    /// Where that fails.
    pub fn start(&self) {
        docker(&["start", &self.container]);
        poll_until("the NATS server listens", START_BOUND, || self.greets());
    }

    /// Kills it.
    ///
    /// # Panics
    /// Where that fails.
    pub fn kill(&self) {
        docker(&["kill", &self.container]);
    }

    /// Stops all its threads: its connections stay, and nothing comes on them.
    ///
    /// # Panics
    /// Where that fails.
    pub fn pause(&self) {
        docker(&["pause", &self.container]);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// Where that fails.
    pub fn unpause(&self) {
        docker(&["unpause", &self.container]);
    }

    /// Whether the server itself answers, not only the engine's proxy before it: it speaks first.
    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address()) else {
            return false;
        };
        let mut greeting = [0; 4];
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .is_ok()
            && stream.read_exact(&mut greeting).is_ok()
            && &greeting == b"INFO"
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Best effort: a drop must not panic, and a container left behind is seen by `docker ps`.
        let _ = Command::new("docker")
            .args(["rm", "--force", "--volumes", &self.container])
            .output();
    }
}

/// A port that nobody has now. The engine would choose another one at each start.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output();
    let output = output.unwrap_or_else(|error| {
        panic!("these tests run NATS in a container: install Docker (its engine and its `docker` command): {error}")
    });
    assert!(
        output.status.success(),
        "`docker {}` failed; these tests need a running Docker engine and the image {IMAGE} (TICKSTORM_STAND_INS=1 cargo \
         xtask test tests makes a local one where it can't be pulled): {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
