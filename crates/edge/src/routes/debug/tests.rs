use tokio::sync::watch;
use tokio::time::{advance, sleep};

use super::*;
use crate::admission::{AdmissionGauges, AdmissionLimits};
use crate::health::EdgeHealth;
use crate::ip_lists::IpLists;
use crate::routes::Handles;

fn admission() -> Arc<Admission> {
    let lists = watch::channel(IpLists::default()).1;
    let gauges = AdmissionGauges::unregistered();
    Admission::new(AdmissionLimits::NONE, lists, gauges)
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_client_is_an_address_a_network_or_a_connection() {
    let admission = admission();
    let number = admission.next_id();
    let id = admission.connection_id(number).to_string();
    let own = format!("client={id}&for=1h");
    for (query, name, time_s) in [
        ("client=192.0.2.7&for=60s", "192.0.2.7", 60),
        ("for=1s&client=::ffff:192.0.2.7", "192.0.2.7", 1),
        ("client=2001:DB8:0::7&for=1m30s", "2001:db8::7", 90),
        ("client=10.0.0.0/8&for=60s", "10.0.0.0/8", 60),
        (&own, &id, 3_600),
    ] {
        let (client, time) = parse_start(&pairs(query), &admission).unwrap();
        assert_eq!((&*client.name, time.as_secs()), (name, time_s), "{query}");
    }
}

#[test]
fn what_is_wrong_with_a_query_is_named() {
    let admission = admission();
    let other = Admission::new(
        AdmissionLimits::NONE,
        watch::channel(IpLists::default()).1,
        AdmissionGauges::unregistered(),
    );
    let foreign = other.connection_id(other.next_id());
    let foreign = format!("client={foreign}&for=60s");
    for (query, status, named) in [
        ("", 400, "client is missing: it is an address"),
        ("for=60s", 400, "client is missing"),
        (
            "client=192.0.2.7",
            400,
            "for is missing: it is a duration from 1s to 1h",
        ),
        ("client=&for=60s", 400, "invalid client"),
        ("client=192.0.2&for=60s", 400, "such as 4821-k7m2q9xd"),
        ("client=192.0.2.7:80&for=60s", 400, "invalid client"),
        ("client=localhost&for=60s", 400, "invalid client"),
        ("client=7&for=60s", 400, "invalid client"),
        (
            "client=10.0.0.1/8&for=60s",
            400,
            "the network is 10.0.0.0/8",
        ),
        ("client=10.0.0.0/33&for=60s", 400, "not a network"),
        (&foreign, 404, "another edge, or from before a restart"),
        ("client=192.0.2.7&for=60", 400, "invalid for"),
        ("client=192.0.2.7&for=0s", 400, "from 1s to 1h"),
        ("client=192.0.2.7&for=61m", 400, "from 1s to 1h"),
        (
            "client=192.0.2.7&client=192.0.2.8&for=1s",
            400,
            "client is there twice",
        ),
        ("client=192.0.2.7&for=1s&for=1s", 400, "for is there twice"),
        (
            "client=192.0.2.7&for=1s&level=trace",
            400,
            "allowed are client and for",
        ),
    ] {
        let refused = parse_start(&pairs(query), &admission).unwrap_err();
        assert_eq!(refused.status.as_u16(), status, "{query}: {refused:?}");
        assert!(refused.text.contains(named), "{query}: {refused:?}");
    }
}

fn operators() -> Arc<Operators> {
    let health = Arc::new(EdgeHealth::unserved());
    Arc::new(Operators::new(Handles::new(), Duration::ZERO, health))
}

async fn ask(operators: &Arc<Operators>, query: &str) -> StatusCode {
    let state = State(Arc::clone(operators));
    let answer = start(state, RequestId::random(), Query(pairs(query))).await;
    answer.status()
}

async fn names(operators: &Arc<Operators>) -> Vec<String> {
    let debugged = operators.debugged.lock().await;
    let names = debugged
        .clients
        .iter()
        .map(|(client, _)| client.name.to_string());
    names.collect()
}

#[tokio::test(start_paused = true)]
async fn each_client_ends_when_its_time_is_over_which_can_be_changed() {
    let operators = operators();
    for query in ["client=192.0.2.1&for=10s", "client=192.0.2.2&for=20s"] {
        assert_eq!(ask(&operators, query).await, 200);
    }
    sleep(Duration::from_secs(9)).await;
    assert_eq!(ask(&operators, "client=192.0.2.1&for=30s").await, 200);
    assert_eq!(
        names(&operators).await,
        ["192.0.2.2", "192.0.2.1"],
        "none is there twice"
    );
    sleep(Duration::from_secs(12)).await;
    assert_eq!(names(&operators).await, ["192.0.2.1"]);
    let state = operators.debugged.lock().await.state();
    assert_eq!(state["clients"][0]["ends_in_ms"], 18_000, "{state}");
    sleep(Duration::from_secs(19)).await;
    assert!(names(&operators).await.is_empty());
    // Nothing is left that waits.
    assert!(operators.debugged.lock().await.ending.is_none());
}

#[tokio::test(start_paused = true)]
async fn clients_are_bounded_and_can_be_ended() {
    let operators = operators();
    for number in 0..CLIENTS_MAX {
        let query = format!("client=192.0.2.{number}&for=1m");
        assert_eq!(ask(&operators, &query).await, 200);
    }
    assert_eq!(ask(&operators, "client=192.0.2.99&for=1m").await, 409);
    assert_eq!(
        ask(&operators, "client=192.0.2.3&for=2m").await,
        200,
        "a known one"
    );
    let end = async |query: &str| {
        let state = State(Arc::clone(&operators));
        let answer = end(state, RequestId::random(), Query(pairs(query))).await;
        answer.status().as_u16()
    };
    assert_eq!(end("client=192.0.2.99").await, 404);
    assert_eq!(end("client=192.0.2.5").await, 200);
    assert_eq!(end("client=192.0.2.5").await, 404);
    assert_eq!(names(&operators).await.len(), CLIENTS_MAX - 1);
    assert_eq!(ask(&operators, "client=192.0.2.99&for=1m").await, 200);
    assert_eq!(end("address=192.0.2.5").await, 400);
    assert_eq!(end("").await, 200);
    assert!(names(&operators).await.is_empty());
    assert_eq!(end("").await, 200, "there is nothing to end");
    advance(Duration::from_secs(200)).await;
    assert!(names(&operators).await.is_empty());
}
