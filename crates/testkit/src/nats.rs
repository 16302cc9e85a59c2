//! A NATS server that a test can kill, restart and pause. It runs in a container or as a process;
//! tests see no difference. `TICKSTORM_TEST_NATS` chooses between `container` and `process`. If it
//! is not set, servers run in containers if a container engine answers, and as processes otherwise.

mod container;
mod process;

use std::array::from_fn;
use std::env;
use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::container::NatsContainer;
use self::process::NatsProcess;
use crate::{ReservedAddr, poll_until};

/// The version that tests use in both cases. The image's tag starts with it.
const VERSION: &str = "2.15";

/// The environment variable that chooses how servers run.
const CHOICE: &str = "TICKSTORM_TEST_NATS";

/// The time that a server may take to listen after its start, on a machine under load.
const START_BOUND: Duration = Duration::from_secs(60);

/// A NATS server, which is removed when this is dropped. It keeps its port when restarted.
#[derive(Debug)]
pub struct Nats {
    reserved: ReservedAddr,
    plan: NatsPlan,
    /// Created by the first start.
    server: OnceLock<Box<dyn RunningNats>>,
}

/// The configuration that a server is started with.
#[derive(Clone, Debug)]
struct NatsPlan {
    /// The address that clients connect to.
    addr: SocketAddr,
    flags: Vec<String>,
    /// The path and content of each file.
    files: Vec<(String, Vec<u8>)>,
    /// The container network of its cluster, and its own name on that network.
    network: Option<(String, String)>,
}

/// A server in a container or a process.
trait RunningNats: Debug + Send + Sync {
    /// Starts the server, unless it is running.
    fn start(&self);

    /// Panics if the server has exited by itself, with its output.
    fn assert_runs(&self);

    /// Kills the server with SIGKILL.
    fn kill(&self);

    /// Suspends all threads of the server.
    fn pause(&self);

    /// Resumes its threads.
    fn unpause(&self);

    /// Replaces the content of a file and makes the server read its configuration again.
    fn reload(&self, path: &str, content: &str);
}

/// The way in which the servers of this test process run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NatsBackend {
    Container,
    Process,
}

impl Nats {
    /// Creates a server without starting it; `flags` are passed to it.
    ///
    /// # Panics
    /// Panics if there is no free port.
    #[must_use]
    pub fn create(flags: &[&str]) -> Self {
        let reserved = ReservedAddr::reserve();
        let plan = NatsPlan {
            addr: reserved.addr(),
            flags: flags.iter().map(ToString::to_string).collect(),
            files: Vec::new(),
            network: None,
        };
        Self {
            reserved,
            plan,
            server: OnceLock::new(),
        }
    }

    /// Adds a file to a server that has not been started yet. Flags refer to it by `path`, which is
    /// absolute: `--config /path` or `--flag=/path`.
    #[must_use]
    pub fn with_file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.plan.files.push((path.to_owned(), content.into()));
        self
    }

    /// Creates and starts a server.
    ///
    /// # Panics
    /// Panics if this machine has nothing that `TICKSTORM_TEST_NATS` allows, or the server does not
    /// start.
    #[must_use]
    pub fn run(flags: &[&str]) -> Self {
        let nats = Self::create(flags);
        nats.start();
        nats
    }

    /// Creates and starts a cluster of `N` servers, and waits until each has a route to every other
    /// one.
    ///
    /// # Panics
    /// Panics if that fails.
    #[must_use]
    pub fn cluster<const N: usize>() -> [Self; N] {
        let name = cluster_name();
        // Containers reach each other by name on their own network; processes reach each other on
        // loopback, each on its own port.
        let ports: [ReservedAddr; N] = from_fn(|_| ReservedAddr::reserve());
        let members: [ClusterMember; N] = from_fn(|index| match NatsBackend::chosen() {
            NatsBackend::Container => container::member(&name, index),
            NatsBackend::Process => process::member(&ports[index]),
        });
        let routes = members.each_ref().map(|member| member.route.as_str());
        let routes = format!("--routes={}", routes.join(","));
        let servers = members.each_ref().map(|member| {
            let listen = format!("--cluster={}", member.listen);
            let mut server = Self::create(&["--cluster_name=tests", &listen, &routes]);
            server.plan.network.clone_from(&member.network);
            server.start();
            server
        });
        poll_until("the servers form a cluster", START_BOUND, || {
            servers.iter().all(|server| server.cluster_size() == N)
        });
        servers
    }

    /// Returns the server's URL, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Returns the server's address.
    #[must_use]
    pub fn address(&self) -> String {
        self.reserved.addr().to_string()
    }

    /// Starts or restarts the server and waits until it listens.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn start(&self) {
        let server = self.server.get_or_init(|| match NatsBackend::chosen() {
            NatsBackend::Container => Box::new(NatsContainer::new(self.plan.clone())),
            NatsBackend::Process => Box::new(NatsProcess::new(&self.plan)),
        });
        server.start();
        poll_until("the NATS server listens", START_BOUND, || {
            server.assert_runs();
            self.greeting().is_some()
        });
    }

    /// Kills the server with SIGKILL.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn kill(&self) {
        self.started().kill();
    }

    /// Suspends all threads of the server: its connections stay open, and nothing is sent on them.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn pause(&self) {
        self.started().pause();
    }

    /// Resumes a paused server.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn unpause(&self) {
        self.started().unpause();
    }

    /// Replaces the content of a file that [`Self::with_file`] added, and makes the server read its
    /// configuration again. The server may apply it after this returns.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn reload(&self, path: &str, content: &str) {
        self.started().reload(path, content);
    }

    fn started(&self) -> &dyn RunningNats {
        &**self.server.get().expect("the server was started before")
    }

    /// Returns the number of servers in its cluster that it announces to clients, including itself.
    fn cluster_size(&self) -> usize {
        let greeting = self.greeting().unwrap_or_default();
        let urls = greeting.split_once(r#""connect_urls":["#);
        let urls = urls.and_then(|(_, rest)| rest.split_once(']'));
        urls.map_or(0, |(urls, _)| urls.split(',').count())
    }

    /// Returns the server's first line. A container engine's proxy, which accepts connections
    /// before the server does, does not send one.
    fn greeting(&self) -> Option<String> {
        let stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.starts_with("INFO ").then_some(line)
    }
}

/// The URLs and the network by which one server of a cluster and the others find each other.
struct ClusterMember {
    /// The URL on which the server listens for the others.
    listen: String,
    /// The URL at which the others find the server.
    route: String,
    network: Option<(String, String)>,
}

impl NatsBackend {
    /// Returns the backend for all servers of this process.
    fn chosen() -> Self {
        static CHOSEN: OnceLock<NatsBackend> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let choice = env::var_os(CHOICE).unwrap_or_default();
            Self::choose(&choice.to_string_lossy(), container::engine_answers)
        })
    }

    fn choose(choice: &str, engine_answers: impl FnOnce() -> bool) -> Self {
        match choice {
            "container" => Self::Container,
            "process" => Self::Process,
            "" if engine_answers() => Self::Container,
            "" => Self::Process,
            other => panic!(
                "{CHOICE}={other}: expected `container`, `process`, or no value, which means a \
                 container if an engine answers"
            ),
        }
    }
}

/// Returns a name that no other cluster on this machine has.
fn cluster_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tickstorm-{}-{number}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_run_as_requested_and_by_default_in_containers_if_an_engine_answers() {
        for answers in [true, false] {
            let choose = |choice| NatsBackend::choose(choice, || answers);
            assert_eq!(choose("container"), NatsBackend::Container);
            assert_eq!(choose("process"), NatsBackend::Process);
            assert_eq!(choose("") == NatsBackend::Container, answers);
        }
    }

    #[test]
    #[should_panic(expected = "TICKSTORM_TEST_NATS=docker: expected `container`, `process`")]
    fn any_other_choice_is_refused_with_the_allowed_ones() {
        let _ = NatsBackend::choose("docker", || true);
    }
}
