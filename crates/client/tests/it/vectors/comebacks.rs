//! How a client comes back: each attempt to connect, the wait before it, and its resume point.

use serde_json::{Map, Value};
use tickstorm_client::error::{ErrorCode, Return};
use tickstorm_client::{Epoch, Mode, Options};
use tickstorm_testkit::vectors::{bytes, cases, integer, interval};

use super::script::{
    Ask, Behaviour, Network, SLACK_MS, closed_at, end, ip_addresses, last_tick, refuse, serve,
};
use super::{mode_of, words};
use crate::edge::Edge;

const AUTHORITY_MS: i64 = 1_800_000_000_250;
/// The random waits differ from run to run, so each case is tried several times.
const RUNS: usize = 3;
/// Longer than any wait.
const FAR_MS: i64 = 200_000;

#[test]
fn codes_are_as_the_vectors_say() {
    for row in cases("reconnect.json", "codes") {
        let code: ErrorCode = row["code"].as_str().unwrap().parse().unwrap();
        assert_eq!(words(code.come_back(), false), row["come_back"], "{row}");
        if let Some(with) = row.get("with_resume_point") {
            assert_eq!(words(code.come_back(), true), with["come_back"]);
            assert_eq!(code.come_back(), Return::RetryResumeOnce);
        }
        let hint = code.retry_after_ms().unwrap_or(0..=0);
        let hint = (i64::from(*hint.start()), i64::from(*hint.end()));
        assert_eq!(hint, interval(&row["retry_after_ms"]), "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_comes_back_as_the_vectors_say() {
    for case in cases("reconnect.json", "comebacks") {
        for _ in 0..RUNS {
            Comeback::follow(&case).await;
        }
    }
}

/// Returns a client's options for a case.
pub(super) fn options(case: &Value) -> Options {
    let mut addresses = case["addresses"].as_array().unwrap().iter();
    let first = addresses.next().unwrap().as_str().unwrap();
    addresses
        .fold(Options::new(first), |options, next| {
            options.or_at(next.as_str().unwrap())
        })
        .mode(mode_of(case))
}

/// Checks the resume point of a SUBSCRIBE, if the attempt says what it is.
pub(super) fn check_resume(attempt: &Value, point: Option<Epoch>, sent: Option<Epoch>, id: &Value) {
    match attempt.get("resume_after") {
        None => {}
        Some(Value::Null) => assert_eq!(point, None, "{id}: {attempt}"),
        // The start is the point until a tick is sent.
        Some(_) => assert_eq!(point, sent, "{id}: {attempt}"),
    }
}

struct Comeback<'a> {
    case: &'a Value,
    mode: Mode,
    network: Network,
    /// The last tick that the client was sent, or the start of its subscription.
    sent: Option<Epoch>,
}

impl<'a> Comeback<'a> {
    async fn follow(case: &'a Value) {
        let id = &case["id"];
        let mut comeback = Self {
            case,
            mode: mode_of(case),
            network: Network::start(options(case), AUTHORITY_MS),
            sent: None,
        };
        let mut ended_ms = 0;
        for (number, attempt) in case["attempts"].as_array().unwrap().iter().enumerate() {
            let Some(ask) = comeback.network.ask_until(ended_ms + FAR_MS).await else {
                panic!("{id}: attempt {number} is not made");
            };
            assert_eq!(ask.address, attempt["address"], "{id}: attempt {number}");
            let waited = ask.at_ms - ended_ms;
            let (least, most) = interval(&attempt["wait_ms"]);
            let is_right = (least..=most + SLACK_MS).contains(&waited);
            assert!(
                is_right,
                "{id}: attempt {number} after {waited} ms: {attempt}"
            );
            comeback.play(attempt, ask).await;
            ended_ms = comeback.network.time.now_ms();
        }
        if case["gives_up"] == true {
            comeback.network.gives_up().await;
        }
        comeback.network.check_ticks(comeback.mode, id);
    }

    /// Plays the network and the edge of one attempt to its end.
    async fn play(&mut self, attempt: &Value, ask: Ask) {
        if attempt["unreachable"] == true {
            return Network::refuse(ask);
        }
        if attempt["unanswered"] == true {
            return self.network.ignore(ask, attempt, &self.case["id"]).await;
        }
        self.network.authority_ms += attempt.get("authority_jumps_ms").map_or(0, integer);
        let made_ms = ask.at_ms;
        let mut edge = self.network.accept_at_one_of(ip_addresses(attempt), ask);
        if attempt["silent_after"] == "connect" {
            return self.gives_up(attempt, made_ms, edge).await;
        }
        if attempt["answers"] == "AUTH" {
            return refuse(edge, &attempt["error"]).await;
        }
        self.authenticate(attempt, &mut edge).await;
        let accepted_ms = self.network.time.now_ms();
        let request = edge.subscription().await;
        check_resume(attempt, request.resume_after, self.sent, &self.case["id"]);
        if attempt["silent_after"] == "ACK of AUTH" {
            return self.gives_up(attempt, made_ms, edge).await;
        }
        if attempt["answers"] == "SUBSCRIBE" {
            return refuse(edge, &attempt["error"]).await;
        }
        let mut heartbeats = Vec::new();
        if let Some(delay) = attempt.get("ack_of_subscribe_after_ms") {
            let until = accepted_ms + integer(delay);
            let timeless = (self.mode, Behaviour::TIMELESS);
            let time = self.network.time;
            let closed = serve(&mut edge, timeless, time, until, &mut heartbeats).await;
            assert!(!closed, "{}: gives up {attempt}", self.case["id"]);
        }
        let now_ms = self.network.authority_ms + self.network.time.now_ms();
        let now = Epoch::from_ms(now_ms - now_ms.rem_euclid(self.mode.period_ms()));
        edge.subscribed(request.resume_after.unwrap_or(now)).await;
        self.serve(attempt, accepted_ms, &mut edge, &mut heartbeats)
            .await;
        self.sent = Some(last_tick(&edge));
        end(edge, &attempt["ends"]).await;
    }

    async fn authenticate(&self, attempt: &Value, edge: &mut Edge) {
        if let Some(delay) = attempt.get("ack_of_auth_after_ms") {
            let time = self.network.time;
            tokio::time::sleep_until(time.at(time.now_ms() + integer(delay))).await;
        }
        if attempt["protocol_minor"] == 0 {
            return edge.accept_as_minor_0().await;
        }
        let given = attempt.get("gives_cookie").map(bytes).unwrap_or_default();
        let auth = edge.accept_with(&given).await;
        if let Some(presented) = attempt.get("presents_cookie") {
            let expected = if presented.is_null() {
                Vec::new()
            } else {
                bytes(presented)
            };
            assert_eq!(auth.cookie, expected, "{}: {attempt}", self.case["id"]);
        }
    }

    async fn serve(
        &self,
        attempt: &Value,
        accepted_ms: i64,
        edge: &mut Edge,
        heartbeats: &mut Vec<i64>,
    ) {
        let (id, time) = (&self.case["id"], self.network.time);
        let until = time.now_ms() + integer(&attempt["serves_ms"]);
        let healthy = (self.mode, Behaviour::HEALTHY);
        let closed = serve(edge, healthy, time, until, heartbeats).await;
        assert!(!closed, "{id}: the client closes {attempt}");
        if let Some(expected) = attempt.get("heartbeats").and_then(Value::as_object) {
            check_count(expected, accepted_ms, heartbeats, id);
        }
    }

    /// Plays an edge that does not answer until the client gives it up.
    async fn gives_up(&mut self, attempt: &Value, made_ms: i64, mut edge: Edge) {
        let (id, time) = (&self.case["id"], self.network.time);
        let until = made_ms + FAR_MS;
        if attempt["silent_after"] == "connect" {
            let closed = closed_at(&mut edge, time, until).await;
            assert!(closed.is_some(), "{id}: the client waits without limit");
        } else {
            let timeless = (self.mode, Behaviour::TIMELESS);
            let closed = serve(&mut edge, timeless, time, until, &mut Vec::new()).await;
            assert!(closed, "{id}: the client waits without limit");
        }
        self.network.check_limit(attempt, made_ms, id);
    }
}

fn check_count(expected: &Map<String, Value>, from_ms: i64, heartbeats: &[i64], id: &Value) {
    let within = integer(&expected["within_ms"]);
    let count = heartbeats
        .iter()
        .filter(|&&at| at - from_ms <= within)
        .count();
    let (least, most) = interval(&expected["count"]);
    let is_right = (least..=most).contains(&i64::try_from(count).unwrap());
    assert!(is_right, "{id}: {count} HEARTBEATs within {within} ms");
}
