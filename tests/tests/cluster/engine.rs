//! Operates the cluster with the commands that people use: Compose brings it up, and `docker`
//! inspects, stops, kills and disconnects its containers.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tickstorm_testkit::poll_until;

/// The time limit for a container to become ready on a machine under load.
const READY_MAX: Duration = Duration::from_secs(60);

/// The pause between two polls, each of which starts one or two programs.
const PAUSE: Duration = Duration::from_millis(200);

/// Settings of the cluster that differ from `.env.example`: any free ports, and other addresses,
/// since the default ones may be in use on this machine.
const OWN_SETTINGS: [(&str, &str); 6] = [
    ("CLIENT_PORT", "0"),
    ("STATS_PORT", "0"),
    ("GRAFANA_PORT", "0"),
    ("PROMETHEUS_PORT", "0"),
    ("ALERTMANAGER_PORT", "0"),
    ("NETWORK_PREFIX", "10.84.84"),
];

/// The environment variable in which `cargo xtask compose-test` passes the Compose command line up
/// to the subcommand.
const COMPOSE: &str = "TICKSTORM_COMPOSE";

/// The environment variable with the directory of secrets, for Compose and the scripts of
/// `compose/`.
const SECRETS: &str = "SECRETS_DIR";

const RUN_BY_TASK: &str = "run these tests with `cargo xtask compose-test`";

/// The number of containers in the cluster, and how many more it has with `monitoring.yml`.
const CONTAINERS: usize = 9;
const MONITORING_CONTAINERS: usize = 6;

const CLOCKS: [&str; 3] = ["clock-0", "clock-1", "clock-2"];
pub(crate) const NATS: [&str; 3] = ["nats-0", "nats-1", "nats-2"];

/// Brings the cluster up unless all containers are running, and waits until they are ready and the
/// load balancer has noticed.
pub(crate) fn ensure_ready() {
    let is_running = |one: &Container| one.inspect()["State"]["Running"] == true;
    let is_monitored = compose_words()
        .iter()
        .any(|word| word.ends_with("/monitoring.yml"));
    let expected = CONTAINERS
        + if is_monitored {
            MONITORING_CONTAINERS
        } else {
            0
        };
    if all_containers()
        .iter()
        .filter(|one| is_running(one))
        .count()
        != expected
    {
        up();
    }
    await_ready(2);
}

/// Waits until every container is ready and the load balancer sends clients to `edges` edges.
pub(crate) fn await_ready(edges: usize) {
    let containers = all_containers();
    for container in &containers {
        container.await_ready();
    }
    let found = containers.iter().filter(|one| one.service == "edge");
    assert_eq!(found.count(), edges);
    wait_until(&format!("HAProxy sends clients to {edges} edges"), || {
        balanced_edges() == edges
    });
}

/// Returns the address that clients connect to.
pub(crate) fn client_addr() -> SocketAddr {
    published("haproxy", 8080)
}

/// Returns all containers, including those that have exited.
pub(crate) fn all_containers() -> Vec<Container> {
    let words = compose_words();
    let project = words.iter().skip_while(|word| *word != "-p").nth(1);
    let project = project.expect("the command line names a project with -p");
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

/// Returns all containers of a service.
pub(crate) fn containers(service: &str) -> Vec<Container> {
    let mut containers = all_containers();
    containers.retain(|container| container.service == service);
    containers
}

/// Returns the first container of a service.
pub(crate) fn container(service: &str) -> Container {
    let first = containers(service).into_iter().next();
    first.unwrap_or_else(|| panic!("{service} has no container"))
}

/// Brings the cluster up and returns as soon as Compose does.
pub(crate) fn up() {
    compose(&["up", "-d", "--no-build"]);
}

/// Removes the cluster, including its networks and volumes.
pub(crate) fn down() {
    compose(&["down", "--volumes", "--remove-orphans"]);
}

/// Scales the cluster to `count` edges.
pub(crate) fn scale_edges(count: usize) {
    let scale = format!("edge={count}");
    compose(&["up", "-d", "--no-build", "--no-recreate", "--scale", &scale]);
}

/// Runs the script that replaces all edges.
pub(crate) fn roll_edges() {
    output(&mut script("roll-edges.sh"));
}

/// Runs the script that makes the secrets for `tls.yml`, or renews the certificates.
pub(crate) fn make_secrets() {
    output(&mut script("make-secrets.sh"));
}

/// Returns a call of the script that rotates the passwords of NATS.
pub(crate) fn rotate_nats() -> Command {
    script("rotate-nats.sh")
}

/// Returns a call of a script of `compose/`.
fn script(name: &str) -> Command {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose");
    let mut command = Command::new(Path::new(path).join(name));
    command
        .envs(OWN_SETTINGS)
        .env("COMPOSE", compose_words().join(" "));
    command
}

/// Returns the directory of the secrets that the cluster uses with `tls.yml`.
pub(crate) fn secrets() -> PathBuf {
    let path = std::env::var_os(SECRETS);
    path.unwrap_or_else(|| panic!("{SECRETS} is not set; {RUN_BY_TASK}"))
        .into()
}

/// One container.
#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) service: String,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.12})", self.service, self.id)
    }
}

impl Container {
    /// Waits until the container is healthy and ready.
    pub(crate) fn await_ready(&self) {
        wait_until(&format!("{self} is ready"), || {
            let state = &self.inspect()["State"];
            let is_healthy = match state["Health"]["Status"].as_str() {
                Some(health) => health == "healthy",
                None => state["Running"] == true,
            };
            is_healthy && self.reports_ready()
        });
    }

    /// Returns whether a clock or an edge reports that it is ready. Other containers are ready if
    /// they are healthy.
    fn reports_ready(&self) -> bool {
        let binary = match self.service.as_str() {
            "edge" => "/tickstorm-edge",
            clock if CLOCKS.contains(&clock) => "/tickstorm-clock",
            _ => return true,
        };
        self.program_reports_ready(binary)
    }

    /// Returns whether the container's own program, a clock or an edge, reports that it is ready.
    pub(crate) fn program_reports_ready(&self, program: &str) -> bool {
        let ask = ["exec", &self.id, program, "healthcheck", "--ready"];
        Command::new("docker")
            .args(ask)
            .output()
            .is_ok_and(|answer| answer.status.success())
    }

    /// Returns the engine's description of the container.
    pub(crate) fn inspect(&self) -> Value {
        let all: Value = serde_json::from_str(&docker(&["inspect", &self.id])).unwrap();
        all[0].clone()
    }

    /// Returns the host's process ids of the container's main process and its descendants. Health
    /// checks are excluded: they are not descendants of the main process, and may exit before their
    /// status can be read.
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
        let mut visited = 0;
        while let Some(&parent) = pids.get(visited) {
            visited += 1;
            let children = parents.iter().filter(|&&(_, of)| of == parent);
            pids.extend(children.map(|&(pid, _)| pid));
        }
        pids
    }

    /// Returns the value of an environment variable of the container.
    pub(crate) fn env(&self, name: &str) -> String {
        let inspected = self.inspect();
        let variables = inspected["Config"]["Env"].as_array().unwrap().iter();
        let value = variables
            .filter_map(|variable| variable.as_str()?.split_once('='))
            .find_map(|(found, value)| (found == name).then(|| value.to_owned()));
        value.unwrap_or_else(|| panic!("{self} has no {name}"))
    }

    /// Returns the container's address in the cluster's network, which this host can reach.
    pub(crate) fn ip(&self) -> String {
        let inspected = self.inspect();
        let address = inspected["NetworkSettings"]["Networks"][self.network()]["IPAddress"].clone();
        address.as_str().unwrap().to_owned()
    }

    /// Returns everything that the container has logged.
    pub(crate) fn logs(&self) -> String {
        let command = &mut Command::new("docker");
        // Standard error is where the daemons and NATS log to.
        let Output { stdout, stderr, .. } = command.args(["logs", &self.id]).output().unwrap();
        String::from_utf8([stdout, stderr].concat()).unwrap()
    }

    /// Returns the output of a program in the container.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        docker(&[&["exec", &self.id], command].concat())
    }

    /// Sends a signal to the container's main process.
    pub(crate) fn send(&self, signal: &str) {
        docker(&["kill", "--signal", signal, &self.id]);
    }

    /// Kills the container without a chance to close its connections.
    pub(crate) fn kill(&self) {
        docker(&["kill", &self.id]);
    }

    /// Stops all processes of the container without their noticing it.
    pub(crate) fn pause(&self) {
        docker(&["pause", &self.id]);
    }

    pub(crate) fn unpause(&self) {
        docker(&["unpause", &self.id]);
    }

    pub(crate) fn start(&self) {
        docker(&["start", &self.id]);
    }

    /// Stops the container; after its grace period the engine kills it.
    pub(crate) fn stop(&self) {
        docker(&["stop", &self.id]);
    }

    /// Disconnects the container from the network for `duration`: nothing that it sends arrives,
    /// and its connections are not closed. Its address may be different afterwards.
    pub(crate) fn cut_off_for(&self, duration: Duration) {
        let network = self.network();
        docker(&["network", "disconnect", &network, &self.id]);
        thread::sleep(duration);
        let alias = ["--alias", &self.service];
        docker(&[&["network", "connect"], &alias[..], &[&network, &self.id]].concat());
    }

    pub(crate) fn network(&self) -> String {
        let inspected = self.inspect();
        let networks = inspected["NetworkSettings"]["Networks"]
            .as_object()
            .unwrap();
        networks.keys().next().unwrap().clone()
    }
}

/// Polls until `condition` holds, with a pause between two polls.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    poll_until(what, READY_MAX, || {
        let holds = condition();
        if !holds {
            thread::sleep(PAUSE);
        }
        holds
    });
}

/// Returns how many edges HAProxy sends clients to, according to its statistics.
fn balanced_edges() -> usize {
    let ask = || {
        let mut stream = TcpStream::connect(published("haproxy", 8404))?;
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

/// Returns the address at which a port of a service is published on this host. It may differ after
/// each start.
pub(crate) fn published(service: &str, port: u16) -> SocketAddr {
    let addr = docker(&["port", &container(service).id, &port.to_string()]);
    addr.trim().parse().unwrap()
}

/// Returns the words of Compose's command line. Its paths, which are relative to the workspace's
/// root, are made absolute.
fn compose_words() -> Vec<String> {
    let line =
        std::env::var(COMPOSE).unwrap_or_else(|_| panic!("{COMPOSE} is not set; {RUN_BY_TASK}"));
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
    let command = command.envs(OWN_SETTINGS);
    output(command.args(&words[1..]).args(arguments))
}

pub(crate) fn docker(arguments: &[&str]) -> String {
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
    assert!(status.success(), "{command:?} failed: {status}: {stderr}");
    String::from_utf8(stdout).unwrap()
}
