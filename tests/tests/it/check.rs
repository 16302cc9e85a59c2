//! `tickstorm check`: it passes on an edge, plain and with TLS, and fails on edges that make
//! mistakes.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tickstorm_testkit::ReservedAddr;
use tokio::process::Command;
use tokio::time::timeout;

use crate::dev::{Dev, dev};
use crate::support::mutant::{Mutation, Proxy};
use crate::tickstorm::{Ended, tickstorm};

/// A time limit for a whole check that only a defect exceeds.
const CHECK_TIME_MAX: Duration = Duration::from_secs(180);
/// The cases that need TLS.
const TLS_CASES: [&str; 3] = ["tls-parameters", "tls-records", "tls-close-notify"];

/// Starts a clock and an edge that closes silent clients soon.
async fn edge(args: &[&str]) -> Dev {
    let mut command = dev();
    command
        .args(args)
        .env("HEARTBEAT_INTERVAL", "2s")
        .env("HEARTBEAT_TIMEOUT", "3s")
        .env("AUTH_TIMEOUT_MS", "4000");
    let mut dev = Dev::start(command).await;
    // It knows the time.
    dev.tick().await;
    dev
}

/// Returns a check of this server. It tolerates what a busy machine adds, which is less than any
/// mutant's mistake.
fn check(addr: impl fmt::Display, args: &[&str]) -> Command {
    let addr = addr.to_string();
    tickstorm(&[&["check", "--addr", &addr, "--tolerance", "2s"], args].concat())
}

/// Runs a command until it exits, which may take longer than others.
async fn run(mut command: Command) -> Ended {
    let output = timeout(CHECK_TIME_MAX, command.output()).await;
    let output = output.expect("the check ends").unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn names<'a>(report: &'a Value, outcome: &str) -> Vec<&'a str> {
    let cases = report["cases"].as_array().unwrap().iter();
    cases
        .filter(|case| case["outcome"] == outcome)
        .map(|case| case["id"].as_str().unwrap().strip_prefix("check/").unwrap())
        .collect()
}

fn ids(sentences: &Value) -> Vec<&str> {
    let sentences = sentences.as_array().unwrap().iter();
    sentences
        .map(|sentence| sentence["id"].as_str().unwrap())
        .collect()
}

/// Asserts that a check in JSON has passed, that only these cases were skipped, and returns the
/// report.
fn assert_passed(ended: &Ended, may_skip: &[&str]) -> Value {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["failed"], 0, "{report:#}");
    for name in names(&report, "skipped") {
        // It waits for the next minute only if that is near.
        let is_expected = may_skip.contains(&name) || name == "minute-tick";
        assert!(is_expected, "{name} was skipped: {report:#}");
    }
    assert!(names(&report, "passed").len() > 40, "{report:#}");
    assert_eq!(ids(&report["sentences"]["broken"]), [""; 0]);
    report
}

#[tokio::test]
async fn an_edge_passes_and_the_report_lists_every_sentence() {
    let dev = edge(&[]).await;
    let (json, text) = (check(dev.clients, &["--json"]), check(dev.clients, &[]));
    let json = run(json).await;
    let report = assert_passed(&json, &TLS_CASES);
    let not_covered = ids(&report["sentences"]["not_covered"]);
    assert_eq!(not_covered, ["tls-03", "tls-04", "tls-08", "tls-11"]);
    let covered = report["sentences"]["covered"].as_array().unwrap();
    assert!(covered.len() > 80, "{report:#}");

    let text = run(text).await;
    assert_eq!(text.code, Some(0), "{text:?}");
    for sentence in covered {
        let id = sentence["id"].as_str().unwrap();
        let is_listed = |line: &str| line.trim_start().starts_with(id);
        assert!(text.stdout.lines().any(is_listed), "no {id}: {text:?}");
    }
    for case in names(&report, "passed") {
        // Whether the minute is near has changed meanwhile.
        let is_listed = |line: &str| line.starts_with("passed") && line.contains(case);
        let is_there = text.stdout.lines().any(is_listed) || case == "minute-tick";
        assert!(is_there, "no {case}: {text:?}");
    }
}

#[tokio::test]
async fn an_edge_with_tls_passes_all_cases() {
    let dev = edge(&["--tls"]).await;
    let (_, options) = dev.introduction.split_once("--tls-ca ").unwrap();
    let authority = PathBuf::from(options.lines().next().unwrap().trim().trim_matches('\''));
    let authority = authority.to_str().unwrap();
    let ended = run(check(
        dev.clients,
        &["--json", "--tls", "--tls-ca", authority],
    ))
    .await;
    let report = assert_passed(&ended, &[]);
    assert_eq!(ids(&report["sentences"]["not_covered"]), [""; 0]);
}

#[tokio::test]
async fn a_proxy_that_makes_no_mistake_passes() {
    let dev = edge(&[]).await;
    let proxy = Proxy::start(dev.clients, Mutation::None).await;
    assert_passed(&run(check(proxy.addr, &["--json"])).await, &TLS_CASES);
}

#[tokio::test]
async fn each_mistake_of_an_edge_fails_the_case_that_looks_for_it() {
    let dev = edge(&[]).await;
    let mutants = [
        (Mutation::WrongPolynomial, "ack-of-auth", "checksum"),
        (Mutation::ResetForError, "closing", "a reset"),
        (Mutation::EarlyTicks, "ticks", "before its time"),
        (
            Mutation::EarlyTimeout,
            "heartbeat-timeout",
            "before the heartbeat timeout",
        ),
        (
            Mutation::LateTimeout,
            "heartbeat-timeout",
            "at most 500 ms are allowed",
        ),
        (Mutation::LostByte, "split-frames", "cut after"),
        (Mutation::ResumeOffByOne, "resume", "is missing"),
        (Mutation::DoubledTick, "mode-switch", "after the switch"),
        (Mutation::ReplayAsNormal, "resume", "instead of REPLAY"),
    ];
    let checks = mutants.map(|(mutation, case, seen)| {
        let edge = dev.clients;
        async move {
            let proxy = Proxy::start(edge, mutation).await;
            let ended = run(check(proxy.addr, &["--json", "--only", case])).await;
            assert_eq!(ended.code, Some(1), "{mutation:?}: {ended:?}");
            let report: Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(names(&report, "failed"), [case], "{mutation:?}: {report:#}");
            let shown = report.to_string();
            assert!(
                shown.contains(seen),
                "{mutation:?}, no {seen:?}: {report:#}"
            );
            assert_ne!(ids(&report["sentences"]["broken"]), [""; 0]);
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_checked_is_told_by_the_exit_code() {
    let nowhere = ReservedAddr::reserve();
    let ended = run(check(nowhere.addr(), &[])).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");

    let dev = edge(&[]).await;
    let mut command = check(dev.clients, &["--user", "nobody"]);
    command.env("STREAM_PASS", "open sesame");
    let ended = run(command).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(ended.stderr.contains("AUTH_FAILED"), "{ended:?}");
    assert!(!ended.stderr.contains("sesame"), "{ended:?}");
}

#[tokio::test]
async fn single_cases_are_chosen_by_name() {
    let list = run(tickstorm(&["check", "--list"])).await;
    assert_eq!(list.code, Some(0), "{list:?}");
    for name in ["ack-of-auth", "resume", "tls-records"] {
        let is_listed = list.stdout.lines().any(|line| line.starts_with(name));
        assert!(is_listed, "no {name}: {list:?}");
    }
    let dev = edge(&[]).await;
    let args = ["--json", "--only", "pong", "--only", "check/bad-magic"];
    let ended = run(check(dev.clients, &args)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let mut passed = names(&report, "passed");
    passed.sort_unstable();
    assert_eq!(passed, ["bad-magic", "pong"]);

    let ended = run(tickstorm(&["check", "--only", "no-such-case"])).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(ended.stderr.contains("--list"), "{ended:?}");
}
