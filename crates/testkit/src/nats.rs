//! A NATS server that a test can kill, start again and pause. It runs in a container or as a process; tests see no difference.
//! `TICKSTORM_TEST_NATS` says which (`container` or `process`). If it is not set, a container engine that answers is used, and
//! without one the server is a process.

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

/// The version that tests run, in either way: the tag of the image begins with it.
const VERSION: &str = "2.15";

/// The environment variable that chooses how servers run.
const CHOICE: &str = "TICKSTORM_TEST_NATS";

/// Until a started server listens, on a machine under load.
const START_BOUND: Duration = Duration::from_secs(60);

/// A NATS server, removed when this is dropped. It keeps its port over restarts.
#[derive(Debug)]
pub struct Nats {
    place: ReservedAddr,
    plan: NatsPlan,
    /// Made by the first start.
    server: OnceLock<Box<dyn RunningNats>>,
}

/// What a server is started with.
#[derive(Clone, Debug)]
struct NatsPlan {
    /// Where clients connect to.
    addr: SocketAddr,
    flags: Vec<String>,
    /// Path and content of each file.
    files: Vec<(String, Vec<u8>)>,
    /// The container network of its cluster, and its own name on it.
    network: Option<(String, String)>,
}

/// A server in one of the two ways.
trait RunningNats: Debug + Send + Sync {
    /// Starts it, unless it runs.
    fn start(&self);

    /// Panics if it has ended by itself, with what it said.
    fn assert_runs(&self);

    /// Kills it, by SIGKILL.
    fn kill(&self);

    /// Stops all its threads.
    fn pause(&self);

    /// Lets them go on.
    fn unpause(&self);
}

/// How the servers of this test process run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NatsBackend {
    Container,
    Process,
}

impl Nats {
    /// A server that does not run yet; `flags` are its own.
    ///
    /// # Panics
    /// Where there is no free port.
    #[must_use]
    pub fn create(flags: &[&str]) -> Self {
        let place = ReservedAddr::reserve();
        let plan = NatsPlan {
            addr: place.addr(),
            flags: flags.iter().map(ToString::to_string).collect(),
            files: Vec::new(),
            network: None,
        };
        Self {
            place,
            plan,
            server: OnceLock::new(),
        }
    }

    /// Gives a server that has not run yet a file. Flags name it by `path`, which is absolute: `--config /path` or `--flag=/path`.
    #[must_use]
    pub fn with_file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.plan.files.push((path.to_owned(), content.into()));
        self
    }

    /// Makes and starts a server.
    ///
    /// # Panics
    /// Where `TICKSTORM_TEST_NATS` allows nothing that this machine has, or the server does not start.
    #[must_use]
    pub fn run(flags: &[&str]) -> Self {
        let nats = Self::create(flags);
        nats.start();
        nats
    }

    /// Makes and starts a cluster of `N` servers; returns when each has a route to every other one.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn cluster<const N: usize>() -> [Self; N] {
        let name = cluster_name();
        // In containers the servers meet on a network of their own, by name; as processes on loopback, each on a port of its own.
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

    /// Kills it, by SIGKILL.
    ///
    /// # Panics
    /// Where that fails.
    pub fn kill(&self) {
        self.made().kill();
    }

    /// Stops all its threads: its connections stay, and nothing comes on them.
    ///
    /// # Panics
    /// Where that fails.
    pub fn pause(&self) {
        self.made().pause();
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// Where that fails.
    pub fn unpause(&self) {
        self.made().unpause();
    }

    fn made(&self) -> &dyn RunningNats {
        &**self.server.get().expect("it was started once")
    }

    /// How many servers of its cluster it tells clients of, itself included.
    fn knows_of(&self) -> usize {
        let greeting = self.greeting().unwrap_or_default();
        let urls = greeting.split_once(r#""connect_urls":["#);
        let urls = urls.and_then(|(_, rest)| rest.split_once(']'));
        urls.map_or(0, |(urls, _)| urls.split(',').count())
    }

    /// What the server itself says first, which a container engine's proxy before it does not.
    fn greeting(&self) -> Option<String> {
        let stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.starts_with("INFO ").then_some(line)
    }
}

/// What one server of a cluster needs to find the others.
struct ClusterMember {
    /// Where it listens for them.
    listen: String,
    /// Where they find it.
    route: String,
    network: Option<(String, String)>,
}

impl NatsBackend {
    /// The one for all servers of this process.
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
                "{CHOICE}={other}: allowed are `container`, `process`, and nothing, which means a container if an engine \
                 answers"
            ),
        }
    }
}

/// A name that no other cluster on this machine has.
fn cluster_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tickstorm-{}-{number}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_run_as_is_asked_for_and_otherwise_in_containers_if_an_engine_answers() {
        for answers in [true, false] {
            let choose = |choice| NatsBackend::choose(choice, || answers);
            assert_eq!(choose("container"), NatsBackend::Container);
            assert_eq!(choose("process"), NatsBackend::Process);
            assert_eq!(choose("") == NatsBackend::Container, answers);
        }
    }

    #[test]
    #[should_panic(expected = "TICKSTORM_TEST_NATS=docker: allowed are `container`, `process`")]
    fn another_choice_is_refused_and_names_what_is_allowed() {
        let _ = NatsBackend::choose("docker", || true);
    }
}
