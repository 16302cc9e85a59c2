//! Tests of the report as people see it.

use serde_json::{Value, json};

use super::super::sample::{alarm, ask, clock, edge};
use super::*;

fn report(statuses: &[Value]) -> String {
    let asked = ask(statuses);
    Report::new(&asked, &Findings::of(&asked), Paint::Plain).to_string()
}

#[test]
fn a_cluster_that_is_well_is_shown_in_tables() {
    let mut behind = edge("edge-1");
    behind["clocks"][1]["offset_us"] = json!(-1_111);
    let report = report(&[edge("edge-0"), behind, clock("clock-0")]);
    let expected = "\
Time 2026-11-21T12:58:59Z, by edge-0

CLOCKS, AS EDGES SEE THEM
   Edge                  Clock                 Rank       Offset       Bound
*  edge-0                clock-0                  0     +0.00 ms    ±0.21 ms
+  edge-0                clock-1                  1     -1.23 ms    ±0.21 ms
*  edge-1                clock-0                  0     +0.00 ms    ±0.21 ms
+  edge-1                clock-1                  1     -1.11 ms    ±0.21 ms
  * followed  + accepted  x falseticker, not trusted  ~ disagrees, not accepted
  ? heard, not judged yet  - silent, no answer for 10 s

EDGES
Edge          State          Connections      Time  Follows      NATS         Up
edge-0        ready         60000/100000  ±0.19 ms  clock-0      yes       2h02m
edge-1        ready         60000/100000  ±0.19 ms  clock-0      yes       2h02m

CLOCKS, AS THEY SEE THEMSELVES
Clock             State      Disciplined       Error  NATS     Announced      Up
clock-0           ready      yes            ±0.81 ms  yes      12:59:01    3d11h

TIMES OF THE EDGES THAT ARE THE FURTHEST APART
By clock          Ahead               Behind                  Apart      Bounds
clock-0           edge-0              edge-1                0.00 ms    ±0.80 ms
clock-1           edge-0              edge-1                0.12 ms    ±0.80 ms

All is well: 2 edges, 1 clock.
";
    assert_eq!(report, expected);
}

/// Returns an edge with everything wrong, and long names.
fn sick_edge() -> Value {
    let long = |name: &str| format!("{name}-{}", "0123456789".repeat(5));
    let mut status = edge(&long("edge"));
    status["ready"] = json!(false);
    status["reasons"] = json!(["the time is unknown: no clock is accepted", "draining"]);
    status["draining"] = json!(true);
    status["authority"] = Value::Null;
    status["nats_link"] = json!({ "server": null, "heard": false, "refused": [] });
    status["connections"] = json!(1_000_000);
    status["max_connections"] = json!(1_000_000);
    status["uptime_s"] = json!(u32::MAX);
    let clock = |state: &str, offset_us: Option<i64>| {
        json!({
            "id": long(state), "rank": 1_000, "state": state, "offset_us": offset_us,
            "bound_us": offset_us.map(|_| u32::MAX),
        })
    };
    status["clocks"] = json!([
        clock("false", Some(-86_400_000_000)),
        clock("disagrees", Some(5_000_000)),
        clock("heard", None),
        clock("silent", None),
        clock("new", None),
    ]);
    let clocks = [&*long("false"), &*long("disagrees")];
    status["alarms"] = json!([alarm("falseticker", &clocks), alarm("no_time", &[])]);
    status
}

#[test]
fn every_line_fits_into_80_columns_whatever_is_wrong() {
    let mut sick_clock = clock(&"clock-".repeat(10));
    for (field, value) in [
        ("synchronized", json!(false)),
        ("clock_error_us", json!(16_000_000)),
        ("last_announced_epoch_ms", Value::Null),
        ("nats", json!(false)),
        ("ready", json!(false)),
    ] {
        sick_clock[field] = value;
    }
    let report = report(&[sick_edge(), sick_clock, edge("edge-1")]);
    for line in report.lines() {
        assert!(
            line.chars().count() <= WIDTH,
            "{line:?} is too long in\n{report}"
        );
    }
    for shown in [
        "x  edge-01234",
        "~  edge-01234",
        "-  edge-01234",
        "draining",
        "1000000/1000000",
        "What to do: Do something about no_time.",
        "the time is unknown: no clock is accepted; draining",
        "hears nothing of",
        "-86400 s",
        "not ready",
        "nothing",
    ] {
        assert!(report.contains(shown), "no {shown:?} in\n{report}");
    }
    assert!(!report.contains("well"), "{report}");
}

#[test]
fn an_alarm_is_told_in_words_with_what_to_do_and_at_which_daemons() {
    let mut first = edge("edge-0");
    first["alarms"] = json!([alarm("falseticker", &["clock-2"])]);
    let mut second = edge("edge-1");
    second["alarms"] = first["alarms"].clone();
    let report = report(&[first, second]);
    let expected = "
ALARMS
falseticker
  At edge-0, edge-1, about the clock clock-2.
  The meaning of falseticker.
  What to do: Do something about falseticker.
  Runbook: docs/runbooks/TickstormFalseticker.md
";
    assert!(report.contains(expected), "{report}");
}

#[test]
fn nothing_that_a_daemon_says_controls_the_terminal() {
    let hostile = "\u{1b}[2J\u{202e}\n\r";
    let mut status = edge(hostile);
    status["version"] = json!(hostile);
    status["ready"] = json!(false);
    status["reasons"] = json!([hostile]);
    status["clocks"][0]["id"] = json!(hostile);
    status["clocks"][1]["state"] = json!("silent");
    status["clocks"][1]["id"] = json!(hostile);
    status["alarms"] = json!([{
        "reason": hostile, "message": hostile, "action": hostile, "clocks": [hostile],
    }]);
    status["refused_files"] = json!([{ "files": hostile, "error": hostile }]);
    status["tls"] = json!({ "warnings": [hostile] });
    let mut hostile_clock = clock(hostile);
    hostile_clock["version"] = json!("1");
    let report = report(&[status, hostile_clock, edge("edge-1")]);
    let harmful = report
        .chars()
        .find(|char| (char.is_control() && *char != '\n') || *char == '\u{202e}');
    assert_eq!(harmful, None, "{report}");
}
