//! A NATS server in a container, which a test can stop, start and pause. Driven by the `docker` command, whose client speaks
//! to engines of any age.

use std::array::from_fn;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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
    /// The network of its cluster, where it is in one.
    network: Option<Arc<Network>>,
}

/// A network between containers, removed with the last one on it.
#[derive(Debug)]
struct Network(String);

impl Nats {
    /// Makes a server that does not run yet; `flags` are the server's own.
    ///
    /// # Panics
    /// Where there is no container engine, or no image of the server.
    #[must_use]
    pub fn create(flags: &[&str]) -> Self {
        Self::create_with(&[], flags)
    }

    /// Makes and starts a cluster of `N` servers, which know each other as `nats-0`, `nats-1` and so on; returns when each has a
    /// route to every other one.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn cluster<const N: usize>() -> [Self; N] {
        let network = docker(&["network", "create", &network_name()]);
        let network = Arc::new(Network(network.trim().to_owned()));
        let routes: Vec<_> = (0..N)
            .map(|index| format!("nats://nats-{index}:6222"))
            .collect();
        let routes = format!("--routes={}", routes.join(","));
        let servers = from_fn(|index| {
            let alias = format!("--network-alias=nats-{index}");
            let mut server = Self::create_with(
                &["--network", &network.0, &alias],
                &[
                    "--cluster_name=tests",
                    "--cluster=nats://0.0.0.0:6222",
                    &routes,
                ],
            );
            server.network = Some(Arc::clone(&network));
            server.start();
            server
        });
        poll_until("the servers are a cluster", START_BOUND, || {
            servers.iter().all(|server| server.knows_of() == N)
        });
        servers
    }

    fn create_with(engine: &[&str], flags: &[&str]) -> Self {
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:4222");
        let mut arguments = vec!["create", "--publish", &publish];
        arguments.extend(engine);
        arguments.push(IMAGE);
        arguments.extend(flags);
        let container = docker(&arguments).trim().to_owned();
        Self {
            container,
            port,
            network: None,
        }
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
        self.greeting().is_some()
    }

    /// How many servers of its cluster it tells clients of, itself included.
    fn knows_of(&self) -> usize {
        let greeting = self.greeting().unwrap_or_default();
        let urls = greeting.split_once(r#""connect_urls":["#);
        let urls = urls.and_then(|(_, rest)| rest.split_once(']'));
        urls.map_or(0, |(urls, _)| urls.split(',').count())
    }

    fn greeting(&self) -> Option<String> {
        let stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.starts_with("INFO ").then_some(line)
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

impl Drop for Network {
    fn drop(&mut self) {
        // Best effort, as for the servers on it, which are gone by now.
        let _ = Command::new("docker")
            .args(["network", "rm", &self.0])
            .output();
    }
}

/// A name that no other network has.
fn network_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tickstorm-{}-{number}", std::process::id())
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
