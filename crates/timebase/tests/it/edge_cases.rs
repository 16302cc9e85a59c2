//! Runs the cases of kind `edge`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use serde::Deserialize;
use tickstorm_timebase::{ClockState, Epoch, Mode, Quality, Reply};

use crate::edge::{Edge, Released, clock_id, micros};
use crate::time_cases::{self, ALLOWANCE_US};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    rule: String,
    why: String,
    clocks: Vec<String>,
    #[serde(default)]
    ranks: BTreeMap<String, u32>,
    #[serde(default)]
    rounds_go_on: bool,
    events: Vec<Event>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Event {
    Rounds(Rounds),
    Announce(Announce),
    Asleep(Asleep),
    Expect(Box<Expect>),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rounds {
    /// The times of the first and the last round, and the interval between rounds.
    rounds: [u64; 3],
    answers: BTreeMap<String, Answer>,
    #[serde(default)]
    also: BTreeMap<String, Answer>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Answer {
    Plain(i64, u64),
    OnTimeline(i64, u64, u64),
    Stamped {
        t2: i64,
        t3: i64,
        t4: u64,
        timeline: u64,
    },
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Announce {
    announce: u64,
    clock: String,
    mode: String,
    epoch: i64,
    timeline: u64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asleep {
    asleep: [u64; 2],
}

type Row = (u64, i64, String);

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    expect: u64,
    known: Option<bool>,
    #[serde(default)]
    follows: Option<String>,
    offset: Option<i64>,
    bound: Option<u32>,
    accepted: Option<Vec<String>>,
    falsetickers: Option<Vec<String>>,
    alarm: Option<bool>,
    stepped: Option<bool>,
    ticks: Option<Vec<Row>>,
    ticks_first: Option<i64>,
    ticks_last: Option<i64>,
    ticks_count: Option<usize>,
    qualities: Option<BTreeSet<String>>,
    minutes: Option<Vec<Row>>,
    minutes_first: Option<i64>,
    minutes_last: Option<i64>,
    minutes_count: Option<usize>,
    ahead: Option<Vec<Row>>,
}

/// One action of a case.
enum Action {
    Ask(u64),
    Answer {
        asked: u64,
        clock: String,
        t2: i64,
        t3: i64,
        timeline: u64,
    },
    Announce(Announce),
    Sleep(u64),
    Expect(Box<Expect>),
}

/// Requests left out of two cases, which ask again less than a second after the previous request.
/// The real edge never does that. Each of these requests is unanswered and only one of many, so
/// leaving it out changes nothing.
const LEFT_OUT: [(&str, u64); 2] = [("return", 69_750_000), ("return-back", 63_750_000)];

#[test]
fn every_edge_case_holds() {
    let file = time_cases::read();
    let mut failures = Vec::new();
    for case in file.of_kind::<Case>("edge") {
        for failure in Run::new(&case, file.base_epoch_ms).run() {
            failures.push(format!(
                "{} ({}: {}): {failure}",
                case.name, case.rule, case.why
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

impl Case {
    /// Returns all actions of the case, in order.
    fn actions(&self) -> Vec<(u64, Action)> {
        let mut actions = Vec::new();
        let mut last_asked = 0;
        for event in self.events.clone() {
            match event {
                Event::Rounds(rounds) => {
                    last_asked = rounds.rounds[1];
                    rounds.unfold(&self.name, &mut actions);
                }
                Event::Announce(announce) => {
                    actions.push((announce.announce, Action::Announce(announce)));
                }
                Event::Asleep(Asleep {
                    asleep: [from, until],
                }) => {
                    actions.push((from, Action::Sleep(until)));
                }
                Event::Expect(expect) => {
                    actions.push((expect.expect, Action::Expect(expect)));
                }
            }
        }
        if self.rounds_go_on {
            let asks = (last_asked + 1_000_000..=70_000_000).step_by(1_000_000);
            actions.extend(asks.map(|asked| (asked, Action::Ask(asked))));
        }
        actions.sort_by_key(|(at, _)| *at);
        actions
    }
}

impl Rounds {
    fn unfold(&self, case: &str, out: &mut Vec<(u64, Action)>) {
        let [first, last, every] = self.rounds;
        for asked in (first..=last).step_by(usize::try_from(every).unwrap()) {
            if LEFT_OUT.contains(&(case, asked)) {
                assert!(self.answers.is_empty());
                continue;
            }
            out.push((asked, Action::Ask(asked)));
            for (clock, answer) in self.answers.iter().chain(&self.also) {
                out.push(answer.to(asked, clock.clone()));
            }
        }
    }
}

impl Answer {
    fn to(self, asked: u64, clock: String) -> (u64, Action) {
        let (t2, t3, t4, timeline) = match self {
            Self::Plain(offset, rtt) => Self::symmetric(asked, offset, rtt, 1),
            Self::OnTimeline(offset, rtt, timeline) => {
                Self::symmetric(asked, offset, rtt, timeline)
            }
            Self::Stamped {
                t2,
                t3,
                t4,
                timeline,
            } => (t2, t3, t4, timeline),
        };
        (
            t4,
            Action::Answer {
                asked,
                clock,
                t2,
                t3,
                timeline,
            },
        )
    }

    fn symmetric(asked: u64, offset: i64, rtt: u64, timeline: u64) -> (i64, i64, u64, u64) {
        let middle = i64::try_from(asked + rtt / 2).unwrap() + offset;
        (middle, middle, asked + rtt, timeline)
    }
}

struct Run<'a> {
    case: &'a Case,
    base_epoch_ms: i64,
    edge: Edge,
    nonces: BTreeMap<u64, u64>,
    failures: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, base_epoch_ms: i64) -> Self {
        let clocks: Vec<&str> = case.clocks.iter().map(String::as_str).collect();
        Self {
            case,
            base_epoch_ms,
            edge: Edge::new(&clocks),
            nonces: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<String> {
        for (at, action) in self.case.actions() {
            self.edge.run_until(micros(at));
            match action {
                Action::Ask(asked) => {
                    let nonce = self.edge.ask();
                    self.nonces.insert(asked, nonce.expect("a request is due"));
                }
                Action::Answer {
                    asked,
                    clock,
                    t2,
                    t3,
                    timeline,
                } => {
                    let reply = self.reply(asked, &clock, [t2, t3], timeline);
                    // The expectations show whether the answer counted.
                    let _ = self.edge.handle_reply(&reply);
                }
                Action::Announce(Announce {
                    clock,
                    mode,
                    epoch,
                    timeline,
                    ..
                }) => {
                    let epoch = Epoch::from_ms(self.base_epoch_ms + epoch);
                    let _ = self
                        .edge
                        .announce(&clock, parse_mode(&mode), epoch, timeline);
                }
                Action::Sleep(until) => self.edge.sleep_until(micros(until)),
                Action::Expect(expect) => self.check(&expect),
            }
        }
        self.failures
    }

    fn reply(&self, asked: u64, clock: &str, [t2, t3]: [i64; 2], timeline: u64) -> Reply {
        Reply {
            nonce: self.nonces[&asked],
            clock_id: clock_id(clock),
            rank: self.case.ranks.get(clock).copied().unwrap_or(0),
            received_unix_us: self.base_epoch_ms * 1_000 + t2,
            sent_unix_us: self.base_epoch_ms * 1_000 + t3,
            clock_error_us: 0,
            synchronized: true,
            timeline,
        }
    }

    fn check(&mut self, expect: &Expect) {
        let now = self.edge.now;
        let authority = self.edge.authority();
        let status = self.edge.keeper.status(now);
        let in_state = |state| {
            let clocks = status.clocks.iter().filter(|clock| clock.state == state);
            clocks.map(|clock| clock.id.to_string()).collect::<Vec<_>>()
        };
        let stepped = self.edge.take_steps() > 0;
        let known = authority.is_some_and(|authority| authority.is_valid(now));
        let bound = authority.map(|authority| i64::from(authority.bound_us(now)));
        let offset = status.offset_ns.map(|offset| self.relative_us(offset));
        let follows = status.following.as_ref().map(ToString::to_string);
        self.same("known", &expect.known, &known);
        self.same("follows", &expect.follows.clone().map(Some), &follows);
        self.near("offset", expect.offset, offset);
        self.near("bound", expect.bound.map(i64::from), bound);
        self.same(
            "accepted",
            &expect.accepted,
            &in_state(ClockState::Accepted),
        );
        self.same(
            "falsetickers",
            &expect.falsetickers,
            &in_state(ClockState::False),
        );
        self.same("alarm", &expect.alarm, &!status.alarms.is_empty());
        self.same("stepped", &expect.stepped, &stepped);

        let ticks = std::mem::take(&mut self.edge.second.released);
        let rows = self.rows(&ticks);
        let qualities = rows.iter().map(|(_, _, quality)| quality.clone()).collect();
        self.same("qualities", &expect.qualities, &qualities);
        self.same("ticks_first", &expect.ticks_first.map(Some), &first(&rows));
        self.same("ticks_last", &expect.ticks_last.map(Some), &last(&rows));
        self.same("ticks_count", &expect.ticks_count, &rows.len());
        self.same("ticks", &expect.ticks, &rows);

        let minutes = std::mem::take(&mut self.edge.minute.released);
        let rows = self.rows(&minutes);
        self.same(
            "minutes_first",
            &expect.minutes_first.map(Some),
            &first(&rows),
        );
        self.same("minutes_last", &expect.minutes_last.map(Some), &last(&rows));
        self.same("minutes_count", &expect.minutes_count, &rows.len());
        self.same("minutes", &expect.minutes, &rows);

        let ahead = std::mem::take(&mut self.edge.ahead.released);
        let rows = self.rows(&ahead);
        self.same("ahead", &expect.ahead, &rows);
    }

    fn relative_us(&self, offset_ns: i64) -> i64 {
        (offset_ns - self.base_epoch_ms * 1_000_000) / 1_000
    }

    fn rows(&self, released: &[Released]) -> Vec<Row> {
        let row = |one: &Released| {
            let epoch = one.tick.epoch.as_ms() - self.base_epoch_ms;
            (
                one.at.as_nanos() / 1_000,
                epoch,
                quality_name(one.tick.quality).to_owned(),
            )
        };
        released.iter().map(row).collect()
    }

    fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &Option<T>, found: &T) {
        if let Some(expected) = expected.as_ref().filter(|expected| *expected != found) {
            self.fail(what, expected, found);
        }
    }

    fn near(&mut self, what: &str, expected: Option<i64>, found: Option<i64>) {
        let Some(expected) = expected else { return };
        if found.is_none_or(|found| found.abs_diff(expected) > ALLOWANCE_US) {
            self.fail(what, &expected, &found);
        }
    }

    fn fail(&mut self, what: &str, expected: &impl Debug, found: &impl Debug) {
        let at_us = self.edge.now.as_nanos() / 1_000;
        self.failures.push(format!(
            "{what} at {at_us} µs: expected {expected:?}, found {found:?}"
        ));
    }
}

fn first(rows: &[Row]) -> Option<i64> {
    rows.first().map(|(_, epoch, _)| *epoch)
}

fn last(rows: &[Row]) -> Option<i64> {
    rows.last().map(|(_, epoch, _)| *epoch)
}

pub(crate) fn parse_mode(mode: &str) -> Mode {
    match mode {
        "SECOND" => Mode::Second,
        "MINUTE" => Mode::Minute,
        other => panic!("unknown mode {other}"),
    }
}

pub(crate) fn quality_name(quality: Quality) -> &'static str {
    match quality {
        Quality::Normal => "NORMAL",
        Quality::Holdover => "HOLDOVER",
        Quality::Replay => "REPLAY",
    }
}
