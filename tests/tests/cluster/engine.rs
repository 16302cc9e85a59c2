//! The cluster from outside, by the commands that people use: Compose brings it up, `docker` looks into its containers and does them
//! harm.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tickstorm_testkit::poll_until;

/// Until a service is ready: a container's start on a machine under load.
const READY_BOUND: Duration = Duration::from_secs(60);

/// Between two looks: each starts a program or two.
const PAUSE: Duration = Duration::from_millis(200);

/// The command line of Compose up to its subcommand, as `cargo xtask compose-test` hands it over.
const COMPOSE: &str = "TICKSTORM_COMPOSE";

/// How many containers the cluster has.
const CONTAINERS: usize = 9;

const CLOCKS: [&str; 3] = ["clock-0", "clock-1", "clock-2"];
pub(crate) const NATS: [&str; 3] = ["nats-0", "nats-1", "nats-2"];

/// Brings the cluster up unless all of it runs, and waits until all is ready and the balancer knows it.
pub(crate) fn be_ready() {
    let is_running = |one: &Container| one.inspect()["State"]["Running"] == true;
    if all_containers()
        .iter()
        .filter(|one| is_running(one))
        .count()
        != CONTAINERS
    {
        up();
    }
    await_ready(2);
}

/// Waits until every container is ready, and the balancer sends clients to this many edges.
pub(crate) fn await_ready(edges: usize) {
    let containers = all_containers();
    for container in &containers {
        container.await_ready();
    }
    let found = containers.iter().filter(|one| one.service == "edge");
    assert_eq!(found.count(), edges);
    wait_until(&format!("HAProxy has {edges} edges"), || {
        balanced_edges() == edges
    });
}

/// Where clients connect to.
pub(crate) fn client_addr() -> SocketAddr {
    published(8080)
}

/// Every container, those that ended too.
pub(crate) fn all_containers() -> Vec<Container> {
    let words = compose_words();
    let project = words.iter().skip_while(|word| *word != "-p").nth(1);
    let project = project.expect("the cluster is a project of its own");
    let filter = format!("label=com.docker.compose.project={project}");
    let format = r#"{{.ID}} {{.Label "com.docker.compose.service"}}"#;
    let listed = docker(&[
        "ps",
        "-a",
        "--no-trunc",
        "--filter",
        &filter,
        "--format",
        format,
    ]);
    let containers = listed.lines().filter_map(|line| line.split_once(' '));
    containers
        .map(|(id, service)| Container {
            id: id.to_owned(),
            service: service.to_owned(),
        })
        .collect()
}

/// All containers of a service.
pub(crate) fn containers(service: &str) -> Vec<Container> {
    let mut containers = all_containers();
    containers.retain(|container| container.service == service);
    containers
}

/// The first container of a service.
pub(crate) fn container(service: &str) -> Container {
    let first = containers(service).into_iter().next();
    first.unwrap_or_else(|| panic!("{service} has no container"))
}

/// Brings the cluster up, and returns when Compose does.
pub(crate) fn up() {
    compose(&["up", "-d", "--no-build"]);
}

/// Ends the cluster, with all that it leaves.
pub(crate) fn down() {
    compose(&["down", "--volumes", "--remove-orphans"]);
}

/// Brings the cluster to this many edges.
pub(crate) fn scale_edges(count: usize) {
    let scale = format!("edge={count}");
    compose(&["up", "-d", "--no-build", "--no-recreate", "--scale", &scale]);
}

/// Runs the script that replaces all edges.
pub(crate) fn roll_edges() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose/roll-edges.sh");
    let mut command = Command::new(script);
    let command = command.env("CLIENT_PORT", "0").env("STATS_PORT", "0");
    output(command.env("COMPOSE", compose_words().join(" ")));
}

/// One container.
#[derive(Clone)]
pub(crate) struct Container {
    id: String,
    service: String,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.12})", self.service, self.id)
    }
}

impl Container {
    /// Waits until it does its work.
    pub(crate) fn await_ready(&self) {
        wait_until(&format!("{self} is ready"), || {
            let state = &self.inspect()["State"];
            let is_healthy = match state["Health"]["Status"].as_str() {
                Some(health) => health == "healthy",
                None => state["Running"] == true,
            };
            is_healthy && self.says_ready()
        });
    }

    /// Whether a daemon of ours says that it is ready; others are when they are healthy.
    fn says_ready(&self) -> bool {
        let binary = match self.service.as_str() {
            "edge" => "/tickstorm-edge",
            clock if CLOCKS.contains(&clock) => "/tickstorm-clock",
            _ => return true,
        };
        let ask = ["exec", &self.id, binary, "healthcheck", "--ready"];
        Command::new("docker")
            .args(ask)
            .output()
            .is_ok_and(|answer| answer.status.success())
    }

    /// What the engine knows of it.
    pub(crate) fn inspect(&self) -> Value {
        let all: Value = serde_json::from_str(&docker(&["inspect", &self.id])).unwrap();
        all[0].clone()
    }

    /// The ids that its main process and that one's descendants have on the host; not those of health checks, which
    /// are nobody's child in there, and may be gone before one has looked.
    pub(crate) fn pids(&self) -> Vec<u64> {
        let main = self.inspect()["State"]["Pid"].as_u64().unwrap();
        let listed = docker(&["top", &self.id, "-eo", "pid,ppid"]);
        let parents: Vec<(u64, u64)> = listed
            .lines()
            .skip(1)
            .map(|line| {
                let (pid, parent) = line.trim().split_once(' ').unwrap();
                (pid.parse().unwrap(), parent.trim().parse().unwrap())
            })
            .collect();
        let mut pids = vec![main];
        let mut looked_at = 0;
        while let Some(&parent) = pids.get(looked_at) {
            looked_at += 1;
            let children = parents.iter().filter(|&&(_, of)| of == parent);
            pids.extend(children.map(|&(pid, _)| pid));
        }
        pids
    }

    /// The value of a variable in its environment.
    pub(crate) fn env(&self, name: &str) -> String {
        let inspected = self.inspect();
        let variables = inspected["Config"]["Env"].as_array().unwrap().iter();
        let value = variables
            .filter_map(|variable| variable.as_str()?.split_once('='))
            .find_map(|(found, value)| (found == name).then(|| value.to_owned()));
        value.unwrap_or_else(|| panic!("{self} has no {name}"))
    }

    /// Its address in the cluster's network, which this host is in as well.
    pub(crate) fn ip(&self) -> String {
        let inspected = self.inspect();
        let address = inspected["NetworkSettings"]["Networks"][self.network()]["IPAddress"].clone();
        address.as_str().unwrap().to_owned()
    }

    /// Ends it without a word.
    pub(crate) fn kill(&self) {
        docker(&["kill", &self.id]);
    }

    pub(crate) fn start(&self) {
        docker(&["start", &self.id]);
    }

    /// Ends it in order, within what the engine grants it.
    pub(crate) fn stop(&self) {
        docker(&["stop", &self.id]);
    }

    /// Takes it from the network for that long: nothing of what it sends arrives anywhere, and its connections are not closed. It may
    /// come back under another address.
    pub(crate) fn cut_off_for(&self, duration: Duration) {
        let network = self.network();
        docker(&["network", "disconnect", &network, &self.id]);
        thread::sleep(duration);
        let alias = ["--alias", &self.service];
        docker(&[&["network", "connect"], &alias[..], &[&network, &self.id]].concat());
    }

    fn network(&self) -> String {
        let inspected = self.inspect();
        let networks = inspected["NetworkSettings"]["Networks"]
            .as_object()
            .unwrap();
        networks.keys().next().unwrap().clone()
    }
}

/// Looks, with a pause between two looks, until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    poll_until(what, READY_BOUND, || {
        let holds = condition();
        if !holds {
            thread::sleep(PAUSE);
        }
        holds
    });
}

/// How many edges HAProxy sends clients to, by its statistics.
fn balanced_edges() -> usize {
    let ask = || {
        let mut stream = TcpStream::connect(published(8404))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /;csv HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    let table = ask().unwrap_or_default();
    table
        .lines()
        .filter(|line| line.starts_with("edges,edge") && line.contains(",UP,"))
        .count()
}

/// Where a port of the balancer is on this host. It may be another one after each start.
fn published(port: u16) -> SocketAddr {
    let addr = docker(&["port", &container("haproxy").id, &port.to_string()]);
    addr.trim().parse().unwrap()
}

/// The words of Compose's command line. Its paths are those from the workspace's root.
fn compose_words() -> Vec<String> {
    let line = std::env::var(COMPOSE).unwrap_or_else(|_| {
        panic!("{COMPOSE} is not set: `cargo xtask compose-test` builds the images and runs these tests")
    });
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    line.split_whitespace()
        .map(|word| {
            if word.contains('/') {
                root.join(word).to_str().unwrap().to_owned()
            } else {
                word.to_owned()
            }
        })
        .collect()
}

fn compose(arguments: &[&str]) -> String {
    let words = compose_words();
    let mut command = Command::new(&words[0]);
    // Any free ports: this machine may have the usual ones in use.
    let command = command.env("CLIENT_PORT", "0").env("STATS_PORT", "0");
    output(command.args(&words[1..]).args(arguments))
}

fn docker(arguments: &[&str]) -> String {
    output(Command::new("docker").args(arguments))
}

fn output(command: &mut Command) -> String {
    let outcome = command.output();
    let Output {
        status,
        stdout,
        stderr,
    } = outcome.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(
        status.success(),
        "{command:?} ended with {status}: {stderr}"
    );
    String::from_utf8(stdout).unwrap()
}
