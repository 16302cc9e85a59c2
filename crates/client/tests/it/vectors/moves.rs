//! Moves from one edge to another: when attempts are made, which of them are a move, and what
//! becomes of an attempt when the old connection ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tickstorm_client::{Epoch, Mode};
use tickstorm_testkit::vectors::{cases, integer, interval};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::comebacks::{check_resume, options};
use super::script::{
    Ask, Behaviour, Network, SLACK_MS, Time, closed_at, end, ip_addresses, last_tick, refuse, serve,
};
use crate::edge::Edge;

const AUTHORITY_MS: i64 = 1_800_000_000_250;
/// The random moments differ from run to run, so each case is tried several times.
const RUNS: usize = 3;
/// Longer than any wait.
const FAR_MS: i64 = 700_000;
/// How soon the old edge learns of a further act, and the script of a tick.
const TURN_MS: i64 = 100;
const HEALTHY: (Mode, Behaviour) = (Mode::Second, Behaviour::HEALTHY);

#[tokio::test(start_paused = true)]
async fn a_client_moves_as_the_vectors_say() {
    for case in cases("moves.json", "moves") {
        for _ in 0..RUNS {
            Relocation::follow(&case).await;
        }
    }
}

/// The next act of the old edge.
enum Act {
    GoAway { deadline_ms: u32 },
    End(Value),
}

/// The old edge, which continues while attempts are made.
struct OldEdge {
    acts: mpsc::UnboundedSender<(i64, Act)>,
    last_ms: Arc<AtomicI64>,
    ended: watch::Receiver<Option<Ended>>,
    edge_id: String,
}

/// The end of the old connection.
#[derive(Clone, Copy, Debug)]
struct Ended {
    by_client: bool,
    at_ms: i64,
}

impl OldEdge {
    fn start(edge: Edge, acts: VecDeque<(i64, Act)>, time: Time) -> Self {
        let last_ms = Arc::new(AtomicI64::new(last_tick(&edge).as_ms()));
        let (sender, further) = mpsc::unbounded_channel();
        let edge_id = edge.limits.edge_id.clone();
        let (reports, ended) = watch::channel(None);
        let last = Arc::clone(&last_ms);
        tokio::spawn(async move {
            let by_client = play_old(edge, acts, further, time, last).await;
            let at_ms = time.now_ms();
            reports.send_replace(Some(Ended { by_client, at_ms }));
        });
        Self {
            acts: sender,
            last_ms,
            ended,
            edge_id,
        }
    }

    /// Waits for the end of the connection.
    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let far = Duration::from_millis(FAR_MS.unsigned_abs());
        let waiting = timeout(far, ended.wait_for(Option::is_some)).await;
        let ended = waiting.expect("the old connection ends").unwrap();
        ended.unwrap()
    }

    fn last_tick(&self) -> Epoch {
        Epoch::from_ms(self.last_ms.load(Ordering::SeqCst))
    }
}

/// Returns whether the client closed the connection.
async fn play_old(
    mut edge: Edge,
    mut acts: VecDeque<(i64, Act)>,
    mut further: mpsc::UnboundedReceiver<(i64, Act)>,
    time: Time,
    last_ms: Arc<AtomicI64>,
) -> bool {
    loop {
        let now_ms = time.now_ms();
        let next_ms = acts.front().map_or(now_ms + FAR_MS, |&(at_ms, _)| at_ms);
        // In turns, so that the script knows the last tick, and can add acts.
        let until_ms = next_ms.min(now_ms + TURN_MS);
        let closed = serve(&mut edge, HEALTHY, time, until_ms, &mut Vec::new()).await;
        last_ms.store(last_tick(&edge).as_ms(), Ordering::SeqCst);
        if closed {
            return true;
        }
        while let Ok(act) = further.try_recv() {
            acts.push_front(act);
        }
        if acts.front().is_none_or(|&(at_ms, _)| at_ms > time.now_ms()) {
            continue;
        }
        match acts.pop_front().unwrap().1 {
            Act::GoAway { deadline_ms } => edge.go_away(deadline_ms).await,
            Act::End(ends) => {
                end(edge, &ends).await;
                return false;
            }
        }
    }
}

struct Relocation<'a> {
    case: &'a Value,
    network: Network,
    old: OldEdge,
    /// When GOING_AWAY is sent.
    zero_ms: i64,
    /// When the last attempt ended.
    ended_ms: i64,
}

impl<'a> Relocation<'a> {
    async fn follow(case: &'a Value) {
        let mut relocation = Self::begin(case).await;
        relocation.attempt_all().await;
        if let Some(then) = case.get("then") {
            relocation.check_return(then).await;
        }
        relocation.network.check_ticks(Mode::Second, &case["id"]);
    }

    /// Brings the client to the old edge, which sends GOING_AWAY at its times.
    async fn begin(case: &'a Value) -> Self {
        let mut network = Network::start(options(case), AUTHORITY_MS);
        let ask = network.ask_until(1).await.unwrap();
        let mut edge = subscribe(&mut network, ask).await;
        let failures = case.get("failures_before").map_or(0, integer);
        if failures > 0 {
            drop(edge);
            for _ in 0..failures {
                Network::refuse(
                    network
                        .ask_until(network.time.now_ms() + FAR_MS)
                        .await
                        .unwrap(),
                );
            }
            let ask = network
                .ask_until(network.time.now_ms() + FAR_MS)
                .await
                .unwrap();
            edge = subscribe(&mut network, ask).await;
        }
        let time = network.time;
        let before_ms = case.get("subscribed_before_ms").map_or(5_000, integer);
        let zero_ms = time.now_ms() + before_ms;
        let closed = serve(&mut edge, HEALTHY, time, zero_ms, &mut Vec::new()).await;
        assert!(!closed);
        let mut acts = VecDeque::new();
        for each in case["going_away"].as_array().unwrap() {
            let deadline_ms = u32::try_from(integer(&each["deadline_ms"])).unwrap();
            acts.push_back((
                zero_ms + integer(&each["at_ms"]),
                Act::GoAway { deadline_ms },
            ));
        }
        if let Some(at_ms) = case["old_ends"].get("at_ms") {
            acts.push_back((
                zero_ms + integer(at_ms),
                Act::End(case["old_ends"]["ends"].clone()),
            ));
        }
        Self {
            case,
            old: OldEdge::start(edge, acts, time),
            network,
            zero_ms,
            ended_ms: zero_ms,
        }
    }

    async fn attempt_all(&mut self) {
        let id = &self.case["id"];
        let attempts = self.case["attempts"].as_array().unwrap();
        let (mut index, mut repeated) = (0, false);
        loop {
            // The client makes no attempts after the deadline, and the old edge ends then.
            let ask = tokio::select! {
                biased;
                ask = self.network.ask_until(self.network.time.now_ms() + FAR_MS) => ask,
                _ = self.old.ended() => None,
            };
            let Some(ask) = ask else {
                assert!(
                    self.case["until_ms"].is_number(),
                    "{id}: attempt {index} is not made"
                );
                return;
            };
            let at_ms = ask.at_ms - self.zero_ms;
            if repeated && at_ms > attempts[index].get("until_ms").map_or(FAR_MS, integer) {
                (index, repeated) = (index + 1, false);
            }
            let attempt = &attempts[index];
            let limit = self.case.get("until_ms").map_or(FAR_MS, integer);
            assert!(at_ms <= limit + SLACK_MS, "{id}: an attempt at {at_ms} ms");
            if !repeated || attempt["wait_ms"].is_array() {
                self.check_moment(attempt, &ask);
            }
            if self.play(attempt, ask).await {
                return;
            }
            self.ended_ms = self.network.time.now_ms();
            repeated = attempt["repeats"] == true;
            if !repeated {
                index += 1;
            }
            if index == attempts.len() {
                return;
            }
        }
    }

    fn check_moment(&self, attempt: &Value, ask: &Ask) {
        let id = &self.case["id"];
        if self.case["any_address"] != true {
            assert_eq!(ask.address, attempt["address"], "{id}: {attempt}");
        }
        let (from_ms, span) = match attempt.get("at_ms") {
            Some(at_ms) => (self.zero_ms, at_ms),
            None => (self.ended_ms, &attempt["wait_ms"]),
        };
        let ((least, most), waited) = (interval(span), ask.at_ms - from_ms);
        let is_right = (least..=most + SLACK_MS).contains(&waited);
        assert!(is_right, "{id}: after {waited} ms: {attempt}");
    }

    /// Plays one attempt, and returns whether it is a move.
    async fn play(&mut self, attempt: &Value, ask: Ask) -> bool {
        let made_ms = ask.at_ms;
        let at_first = self.case["old_ends"].get("after_attempt_ms");
        if let Some(after) = at_first.filter(|_| self.old.ended.borrow().is_none()) {
            let ends = Act::End(self.case["old_ends"]["ends"].clone());
            self.old
                .acts
                .send((made_ms + integer(after), ends))
                .unwrap();
        }
        if attempt["unreachable"] == true {
            Network::refuse(ask);
            return false;
        }
        if attempt["unanswered"] == true {
            self.network.ignore(ask, attempt, &self.case["id"]).await;
            return false;
        }
        let mut edge = self.network.accept_at_one_of(ip_addresses(attempt), ask);
        if attempt["edge_id"] == "same" {
            edge.limits.edge_id.clone_from(&self.old.edge_id);
        }
        if attempt["silent_after"] == "connect" {
            self.check_giving_up(attempt, made_ms, edge).await;
            return false;
        }
        if attempt["answers"] == "AUTH" {
            match attempt.get("ends") {
                Some(ends) => end(edge, ends).await,
                None => refuse(edge, &attempt["error"]).await,
            }
            return false;
        }
        let time = self.network.time;
        if let Some(delay) = attempt.get("ack_of_auth_after_ms") {
            let until_ms = made_ms + integer(delay);
            if closed_at(&mut edge, time, until_ms).await.is_some() {
                assert_eq!(attempt["moves"], false, "{}: dropped", self.case["id"]);
                return false;
            }
        }
        self.subscribe(attempt, edge).await
    }

    async fn subscribe(&mut self, attempt: &Value, mut edge: Edge) -> bool {
        let (id, time) = (&self.case["id"], self.network.time);
        if attempt.get("ack_of_auth_after_ms").is_some() {
            edge.greet(&[]).await;
        } else {
            edge.accept().await;
        }
        let point = edge.subscription().await.resume_after.unwrap();
        if attempt.get("ack_of_auth_after_ms").is_none() {
            // The script learns of a tick later than the client.
            let last_ms = self.old.last_tick().as_ms();
            let is_last = [last_ms, last_ms + 1_000].contains(&point.as_ms());
            assert!(
                is_last,
                "{id}: resumes after {point:?}, and the last tick was {last_ms}"
            );
        }
        let late_ms = if attempt["start"] == "too late" {
            5_000
        } else {
            0
        };
        edge.subscribed(Epoch::from_ms(point.as_ms() + late_ms))
            .await;
        if attempt["moves"] == false {
            assert!(
                edge.is_closed().await,
                "{id}: the new connection stays: {attempt}"
            );
            return false;
        }
        let after_ms = self.case.get("subscribed_after_ms").map_or(3_000, integer);
        let until_ms = time.now_ms() + after_ms;
        let closed = serve(&mut edge, HEALTHY, time, until_ms, &mut Vec::new()).await;
        assert!(
            !closed,
            "{id}: the client closes the new connection: {attempt}"
        );
        let ended = self.old.ended().await;
        assert!(
            ended.by_client || !self.case["old_ends"].is_null(),
            "{id}: the old connection"
        );
        let last_ms = last_tick(&edge).as_ms();
        self.old.last_ms.store(last_ms, Ordering::SeqCst);
        if let Some(ends) = self.case.get("new_ends") {
            end(edge, ends).await;
        }
        self.ended_ms = time.now_ms();
        true
    }

    async fn check_giving_up(&self, attempt: &Value, made_ms: i64, mut edge: Edge) {
        let (id, time) = (&self.case["id"], self.network.time);
        let closed_ms = closed_at(&mut edge, time, made_ms + FAR_MS).await;
        let waited = closed_ms.expect("the client gives the attempt up") - made_ms;
        let (least, most) = interval(&attempt["gives_up_ms"]);
        let is_right = (least..=most).contains(&waited);
        assert!(is_right, "{id}: gives up after {waited} ms: {attempt}");
    }

    /// Checks the first attempt after the end of both connections.
    async fn check_return(&mut self, then: &Value) {
        let id = &self.case["id"];
        self.ended_ms = self.ended_ms.max(self.old.ended().await.at_ms);
        let until_ms = self.network.time.now_ms() + FAR_MS;
        let ask = self
            .network
            .ask_until(until_ms)
            .await
            .expect("the client comes back");
        if let Some(address) = then.get("address") {
            assert_eq!(ask.address, *address, "{id}: {then}");
        }
        let ((least, most), waited) = (interval(&then["wait_ms"]), ask.at_ms - self.ended_ms);
        let is_right = (least..=most + SLACK_MS).contains(&waited);
        assert!(is_right, "{id}: comes back after {waited} ms: {then}");
        let mut edge = self.network.accept(ask);
        edge.accept().await;
        let point = edge.subscription().await.resume_after;
        check_resume(then, point, Some(self.old.last_tick()), id);
    }
}

/// Accepts a client at its resume point, or else at the present.
async fn subscribe(network: &mut Network, ask: Ask) -> Edge {
    let mut edge = network.accept(ask);
    edge.accept().await;
    let request = edge.subscription().await;
    let now_ms = network.authority_ms + network.time.now_ms();
    let now = Epoch::from_ms(now_ms - now_ms.rem_euclid(1_000));
    edge.subscribed(request.resume_after.unwrap_or(now)).await;
    edge
}
