//! What Prometheus and Alertmanager say, at the ports that are published on this host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::published;

/// The time limit for an answer on a machine under load.
const ANSWER_MAX: Duration = Duration::from_secs(20);

static PROMETHEUS: OnceLock<SocketAddr> = OnceLock::new();
static ALERTMANAGER: OnceLock<SocketAddr> = OnceLock::new();

pub(super) type Labels = BTreeMap<String, String>;

/// An alert that Prometheus has evaluated as true.
#[derive(Debug, Deserialize)]
pub(super) struct PrometheusAlert {
    pub(super) labels: Labels,
    /// `pending` or `firing`.
    pub(super) state: String,
}

/// An alert that Prometheus has sent to Alertmanager, and that has not ended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Notified {
    pub(super) labels: Labels,
    pub(super) fingerprint: String,
    pub(super) status: NotifiedStatus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NotifiedStatus {
    /// The fingerprints of the alerts because of which nobody is notified of this one.
    pub(super) inhibited_by: Vec<String>,
}

/// A target of Prometheus.
#[derive(Debug, Deserialize)]
pub(super) struct ScrapeState {
    #[serde(rename = "scrapePool")]
    pub(super) job: String,
    pub(super) health: String,
}

/// One series of a query's result.
#[derive(Debug, Deserialize)]
pub(super) struct Sample {
    #[expect(dead_code, reason = "it is printed if a test fails")]
    metric: Labels,
    /// A time, and the value as text.
    value: (f64, String),
}

impl Sample {
    pub(super) fn number(&self) -> f64 {
        self.value.1.parse().unwrap()
    }

    /// Returns whether the value is a number, which the quantile of nothing is not.
    pub(super) fn is_number(&self) -> bool {
        !self.number().is_nan()
    }
}

/// Returns the alerts that are pending or firing.
pub(super) fn prometheus_alerts() -> Vec<PrometheusAlert> {
    of_prometheus("alerts", "alerts")
}

/// Returns the alerts that Alertmanager knows.
pub(super) fn notified_alerts() -> Vec<Notified> {
    let addr = ALERTMANAGER.get_or_init(|| published("alertmanager", 9093));
    serde_json::from_value(ask(*addr, "/api/v2/alerts")).unwrap()
}

/// Returns the targets that Prometheus scrapes.
pub(super) fn scrape_states() -> Vec<ScrapeState> {
    of_prometheus("targets?state=active", "activeTargets")
}

/// Returns the names of all alerts.
pub(super) fn rule_names() -> BTreeSet<String> {
    let groups: Vec<Value> = of_prometheus("rules?type=alert", "groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    rules
        .map(|rule| rule["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the result of a query that has a vector as its result.
pub(super) fn query(expression: &str) -> Vec<Sample> {
    try_query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

/// Returns the result of a query, or what Prometheus says about it.
pub(super) fn try_query(expression: &str) -> Result<Vec<Sample>, String> {
    let answer = ask(
        prometheus(),
        &format!("/api/v1/query?query={}", encoded(expression)),
    );
    let data = &answer["data"];
    match (answer["status"].as_str(), data["resultType"].as_str()) {
        (Some("success"), Some("vector")) => {
            Ok(serde_json::from_value(data["result"].clone()).unwrap())
        }
        (Some("success"), Some("scalar")) => {
            let value = serde_json::from_value(data["result"].clone()).unwrap();
            let metric = Labels::new();
            Ok(vec![Sample { metric, value }])
        }
        _ => Err(answer.to_string()),
    }
}

fn of_prometheus<T: DeserializeOwned>(page: &str, field: &str) -> T {
    let answer = ask(prometheus(), &format!("/api/v1/{page}"));
    serde_json::from_value(answer["data"][field].clone())
        .unwrap_or_else(|error| panic!("{page}: {error}: {answer}"))
}

fn prometheus() -> SocketAddr {
    *PROMETHEUS.get_or_init(|| published("prometheus", 9090))
}

/// Returns the JSON at a path, also if the status is that of an error.
fn ask(addr: SocketAddr, path: &str) -> Value {
    let answer = (|| {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        // With version 1.0, the answer ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    })();
    let answer = answer.unwrap_or_else(|error| panic!("{addr}{path}: {error}"));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{addr}{path}: {error}: {answer}"))
}

/// Encodes a text for the query of a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
    }
    encoded
}
