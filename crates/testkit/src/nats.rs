//! A NATS server in a container, which a test can kill, start and pause. testcontainers drives the engine, on a runtime of its
//! own: the calls here block, so that tests of any kind can make them, and a container outlives no test.

use std::array::from_fn;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, mpsc};
use std::time::Duration;

use testcontainers::core::IntoContainerPort;
use testcontainers::core::client::{ClientError, docker_client_instance};
use testcontainers::runners::AsyncRunner;
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError,
};
use tokio::runtime::{Builder, Runtime};

use crate::{ReservedAddr, poll_until};

/// The server that tests run; `cargo xtask test` can make a stand-in of that name.
const IMAGE: (&str, &str) = ("nats", "2.15-alpine");

/// Where the server listens for clients, and for the other servers of its cluster.
const CLIENTS_PORT: u16 = 4222;
const ROUTES_PORT: u16 = 6222;

/// Until a started server listens: a container's start on a machine under load.
const START_BOUND: Duration = Duration::from_secs(60);

/// A NATS server, removed when this is dropped. It keeps its port over restarts.
#[derive(Debug)]
pub struct Nats {
    place: ReservedAddr,
    flags: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    /// Where it is in a cluster: the network's name, and its own name on it.
    seat: Option<(String, String)>,
    /// Made by the first start.
    container: OnceLock<Arc<ContainerAsync<GenericImage>>>,
}

impl Nats {
    /// A server that does not run yet; `flags` are its own.
    ///
    /// # Panics
    /// Where there is no free port.
    #[must_use]
    pub fn create(flags: &[&str]) -> Self {
        Self {
            place: ReservedAddr::reserve(),
            flags: flags.iter().map(ToString::to_string).collect(),
            files: Vec::new(),
            seat: None,
            container: OnceLock::new(),
        }
    }

    /// Gives a server that has not run yet a file.
    #[must_use]
    pub fn with_file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.to_owned(), content.into()));
        self
    }

    /// Makes and starts a server.
    ///
    /// # Panics
    /// Where there is no container engine, or no image of the server.
    #[must_use]
    pub fn run(flags: &[&str]) -> Self {
        let nats = Self::create(flags);
        nats.start();
        nats
    }

    /// Makes and starts a cluster of `N` servers on a network of their own; returns when each has a route to every other one.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn cluster<const N: usize>() -> [Self; N] {
        let network = network_name();
        let names: [String; N] = from_fn(|index| format!("{network}-{index}"));
        let routes = names
            .each_ref()
            .map(|name| format!("nats://{name}:{ROUTES_PORT}"));
        let routes = format!("--routes={}", routes.join(","));
        let listen = format!("--cluster=nats://0.0.0.0:{ROUTES_PORT}");
        let servers = names.map(|name| {
            let mut server = Self::create(&["--cluster_name=tests", &listen, &routes]);
            server.seat = Some((network.clone(), name));
            server.start();
            server
        });
        poll_until("the servers are a cluster", START_BOUND, || {
            servers.iter().all(|server| server.knows_of() == N)
        });
        servers
    }

    /// Its URL, without any login.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        self.place.addr().to_string()
    }

    /// Starts it (again); returns when it listens.
    ///
    /// # Panics
    /// Where that fails.
    pub fn start(&self) {
        if let Some(container) = self.container.get() {
            let container = Arc::clone(container);
            on_engine(async move { container.start().await });
        } else {
            let request = self.request();
            let container = on_engine(async move { request.start().await });
            let made = self.container.set(Arc::new(container));
            assert!(made.is_ok(), "one thread starts it");
        }
        poll_until("the NATS server listens", START_BOUND, || self.greets());
    }

    /// Kills it, by SIGKILL.
    ///
    /// # Panics
    /// Where that fails.
    pub fn kill(&self) {
        let container = self.made();
        on_engine(async move {
            let engine = docker_client_instance().await?;
            let killed = engine.kill_container(container.id(), None).await;
            killed.map_err(|error| ClientError::StopContainer(error).into())
        });
    }

    /// Stops all its threads: its connections stay, and nothing comes on them.
    ///
    /// # Panics
    /// Where that fails.
    pub fn pause(&self) {
        let container = self.made();
        on_engine(async move { container.pause().await });
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// Where that fails.
    pub fn unpause(&self) {
        let container = self.made();
        on_engine(async move { container.unpause().await });
    }

    fn made(&self) -> Arc<ContainerAsync<GenericImage>> {
        Arc::clone(self.container.get().expect("it was started once"))
    }

    /// What is asked of the engine. The port is fixed, since the engine would choose another one at each start.
    fn request(&self) -> ContainerRequest<GenericImage> {
        let (name, tag) = IMAGE;
        let addr = self.place.addr();
        let mut request = GenericImage::new(name, tag)
            .with_cmd(self.flags.clone())
            .with_mapped_port(addr.port(), CLIENTS_PORT.tcp())
            .with_host_config_modifier(move |host| {
                let bindings = host
                    .port_bindings
                    .iter_mut()
                    .flat_map(|by_port| by_port.values_mut());
                for binding in bindings.flatten().flatten() {
                    binding.host_ip = Some(addr.ip().to_string());
                }
            });
        for (path, content) in &self.files {
            request = request.with_copy_to(path, content.clone());
        }
        if let Some((network, name)) = &self.seat {
            request = request.with_network(network).with_container_name(name);
        }
        request
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
        let container = self.container.take().and_then(Arc::into_inner);
        if let Some(container) = container {
            // Best effort: a drop must not panic, and a container left behind is seen by `docker ps`. The network goes with
            // the last container on it.
            let _ = wait_for(async move { container.rm().await });
        }
    }
}

/// A name that no other network has.
fn network_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tickstorm-{}-{number}", std::process::id())
}

/// What the engine makes of it.
fn on_engine<T: Send + 'static>(
    asking: impl Future<Output = Result<T, TestcontainersError>> + Send + 'static,
) -> T {
    let (name, tag) = IMAGE;
    wait_for(asking).unwrap_or_else(|error| {
        panic!(
            "these tests run NATS in a container: install Docker, start its engine, and see that it has or can pull the image \
             {name}:{tag} (TICKSTORM_STAND_INS=1 cargo xtask test tests makes a local one where it can't be pulled): {error}"
        )
    })
}

/// Waits for `future` on a runtime that outlives every test: the connections to the engine live on it.
fn wait_for<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        runtime.expect("a thread for the engine")
    });
    let (done, outcome) = mpsc::sync_channel(1);
    RUNTIME.spawn(async move {
        // The receiver waits for it below.
        let _ = done.send(future.await);
    });
    outcome.recv().expect("it ends without a panic")
}
