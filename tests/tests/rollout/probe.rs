//! Probes of containers with the periods, timeouts and thresholds that a kubelet observes.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::engine::outcome;

/// One probe of one container.
#[derive(Clone)]
pub(crate) struct Prober {
    probe: Probe,
    action: Action,
}

#[derive(Clone)]
enum Action {
    /// Runs a command in the container with this id.
    Run {
        container: String,
        command: Vec<String>,
    },
    /// Sends an HTTP request from the node.
    Get {
        ip: Ipv4Addr,
        port: u16,
        path: String,
    },
}

impl Prober {
    /// Returns a prober of the container with this id and address.
    pub(crate) fn new(probe: &Probe, of: &Container, id: &str, ip: Ipv4Addr) -> Self {
        let action = match (&probe.exec, &probe.http_get) {
            (Some(exec), None) => Action::Run {
                container: id.to_owned(),
                command: exec.command.clone().expect("a command"),
            },
            (None, Some(get)) => Action::Get {
                ip,
                port: port(get, of),
                path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
            },
            (Some(_), Some(_)) | (None, None) => panic!("not implemented: {probe:?}"),
        };
        Self {
            probe: probe.clone(),
            action,
        }
    }

    /// Returns the delay before the first probe.
    pub(crate) fn initial_delay(&self) -> Duration {
        seconds(self.probe.initial_delay_seconds, 0)
    }

    /// Returns the time from one probe to the next.
    pub(crate) fn period(&self) -> Duration {
        seconds(self.probe.period_seconds, 10)
    }

    /// Returns how many consecutive failures make the probe count as failed.
    pub(crate) fn failures_max(&self) -> i32 {
        self.probe.failure_threshold.unwrap_or(3)
    }

    /// Returns how many consecutive successes make the probe count as successful after a failure.
    pub(crate) fn successes_min(&self) -> i32 {
        self.probe.success_threshold.unwrap_or(1)
    }

    /// Probes once. Returns the reason if the probe fails.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        let time_max = seconds(self.probe.timeout_seconds, 1);
        match &self.action {
            Action::Run { container, command } => {
                let command: Vec<_> = command.iter().map(String::as_str).collect();
                let (succeeded, printed) =
                    outcome(&[&["exec", container][..], &command].concat(), time_max).await;
                if succeeded {
                    Ok(())
                } else {
                    Err(format!("{}: {printed}", command.join(" ")))
                }
            }
            Action::Get { ip, port, path } => {
                let answer = timeout(time_max, get(*ip, *port, path)).await;
                let code = answer.map_err(|_| format!("{path}: no answer within {time_max:?}"))?;
                match code.map_err(|error| format!("{path}: {error}"))? {
                    200..400 => Ok(()),
                    code => Err(format!("{path}: {code}")),
                }
            }
        }
    }
}

async fn get(ip: Ipv4Addr, port: u16, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect((ip, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn port(get: &HTTPGetAction, of: &Container) -> u16 {
    let number = match &get.port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => named_port(of, name),
    };
    number.try_into().expect("a port")
}

/// Returns the number of the container's port named `name`.
pub(crate) fn named_port(of: &Container, name: &str) -> i32 {
    let mut ports = of.ports.iter().flatten();
    let found = ports.find(|port| port.name.as_deref() == Some(name));
    found
        .unwrap_or_else(|| panic!("{} has no port {name}", of.name))
        .container_port
}

fn seconds(number: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(number.map_or(default, |number| {
        number.try_into().expect("a time that is not negative")
    }))
}
