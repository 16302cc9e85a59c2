//! Connections whose bytes the vectors give: the ticks and gaps that a client hands out, how it
//! comes back, and its next resume point.

use serde_json::{Value, json};
use tickstorm_client::{Options, Quality};
use tickstorm_testkit::vectors::{bytes, cases};

use super::script::{Network, Seeing};
use super::{epoch_of, mode_of, words};
use crate::edge::Edge;

/// Long enough for a client that was refused to come back.
const PATIENCE_MS: i64 = 100_000;

#[tokio::test(start_paused = true)]
async fn a_client_passes_the_sessions_of_the_vectors() {
    for case in cases("sessions.json", "client_sessions") {
        // A program can't have this client send two SUBSCRIBEs at once.
        if case["subscribes"].as_array().unwrap().len() == 1 {
            for piece in [usize::MAX, 1] {
                follow(&case, piece).await;
            }
        }
    }
}

async fn follow(case: &Value, piece: usize) {
    let id = &case["id"];
    let subscribe = &case["subscribes"][0];
    let mut options = Options::new("a").mode(mode_of(subscribe)).moves(false);
    if let Some(point) = epoch_of(&subscribe["resume_after_epoch_ms"]) {
        options = options.resume_after(point);
    }
    let mut network = Network::start(options, 1_800_000_000_250);
    let ask = network.ask_until(1).await.unwrap();
    let mut edge = network.accept(ask);
    for piece in bytes(&case["hex"]).chunks(piece) {
        edge.try_send(piece).await;
    }
    if case["ends"].is_null() {
        // Time enough to read, but not to find that the edge is of no use.
        let asked = network.ask_until(50).await;
        assert!(asked.is_none(), "{id}: the client connects again");
        assert_eq!(seen(&network), expected(case), "{id}");
        return;
    }
    if !case["closes"].is_null() {
        drop(edge);
    }
    let is_subscribed = case["events"].as_array().unwrap().iter();
    if !is_subscribed
        .clone()
        .any(|event| !event["subscribed"].is_null())
    {
        let error = network.gives_up().await;
        let resumes = !subscribe["resume_after_epoch_ms"].is_null();
        assert_eq!(
            words(error.come_back(), resumes),
            case["ends"]["come_back"],
            "{id}"
        );
        return;
    }
    let Some(ask) = network.ask_until(PATIENCE_MS).await else {
        panic!("{id}: the client does not come back");
    };
    assert_eq!(seen(&network), expected(case), "{id}");
    let mut edge = network.accept(ask);
    assert_eq!(
        resume_point(&mut edge).await,
        case["ends"]["resume_after_epoch_ms"],
        "{id}"
    );
}

async fn resume_point(edge: &mut Edge) -> Value {
    edge.accept().await;
    let point = edge.subscription().await.resume_after;
    point.map_or(Value::Null, |point| json!(point.as_ms().to_string()))
}

/// Returns the ticks, the gaps and the end that the client has handed out.
fn seen(network: &Network) -> Vec<Value> {
    let shown = |(_, seen): &(i64, Seeing)| match seen {
        Seeing::Tick { epoch, quality } => json!({"tick": {
            "epoch_ms": epoch.as_ms().to_string(),
            "quality": match quality {
                Quality::Normal => "NORMAL",
                Quality::Holdover => "HOLDOVER",
                Quality::Replay => "REPLAY",
            },
        }}),
        Seeing::Gap { after, before } => json!({"gap": {
            "after_epoch_ms": after.as_ms().to_string(),
            "before_epoch_ms": before.as_ms().to_string(),
        }}),
        Seeing::Ended { come_back, .. } => json!({"come_back": come_back}),
        Seeing::Connected | Seeing::Moved => panic!("{seen:?}"),
    };
    network.record.lock().unwrap().iter().map(shown).collect()
}

fn expected(case: &Value) -> Vec<Value> {
    let mut expected = Vec::new();
    for event in case["events"].as_array().unwrap() {
        if let Some(tick) = event.get("tick") {
            let (epoch_ms, quality) = (&tick["epoch_ms"], &tick["quality"]);
            expected.push(json!({"tick": {"epoch_ms": epoch_ms, "quality": quality}}));
        } else if let Some(gap) = event.get("gap") {
            expected.push(json!({"gap": gap}));
        }
    }
    if let Some(come_back) = case["ends"].get("come_back") {
        expected.push(json!({"come_back": come_back}));
    }
    expected
}
