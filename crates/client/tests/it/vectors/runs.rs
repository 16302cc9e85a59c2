//! Subscriptions over time: when a client leaves an edge that is of no use, and when it releases
//! the ticks that it has received ahead.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tickstorm_client::{Epoch, Mode, Options, Quality};
use tickstorm_testkit::vectors::{cases, integer, interval};

use super::script::{Behaviour, Network, SLACK_MS, Seeing, end, serve};
use super::{epoch_of, mode_of};
use crate::edge::{BASE_US, Edge};

/// The random intervals of HEARTBEATs differ from run to run.
const RUNS: usize = 3;

#[tokio::test(start_paused = true)]
async fn subscriptions_go_as_the_vectors_say() {
    for case in cases("sessions.json", "runs") {
        for _ in 0..RUNS {
            Run::follow(&case).await;
        }
    }
}

struct Run<'a> {
    case: &'a Value,
    mode: Mode,
    network: Network,
    heartbeats: Vec<i64>,
}

impl<'a> Run<'a> {
    async fn follow(case: &'a Value) {
        let mode = mode_of(case);
        let mut options = Options::new("a")
            .mode(mode)
            .ahead(case["ahead"] == true)
            .reconnect(case["comes_back"] != false);
        let resume = epoch_of(&case["resume_after_epoch_ms"]);
        if let Some(point) = resume {
            options = options.resume_after(point);
        }
        let authority_ms = integer(&case["authority_ms"]);
        let mut run = Self {
            case,
            mode,
            network: Network::start(options, authority_ms),
            heartbeats: Vec::new(),
        };
        let ask = run.network.ask_until(1).await.unwrap();
        let mut edge = run.network.accept(ask);
        edge.accept().await;
        edge.subscription().await;
        let start = resume.or(epoch_of(&case["start_epoch_ms"])).unwrap();
        edge.subscribed(start).await;
        if resume.is_some() {
            run.replay(&mut edge, authority_ms).await;
        }
        run.play(edge).await;
        run.check_ticks();
        run.check_heartbeats();
    }

    /// Sends the ticks after the resume point whose time has come.
    async fn replay(&self, edge: &mut Edge, until_ms: i64) {
        let base_ms = BASE_US / 1_000;
        let first = edge.last_ms + self.mode.period_ms();
        let due = (first..=until_ms - base_ms).step_by(1_000);
        let frame = edge.batch(self.mode, Quality::Replay, due.clone());
        edge.last_ms = due.last().unwrap();
        edge.send(&frame).await;
    }

    /// Plays the edge to the end of the run.
    async fn play(&mut self, mut edge: Edge) {
        let (id, expect) = (&self.case["id"], &self.case["expect"]);
        let end_ms = match expect.get("stays_until_ms") {
            Some(stays) => integer(stays),
            None => interval(&expect["leaves_ms"]).1 + 1,
        };
        let mut changes: BTreeSet<i64> = [end_ms].into();
        let phases = self.case["edge"].as_array().unwrap();
        let starts = phases
            .iter()
            .chain(self.case["machine"].as_array().into_iter().flatten());
        changes.extend(
            starts
                .map(|start| start.get("from_ms").unwrap_or(&start["at_ms"]))
                .map(integer),
        );
        let mut closed = false;
        for &until in changes.range(1..=end_ms) {
            let is_current = |phase: &&Value| integer(&phase["from_ms"]) < until;
            let phase = phases.iter().rev().find(is_current).unwrap();
            let behaviour = (self.mode, Behaviour::of(phase));
            let time = self.network.time;
            closed = serve(&mut edge, behaviour, time, until, &mut self.heartbeats).await;
            if closed {
                break;
            }
            self.stop_machine_at(until).await;
        }
        if let Some(leaves) = expect.get("leaves_ms") {
            assert!(closed, "{id}: the client stays");
            return self.check_leaving(interval(leaves)).await;
        }
        assert!(
            !closed,
            "{id}: the client leaves at {} ms",
            self.network.time.now_ms()
        );
        if let Some(closes) = self.case.get("closes") {
            end(edge, &closes["ends"]).await;
            if self.case["comes_back"] == false {
                let time = self.network.time;
                tokio::time::sleep_until(time.at(end_ms + 2_000)).await;
            } else {
                self.check_return().await;
            }
        }
    }

    /// Suspends the client's machine, or lets it stall, if that is to happen now.
    async fn stop_machine_at(&self, now_ms: i64) {
        for each in self.case["machine"].as_array().into_iter().flatten() {
            if integer(&each["at_ms"]) != now_ms {
                continue;
            }
            let millis = |name: &str| Duration::from_millis(integer(&each[name]).unsigned_abs());
            if each["stalled_ms"].is_null() {
                self.network.time.clock.suspend(millis("suspended_ms"));
            } else {
                tokio::time::advance(millis("stalled_ms")).await;
            }
        }
    }

    async fn check_leaving(&mut self, (least, most): (i64, i64)) {
        let (id, expect) = (&self.case["id"], &self.case["expect"]);
        let left_ms = self.network.time.now_ms();
        let is_right = (least..=most).contains(&left_ms);
        assert!(is_right, "{id}: the client leaves at {left_ms} ms");
        let ask = self.network.ask_until(left_ms + 60_000).await;
        let waited = ask.expect("the client comes back").at_ms - left_ms;
        if let Some(wait) = expect.get("next_dial_ms") {
            let (least, most) = interval(wait);
            let is_right = (least..=most + SLACK_MS).contains(&waited);
            assert!(is_right, "{id}: the client comes back after {waited} ms");
        }
        let record = self.network.record.lock().unwrap();
        let ended = record.iter().rev().find_map(|(_, seen)| match seen {
            Seeing::Ended { come_back, .. } => Some(*come_back),
            Seeing::Tick { .. } | Seeing::Gap { .. } | Seeing::Connected | Seeing::Moved => None,
        });
        assert_eq!(ended, expect["come_back"].as_str(), "{id}");
    }

    /// Accepts the next connection, and lets the ticks become due that the client still holds.
    async fn check_return(&mut self) {
        let now_ms = self.network.time.now_ms();
        let ask = self.network.ask_until(now_ms + 60_000).await.unwrap();
        let mut edge = self.network.accept(ask);
        edge.accept().await;
        let point = edge.subscription().await.resume_after;
        let expected = epoch_of(&self.case["expect"]["next_resume_after_epoch_ms"]);
        assert_eq!(point, expected, "{}", self.case["id"]);
        let time = self.network.time;
        tokio::time::sleep_until(time.at(now_ms + 2_000)).await;
    }

    fn check_ticks(&self) {
        let (id, expect) = (&self.case["id"], &self.case["expect"]);
        self.network.check_ticks(self.mode, id);
        let record = self.network.record.lock().unwrap();
        let ticks: Vec<(i64, Epoch, Quality)> = record
            .iter()
            .filter_map(|(at_ms, seen)| match seen {
                Seeing::Tick { epoch, quality } => Some((*at_ms, *epoch, *quality)),
                Seeing::Gap { .. } | Seeing::Ended { .. } | Seeing::Connected | Seeing::Moved => {
                    None
                }
            })
            .collect();
        let never = expect["never_epoch_ms"].as_array().into_iter().flatten();
        for epoch in never.map(|each| epoch_of(each).unwrap()) {
            assert!(!ticks.iter().any(|tick| tick.1 == epoch), "{id}: {epoch:?}");
        }
        let listed = expect["ticks"].as_array().map_or(&[][..], Vec::as_slice);
        if let Some(last) = listed.last() {
            let last = epoch_of(&last["epoch_ms"]).unwrap();
            let count = ticks.iter().filter(|tick| tick.1 <= last).count();
            assert_eq!(count, listed.len(), "{id}: {ticks:?}");
        }
        for expected in listed {
            let epoch = epoch_of(&expected["epoch_ms"]).unwrap();
            let tick = ticks.iter().find(|tick| tick.1 == epoch);
            let &(at_ms, _, quality) = tick.unwrap_or_else(|| panic!("{id}: no {expected}"));
            let (least, most) = interval(&expected["at_ms"]);
            let is_right = (least..=most).contains(&at_ms);
            assert!(is_right, "{id}: {expected} at {at_ms} ms");
            if let Some(expected_quality) = expected.get("quality") {
                let is_replay = quality == Quality::Replay;
                assert_eq!(is_replay, expected_quality == "REPLAY", "{id}: {expected}");
            }
        }
        assert!(
            !ticks.is_empty() || expect["leaves_ms"].is_array(),
            "{id}: no ticks"
        );
    }

    fn check_heartbeats(&self) {
        let id = &self.case["id"];
        for expected in self.case["expect"]["heartbeats"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let span = integer(&expected["from_ms"])..=integer(&expected["to_ms"]);
            let count = self
                .heartbeats
                .iter()
                .filter(|at| span.contains(at))
                .count();
            let (least, most) = interval(&expected["count"]);
            let is_right = (least..=most).contains(&i64::try_from(count).unwrap());
            assert!(is_right, "{id}: {count} HEARTBEATs in {span:?}");
        }
    }
}
