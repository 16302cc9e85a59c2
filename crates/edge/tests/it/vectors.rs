//! The vectors in `conformance/` for an edge: whole sessions, and bad frames as the first one and
//! after AUTH. Sessions last up to 20 s, so all of them run at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tickstorm_edge::Config;
use tickstorm_testkit::vectors::{bytes, cases, frame_type, integer, interval, payload};
use tickstorm_testkit::{Peer, RawFrame, Received, TempDir, frame, peer};
use tickstorm_timebase::{Clock as _, Mode, Mono, SystemClock};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{PASSWORD, SOON, TestEdge, USER, config, wall_ms};

type Edges = HashMap<String, Arc<Mutex<TestEdge>>>;

/// Returns the configuration of a session's edge.
fn config_of(case: &Value, tokens: &TempDir) -> Config {
    let mut config = config();
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(b"s3cret"));
    config.credentials.tokens = Some(tokens.write("tokens", format!("till-7 {digest}\n")));
    for (name, value) in case["edge"].as_object().unwrap_or(&Map::new()) {
        let number = || value.as_u64().unwrap();
        match name.as_str() {
            "heartbeat_interval_ms" => config.heartbeat_interval = Duration::from_millis(number()),
            "heartbeat_timeout_ms" => config.heartbeat_timeout = Duration::from_millis(number()),
            "frame_rate_limit" => config.frame_rate = u32::try_from(number()).unwrap(),
            "max_msg_size" => config.max_msg_size = usize::try_from(number()).unwrap(),
            "knows_time" => {}
            other => panic!("{other} is no setting of an edge in the vectors"),
        }
    }
    config
}

/// Returns the intervals of `retry_after_ms` by code, without and with a resume point.
fn hints() -> HashMap<String, [(i64, i64); 2]> {
    let hint = |row: &Value| {
        let without = interval(&row["retry_after_ms"]);
        let with = row["with_resume_point"].get("retry_after_ms").map(interval);
        [without, with.unwrap_or(without)]
    };
    let rows = cases("reconnect.json", "codes");
    let by_code = rows
        .iter()
        .map(|row| (row["code"].as_str().unwrap().to_owned(), hint(row)));
    by_code.collect()
}

#[tokio::test]
async fn an_edge_passes_the_sessions_of_the_vectors() {
    let (tokens, hints) = (TempDir::new("vectors"), Arc::new(hints()));
    let (mut edges, mut sessions) = (Edges::new(), JoinSet::new());
    for case in cases("sessions.json", "edge_sessions") {
        let knows_time = case["edge"]["knows_time"] != false;
        // An edge that learns the time in the middle of a session is for this session alone.
        let name = if knows_time {
            case["edge"].to_string()
        } else {
            case["id"].to_string()
        };
        if !edges.contains_key(&name) {
            let mut edge = TestEdge::start_without_clock(config_of(&case, &tokens)).await;
            if knows_time {
                edge.start_clock();
                edge.ready().await;
            }
            edges.insert(name.clone(), Arc::new(Mutex::new(edge)));
        }
        let (edge, hints) = (Arc::clone(&edges[&name]), Arc::clone(&hints));
        sessions.spawn(async move { Session::run(&case, &edge, &hints).await });
    }
    sessions.join_all().await;
    for (_, edge) in edges {
        Arc::into_inner(edge).unwrap().into_inner().stop().await;
    }
}

/// A session under way.
struct Session<'a> {
    case: &'a Value,
    peer: Peer,
    began: Mono,
    connection_id: Option<String>,
    /// The resume point that was sent, and the time before that.
    resume_after: Option<i64>,
    asked_at_ms: i64,
    hints: &'a HashMap<String, [(i64, i64); 2]>,
}

impl<'a> Session<'a> {
    async fn run(
        case: &'a Value,
        edge: &Mutex<TestEdge>,
        hints: &'a HashMap<String, [(i64, i64); 2]>,
    ) {
        let (addr, began) = (edge.lock().await.addr(), SystemClock.now());
        let mut session = Self {
            case,
            peer: Peer::connect(addr).await,
            began,
            connection_id: None,
            resume_after: None,
            asked_at_ms: wall_ms(),
            hints,
        };
        let mut is_open = true;
        for step in case["steps"].as_array().unwrap() {
            if step["edge"] == "learns_time" {
                session.wait_until(&step["at_ms"]).await;
                edge.lock().await.start_clock();
            } else if step["from"] == "client" {
                session.wait_until(&step["at_ms"]).await;
                session.send(step).await;
            } else {
                session.expect(step).await;
            }
            if step["closes"] == true {
                session.peer.expect_eof().await;
                is_open = false;
            }
        }
        if is_open {
            // By then, the strictest rate allows another frame.
            sleep(Duration::from_secs(1)).await;
            session.peer.heartbeat(77).await;
            let (_, pong) = session.peer.skip_batches().await;
            assert_eq!(pong.kind, frame::PONG, "{}: {pong:?}", case["id"]);
        }
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(SystemClock.now().since(self.began).as_millis()).unwrap()
    }

    async fn wait_until(&self, at_ms: &Value) {
        let wait = integer(at_ms) - self.elapsed_ms();
        sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(0))).await;
    }

    async fn send(&mut self, step: &Value) {
        self.asked_at_ms = wall_ms();
        if let Some(offset) = step.get("resume_after_now_ms") {
            let point = self.asked_at_ms + integer(offset);
            self.resume_after = Some(point);
            self.peer
                .subscribe_with(Mode::Second, Some(point), false)
                .await;
            return;
        }
        let bytes = bytes(&step["hex"]);
        let size = step["pieces_of"].as_u64().unwrap_or(1 << 20);
        for piece in bytes.chunks(usize::try_from(size).unwrap()) {
            // An edge that has refused the start of a burst may have closed the connection.
            let _ = self.peer.try_send(piece).await;
            tokio::task::yield_now().await;
        }
    }

    async fn expect(&mut self, step: &Value) {
        let kind = frame_type(&step["type"]);
        let first = self.next(step).await;
        assert_eq!(
            first.kind,
            kind.byte(),
            "{}: {first:?} is no {step}",
            self.case["id"]
        );
        let found = payload(kind, &first.payload).expect("a message");
        for (field, expected) in step["payload"].as_object().unwrap() {
            self.compare(field, expected, &found[field]);
        }
        if step["type"] == "ERROR" {
            self.check_hint(&found);
        }
        if let Some(start) = step["start"].as_str() {
            self.check_start(start, integer(&found["start_epoch_ms"]));
        }
        let (least, most) = step.get("count").map_or((1, 1), interval);
        let mut count = 1;
        while count < least {
            let next = self.next(step).await;
            assert_eq!(
                next.kind,
                kind.byte(),
                "{}: number {count}",
                self.case["id"]
            );
            count += 1;
        }
        if most > least {
            self.skip_more(kind.byte(), most - least).await;
        }
    }

    /// Reads up to `most` further frames of this type. The peer keeps the frame after them.
    async fn skip_more(&mut self, kind: u8, most: i64) {
        let mut count = 0;
        loop {
            match self.peer.peek_kind().await {
                Some(frame::DATA_BATCH) => {}
                Some(next) if next == kind => count += 1,
                Some(_) | None => return,
            }
            self.peer.expect_frame().await;
            assert!(count <= most, "{}: too many frames", self.case["id"]);
        }
    }

    /// Returns the next frame that is no batch, and checks when it came.
    async fn next(&mut self, step: &Value) -> RawFrame {
        loop {
            let received = self.peer.next_frame(SOON).await;
            let Received::Frame(frame) = received else {
                panic!("{}: {received:?} instead of {step}", self.case["id"]);
            };
            if frame.kind == frame::DATA_BATCH {
                continue;
            }
            if let Some(at_ms) = step.get("at_ms") {
                let ((least, most), now) = (interval(at_ms), self.elapsed_ms());
                let slack = i64::try_from(SOON.as_millis()).unwrap();
                let is_in_time = (least..=most + slack).contains(&now);
                assert!(is_in_time, "{}: after {now} ms: {step}", self.case["id"]);
            }
            return frame;
        }
    }

    fn compare(&mut self, field: &str, expected: &Value, found: &Value) {
        let id = &self.case["id"];
        if expected == "$id" {
            let found = found.as_str().unwrap_or_default();
            let is_valid = (1..=40).contains(&found.len())
                && found.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(is_valid, "{id}: {field} is {found:?}");
            let first = self.connection_id.get_or_insert_with(|| found.to_owned());
            assert_eq!(found, first, "{id}: {field}");
        } else if expected == "0" && found.is_null() {
            // A default value is not on the wire.
        } else {
            assert_eq!(found, expected, "{id}: {field}");
        }
    }

    fn check_hint(&self, error: &Value) {
        let [without, with] = self.hints[error["code"].as_str().unwrap()];
        let (least, most) = if self.resume_after.is_some() {
            with
        } else {
            without
        };
        let hint = error.get("retry_after_ms").map_or(0, integer);
        assert!(
            (least..=most).contains(&hint),
            "{}: {error}",
            self.case["id"]
        );
    }

    fn check_start(&self, start: &str, found: i64) {
        let window_ms = 600_000;
        let (least, most) = match start {
            "resume_point" => (self.resume_after.unwrap(), self.resume_after.unwrap()),
            "now" => (self.asked_at_ms - 2_000, wall_ms()),
            "window" => (
                self.asked_at_ms - window_ms - 1_000,
                wall_ms() - window_ms + 1_000,
            ),
            other => panic!("{other} is no start in the vectors"),
        };
        let is_right = (least..=most).contains(&found);
        assert!(
            is_right,
            "{}: start {found} is not {start}",
            self.case["id"]
        );
    }
}

#[tokio::test]
async fn an_edge_refuses_the_bad_frames_of_the_vectors() {
    let edge = TestEdge::start(config()).await;
    let mut checked = 0;
    for case in cases("frames.json", "cases") {
        // An edge that allows less is another one, and payloads are a matter of sessions.
        let is_for_others = case["ok"] == true
            || case["reader"] == "client"
            || case["error"] == "MALFORMED_PAYLOAD"
            || case["max_msg_size"].as_u64().unwrap_or(65_536) != 65_536;
        if is_for_others {
            continue;
        }
        let code = case["error"].as_str().unwrap();
        let after = usize::try_from(case["after_bytes"].as_u64().unwrap()).unwrap();
        let start = &bytes(&case["hex"])[..after];
        if case["when"] != "after_auth" {
            let mut peer = Peer::connect(edge.addr()).await;
            peer.send(start).await;
            peer.expect_refusal(code).await;
        }
        if case["when"] != "before_auth" {
            let mut peer = Peer::connect(edge.addr()).await;
            peer.send(&peer::auth(USER, PASSWORD)).await;
            peer.expect_ack(frame::AUTH).await;
            peer.send(start).await;
            peer.expect_refusal(code).await;
        }
        checked += 1;
    }
    assert!(checked > 20, "{checked} bad frames");
    edge.stop().await;
}
