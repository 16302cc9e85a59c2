//! The queries of the dashboards, which `cargo xtask compose-test` collects.

use std::fs;
use std::time::Duration;

use serde::Deserialize;
use tickstorm_tests::clients::options;
use tickstorm_timebase::{Clock as _, Mode, SystemClock};
use tokio::runtime::Runtime;

use super::pages::{Sample, try_query};
use crate::engine::client_addr;

/// The environment variable with the file that has a query on each line.
const QUERIES: &str = "TICKSTORM_DASHBOARD_QUERIES";

/// The time limit for all queries to return data. In minute mode, the first tick may be a minute
/// away.
const DATA_MAX: Duration = Duration::from_secs(100);

const PAUSE: Duration = Duration::from_secs(2);

/// The number of clients of each feed, enough for both edges to have some.
const CLIENTS: usize = 8;

/// A query of a panel. Its variables have been replaced.
#[derive(Deserialize)]
struct Query {
    dashboard: String,
    panel: String,
    expr: String,
}

/// Runs all queries in a cluster that has clients of each feed, until each has returned data.
pub(super) fn check() {
    let path = std::env::var_os(QUERIES).unwrap_or_else(|| panic!("{QUERIES} is not set"));
    let lines = fs::read_to_string(&path).unwrap();
    let queries: Vec<Query> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    assert!(!queries.is_empty(), "there are no queries in {path:?}");

    let clients = clients_of_each_feed();
    let start = SystemClock.now();
    let mut missing: Vec<_> = queries.iter().collect();
    while !missing.is_empty() && SystemClock.now().since(start) < DATA_MAX {
        missing.retain(|query| !returns_data(&query.expr));
        std::thread::sleep(PAUSE);
    }
    drop(clients);
    let missing: Vec<_> = missing
        .iter()
        .map(|query| {
            let Query {
                dashboard,
                panel,
                expr,
            } = query;
            format!("{dashboard}, {panel}: {expr}: {:?}", try_query(expr))
        })
        .collect();
    assert!(missing.is_empty(), "without data:\n{}", missing.join("\n"));
    println!("{} queries have returned data", queries.len());
}

/// Starts clients of each feed, which stop when the runtime is dropped.
fn clients_of_each_feed() -> Runtime {
    let runtime = Runtime::new().unwrap();
    let modes = [Mode::Second, Mode::Minute].into_iter();
    for (mode, ahead) in modes.flat_map(|mode| [(mode, false), (mode, true)]) {
        for _ in 0..CLIENTS {
            let options = options(client_addr()).mode(mode).ahead(ahead);
            runtime.spawn(async {
                let mut ticks = tickstorm_client::connect(options).await.unwrap();
                while ticks.next().await.is_some() {}
            });
        }
    }
    runtime
}

/// Returns whether a query returns at least one number. The quantile of nothing is none.
fn returns_data(expression: &str) -> bool {
    try_query(expression).is_ok_and(|samples| samples.iter().any(Sample::is_number))
}
