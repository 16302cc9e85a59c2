//! Tests of the verdict: what is wrong, and what is not.

use serde_json::json;

use super::super::sample::{alarm, ask, clock, edge};
use super::*;

fn findings(statuses: &[Value]) -> Findings {
    Findings::of(&ask(statuses))
}

#[test]
fn daemons_without_anything_wrong_are_well() {
    let findings = findings(&[edge("edge-0"), edge("edge-1"), clock("clock-0")]);
    assert_eq!(findings.verdict(), Verdict::Well, "{findings:?}");
    assert_eq!(findings.summary(), "all is well: 2 edges, 1 clock");
    assert!(findings.remarks.is_empty(), "{findings:?}");
}

#[test]
fn everything_that_is_wrong_with_an_edge_is_a_problem_in_words() {
    for (pointer, value, words) in [
        (
            "/ready",
            json!(false),
            "edge-0 (http://10.0.0.0:8081) is not ready",
        ),
        ("/holdover", json!(true), "edge-0 is in holdover"),
        (
            "/holdover",
            json!(true),
            "Runbook: docs/runbooks/TickstormHoldover.md",
        ),
        ("/connections", json!(100_000), "edge-0 is full"),
        (
            "/accept_queue/overflowed_in_last_minute",
            json!(true),
            "accept queue",
        ),
        (
            "/clocks/1/state",
            json!("silent"),
            "edge-0 hears nothing of clock-1. Runbook: docs/runbooks/TickstormClockSilent.md",
        ),
        (
            "/clocks/1/state",
            json!("disagrees"),
            "edge-0 does not accept clock-1",
        ),
        (
            "/tls",
            json!({ "warnings": ["expires in 3 days"] }),
            "edge-0: expires in 3 days",
        ),
        (
            "/refused_files",
            json!([{ "files": "STREAM_PASS_FILE", "error": "gone" }]),
            "edge-0 can't use changed files (STREAM_PASS_FILE): gone",
        ),
    ] {
        let mut status = edge("edge-0");
        *status.pointer_mut(pointer).unwrap() = value;
        let findings = findings(&[status]);
        assert_eq!(
            findings.verdict(),
            Verdict::Wrong,
            "{pointer}: {findings:?}"
        );
        let [problem] = &*findings.problems else {
            panic!("{pointer}: {findings:?}");
        };
        assert!(problem.contains(words), "{problem:?} has no {words:?}");
        assert_eq!(findings.summary(), "something is wrong: 1 problem");
    }
}

#[test]
fn alarms_are_collected_from_all_sections_and_named_once() {
    let mut first = edge("edge-0");
    first["alarms"] = json!([alarm("falseticker", &["clock-2"])]);
    first["memory"]["alarms"] = json!([alarm("buffers_full", &[])]);
    first["tls"]["alarms"] = json!([alarm("crl_expired", &[])]);
    first["clock"] = clock("clock-9");
    first["clock"]["alarms"] = json!([alarm("undisciplined", &[])]);
    let mut second = edge("edge-1");
    second["alarms"] = json!([alarm("falseticker", &["clock-1"])]);
    let mut third = clock("clock-1");
    third["alarms"] = json!([alarm("undisciplined", &[])]);
    let findings = findings(&[first, second, third]);
    assert_eq!(findings.verdict(), Verdict::Wrong);
    let shown = findings.alarms.iter().map(|raised| {
        let clocks: Vec<_> = raised.clocks.iter().map(String::as_str).collect();
        (&*raised.alarm.reason, raised.at.join(" "), clocks.join(" "))
    });
    let expected = [
        ("falseticker", "edge-0 edge-1", "clock-1 clock-2"),
        ("buffers_full", "edge-0", ""),
        ("crl_expired", "edge-0", ""),
        ("undisciplined", "clock-9 clock-1", ""),
    ];
    let expected = expected.map(|(reason, at, clocks)| (reason, at.to_owned(), clocks.to_owned()));
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    assert_eq!(findings.summary(), "something is wrong: 4 alarms");
}

#[test]
fn an_alarm_that_names_clocks_has_another_page_than_a_clocks_own() {
    let mut edge = edge("edge-0");
    edge["alarms"] = json!([
        alarm("shared_id", &["clock-0"]),
        alarm("none_believed", &[])
    ]);
    let mut clock = clock("clock-0");
    clock["alarms"] = json!([{ "reason": "shared_id", "message": "As the clock sees it." }]);
    let asked = ask(&[edge, clock]);
    let json = Findings::of(&asked).json(&asked);
    let alarms = json["alarms"].as_array().unwrap().iter();
    let pages: Vec<_> = alarms.map(|alarm| alarm["runbook"].clone()).collect();
    let expected = [
        "docs/runbooks/TickstormClockAlarm.md",
        "docs/runbooks/TickstormTimeLost.md",
        "docs/runbooks/TickstormClockIdShared.md",
    ];
    assert_eq!(pages, expected);
}

#[test]
fn a_default_port_that_nothing_listens_on_is_a_remark() {
    let unused = || Asked::unused("http://127.0.0.1:8082").excused();
    let mut asked = ask(&[edge("edge-0")]);
    asked.push(unused());
    let findings = Findings::of(&asked);
    assert_eq!(findings.verdict(), Verdict::Well, "{findings:?}");
    let expected = "nothing listens on http://127.0.0.1:8082, which is asked by default; --admin \
                    names other ports";
    assert_eq!(findings.remarks, [expected]);
    let json = findings.json(&asked);
    assert_eq!(json["problems"], json!([]));
    assert_eq!(json["ports"][1]["error"], "Connection refused");
    // It changes nothing about what is wrong elsewhere.
    let mut sick = edge("edge-0");
    sick["ready"] = json!(false);
    let mut asked = ask(&[sick]);
    asked.push(unused());
    assert_eq!(Findings::of(&asked).verdict(), Verdict::Wrong);
}

#[test]
fn a_port_that_does_not_answer_outweighs_everything_else() {
    let mut status = edge("edge-0");
    status["ready"] = json!(false);
    let mut asked = ask(&[status]);
    asked.push(Asked::unused("http://10.0.0.9:8082"));
    let findings = Findings::of(&asked);
    assert_eq!(findings.verdict(), Verdict::Unreachable);
    let summary = "something is wrong: 1 port without an answer, 1 problem";
    assert_eq!(findings.summary(), summary);
    let json = findings.json(&asked);
    assert_eq!(json["verdict"], "unreachable");
    assert_eq!(json["ports"][0]["status"]["id"], "edge-0");
    assert_eq!(json["ports"][0]["error"], Value::Null);
    assert_eq!(json["ports"][1]["status"], Value::Null);
    assert_eq!(json["ports"][1]["admin"], "http://10.0.0.9:8082");
    let problems = json["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{json}");
}

#[test]
fn edges_that_follow_the_same_clock_must_agree_within_their_bounds() {
    // The bounds of both are 210 + 190 microseconds each, so 800 together.
    for (offset_us, following, verdict, remarks) in [
        (800, "clock-0", Verdict::Well, 0),
        (-801, "clock-0", Verdict::Wrong, 0),
        (801, "clock-0", Verdict::Wrong, 0),
        (801, "clock-1", Verdict::Well, 1),
    ] {
        let mut second = edge("edge-1");
        second["clocks"][0]["offset_us"] = json!(offset_us);
        second["authority"]["following"] = json!(following);
        let findings = findings(&[edge("edge-0"), second]);
        assert_eq!(findings.verdict(), verdict, "{offset_us}: {findings:?}");
        assert_eq!(findings.remarks.len(), remarks, "{findings:?}");
        let apart = &findings.apart[0];
        let names = (&*apart.ahead, &*apart.behind);
        // A clock that is further ahead of an edge means that the edge is further behind.
        let expected = if offset_us > 0 {
            ("edge-0", "edge-1")
        } else {
            ("edge-1", "edge-0")
        };
        assert_eq!(names, expected);
        assert_eq!(apart.apart_us, u64::from(i32::unsigned_abs(offset_us)));
        assert_eq!(apart.bounds_us, 800);
    }
}

#[test]
fn a_clock_that_only_one_edge_has_measured_compares_nothing() {
    let mut second = edge("edge-1");
    second["clocks"][0]["offset_us"] = Value::Null;
    second["clocks"][1]["id"] = json!("clock-7");
    let mut third = edge("edge-2");
    third["authority"] = Value::Null;
    let findings = findings(&[edge("edge-0"), second, third]);
    assert!(findings.apart.is_empty(), "{findings:?}");
}

#[test]
fn versions_that_differ_are_a_remark() {
    let mut second = edge("edge-1");
    second["version"] = json!("0.2.0");
    let findings = findings(&[edge("edge-0"), second, clock("clock-0")]);
    assert_eq!(findings.verdict(), Verdict::Well);
    let expected = "versions differ: 0.1.0 at edge-0, clock-0; 0.2.0 at edge-1";
    assert_eq!(findings.remarks, [expected]);
}

#[test]
fn fields_of_other_versions_are_no_error_and_other_answers_are_none() {
    for text in [
        r#"{"version":"9","ready":true,"listen_addr":"a"}"#,
        r#"{"version":"9","ready":true,"id":"c","timeline":1,"new":{"a":[]}}"#,
        r#"{"version":"9","ready":true,"listen_addr":"a","clocks":[{"id":"c","state":"new"}]}"#,
    ] {
        Answer::parse(text).unwrap();
    }
    for text in [
        "",
        "[]",
        "{}",
        r#"{"ready":true}"#,
        "<html>",
        r#"{"version":1,"ready":true}"#,
    ] {
        assert!(Answer::parse(text).is_err(), "{text}");
    }
}
