//! Runs the cases of kind `subscribe`.

use serde::Deserialize;
use tickstorm_timebase::{Authority, Epoch, Mode, Plan, Reply, Request, plan};

use crate::edge::{Edge, RESUME_WINDOW, clock_id, micros};
use crate::edge_cases::{parse_mode, quality_name};
use crate::time_cases;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    rule: String,
    why: String,
    given: Given,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    mode: String,
    ahead: bool,
    resume_after: Option<i64>,
    /// Authority time in microseconds after the base.
    authority: i64,
    released: i64,
    released_ahead: Option<i64>,
    announced: i64,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    start_epoch: Option<i64>,
    sent: Option<Vec<(i64, String)>>,
    sent_first: Option<i64>,
    sent_last: Option<i64>,
    sent_count: Option<usize>,
    next_from_feed: Option<i64>,
    error: Option<String>,
}

#[test]
fn every_subscribe_case_holds() {
    let file = time_cases::read();
    let base = file.base_epoch_ms;
    for Case {
        name,
        rule,
        why,
        given,
        expect,
    } in file.of_kind::<Case>("subscribe")
    {
        let found = subscribe(&given, base, &expect);
        assert_eq!(found, expect, "{name} ({rule}: {why})");
    }
}

/// Returns what the subscription gets, with the fields that `asked` has.
fn subscribe(given: &Given, base: i64, asked: &Expect) -> Expect {
    let epoch = |ms: i64| Epoch::from_ms(base + ms);
    let mode = parse_mode(&given.mode);
    let (edge, authority) = edge_at(given, base);
    let request = Request {
        mode,
        ahead: given.ahead,
        resume_after: given.resume_after.map(epoch),
    };
    let released_ahead = given.released_ahead.map(epoch);
    let time = authority.time_at(edge.now);
    let planned = plan(
        &request,
        time,
        epoch(given.released),
        released_ahead,
        RESUME_WINDOW,
    );
    let Ok(Plan {
        start,
        replay_until,
        ahead_until,
    }) = planned
    else {
        return Expect {
            error: Some("INVALID_SUBSCRIPTION".to_owned()),
            ..Expect::default()
        };
    };
    let replayed = between(mode, start, replay_until).map(|epoch| (epoch, "REPLAY"));
    let ahead = between(mode, replay_until, ahead_until)
        .map(|epoch| (epoch, quality_name(authority.quality(epoch, edge.now))));
    let sent: Vec<(i64, String)> = replayed
        .chain(ahead)
        .map(|(epoch, quality)| (epoch.as_ms() - base, quality.to_owned()))
        .collect();
    let next_from_feed = mode.next_after(ahead_until).as_ms() - base;
    Expect {
        start_epoch: asked.start_epoch.map(|_| start.as_ms() - base),
        sent_first: asked.sent_first.and(sent.first().map(|(epoch, _)| *epoch)),
        sent_last: asked.sent_last.and(sent.last().map(|(epoch, _)| *epoch)),
        sent_count: asked.sent_count.map(|_| sent.len()),
        next_from_feed: asked.next_from_feed.map(|_| next_from_feed),
        sent: asked.sent.as_ref().map(|_| sent),
        error: None,
    }
}

/// Creates an edge whose authority time is that of the case and that has heard its announcement.
fn edge_at(given: &Given, base: i64) -> (Edge, Authority) {
    let now_us = 500_000;
    let offset_us = base * 1_000 + given.authority - now_us;
    let mut edge = Edge::new(&["a"]);
    for asked_us in (0..400_000).step_by(50_000) {
        edge.run_until(micros(asked_us));
        let middle = offset_us + i64::try_from(asked_us).unwrap() + 200;
        let reply = Reply {
            nonce: edge.ask().unwrap(),
            clock_id: clock_id("a"),
            rank: 0,
            received_unix_us: middle,
            sent_unix_us: middle,
            clock_error_us: 0,
            synchronized: true,
            timeline: 1,
        };
        edge.run_until(micros(asked_us + 400));
        edge.handle_reply(&reply).unwrap();
    }
    edge.run_until(micros(500_000));
    edge.announce("a", Mode::Second, Epoch::from_ms(base + given.announced), 1)
        .unwrap();
    let authority = edge.authority().unwrap();
    (edge, authority)
}

fn between(mode: Mode, after: Epoch, until: Epoch) -> impl Iterator<Item = Epoch> {
    let ticks = std::iter::successors(Some(mode.next_after(after)), move |&epoch| {
        Some(mode.next_after(epoch))
    });
    ticks.take_while(move |&epoch| epoch <= until)
}
