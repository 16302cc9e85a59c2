//! `tickstorm check`: it passes on an edge, plain and with TLS, and fails on edges that make
//! mistakes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fmt, io};

use futures_util::future::join_all;
use serde_json::Value;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::{Ack, ErrorMsg};
use tickstorm_testkit::ReservedAddr;
use tickstorm_testkit::frame::{self, RawFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::dev::{Dev, dev};
use crate::support::mutant::{Mutation, Proxy};
use crate::tickstorm::{Ended, tickstorm};

/// A time limit for a whole check that only a defect exceeds.
const CHECK_TIME_MAX: Duration = Duration::from_secs(180);
/// A variable of the environment and its value.
type Setting = (&'static str, &'static str);

/// The cases that need TLS.
const TLS_CASES: [&str; 3] = ["tls-parameters", "tls-records", "tls-close-notify"];

/// Each mistake, the case that looks for it, and what it may have seen.
const MUTANTS: [(Mutation, &str, &[&str]); 9] = [
    (
        Mutation::WrongPolynomial,
        "ack-of-auth",
        &["the ACK of AUTH: the server sent an invalid frame: the frame's checksum was "],
    ),
    (
        Mutation::ResetForError,
        "closing",
        &["a reset of the connection instead of BAD_MAGIC"],
    ),
    (Mutation::EarlyTicks, "ticks", &[" ms before its time"]),
    (
        Mutation::EarlyTimeout,
        "heartbeat-timeout",
        &[" ms after the last sign of life, before the heartbeat timeout of 8000 ms"],
    ),
    (
        Mutation::LateTimeout,
        "heartbeat-timeout",
        &[" ms after the heartbeat timeout of 3000 ms; at most 500 ms are allowed"],
    ),
    // The cut at which it fails depends on which pieces the proxy reads apart.
    (
        Mutation::LostByte,
        "split-frames",
        &[
            "cut after byte 1: BAD_MAGIC (",
            "cut after byte 2: UNKNOWN_TYPE (",
            "cut after byte 3: UNKNOWN_TYPE (",
            "cut after byte 4: MESSAGE_TOO_LARGE (",
            "cut after byte 5: MESSAGE_TOO_LARGE (",
            "cut after byte 6: MESSAGE_TOO_LARGE (",
            ": BAD_CHECKSUM (",
        ],
    ),
    (
        Mutation::ResumeOffByOne,
        "resume",
        &[" of mode second is missing; "],
    ),
    (
        Mutation::DoubledTick,
        "mode-switch",
        &[" comes again, or is not after "],
    ),
    (
        Mutation::ReplayAsNormal,
        "resume",
        &[" was due before SUBSCRIBE, but its quality is 0 instead of REPLAY"],
    ),
];

/// Starts a clock and an edge that closes silent clients soon.
async fn edge(args: &[&str]) -> Dev {
    edge_with(args, &[]).await
}

/// Starts them with these settings.
async fn edge_with(args: &[&str], settings: &[(&str, &str)]) -> Dev {
    let mut command = dev();
    command
        .args(args)
        .env("HEARTBEAT_INTERVAL", "2s")
        .env("HEARTBEAT_TIMEOUT", "3s")
        .env("AUTH_TIMEOUT_MS", "4000")
        .envs(settings.iter().copied());
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

/// Returns what was seen in a case.
fn detail<'a>(report: &'a Value, name: &str) -> &'a str {
    let mut cases = report["cases"].as_array().unwrap().iter();
    let case = cases.find(|case| case["id"] == format!("check/{name}"));
    case.unwrap()["detail"].as_str().unwrap()
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
    assert!(names(&report, "passed").len() > 36, "{report:#}");
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
    assert!(covered.len() > 60, "{report:#}");
    let in_part = report["sentences"]["covered_in_part"].as_array().unwrap();
    for sentence in in_part {
        let (not_seen, not_tried) = (&sentence["not_seen"], &sentence["not_tried"]);
        let has_gap =
            not_seen.is_string() || not_tried.as_array().is_some_and(|all| !all.is_empty());
        assert!(has_gap, "{sentence:#}");
    }
    for id in ["reconnecting-11", "frames-24", "ahead-03", "tls-01"] {
        assert!(
            ids(&report["sentences"]["covered_in_part"]).contains(&id),
            "{report:#}"
        );
    }

    let text = run(text).await;
    assert_eq!(text.code, Some(0), "{text:?}");
    for sentence in covered.iter().chain(in_part) {
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
    let checks = MUTANTS.map(|(mutation, case, seen)| {
        let edge = dev.clients;
        async move {
            let proxy = Proxy::start(edge, mutation).await;
            let ended = run(check(proxy.addr, &["--json", "--only", case])).await;
            assert_eq!(ended.code, Some(1), "{mutation:?}: {ended:?}");
            let report: Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(names(&report, "failed"), [case], "{mutation:?}: {report:#}");
            let detail = detail(&report, case);
            assert!(
                seen.iter().any(|seen| detail.contains(seen)),
                "{mutation:?}, none of {seen:?}: {detail}"
            );
            assert_ne!(ids(&report["sentences"]["broken"]), [""; 0]);
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn ticks_that_are_usually_late_fail() {
    let dev = edge(&[]).await;
    let proxy = Proxy::start(dev.clients, Mutation::LateTicks).await;
    // Less than the mistake, unlike that of other checks.
    let mut command = tickstorm(&["check", "--addr", &proxy.addr.to_string()]);
    command.args(["--tolerance", "50ms", "--json", "--only", "ticks"]);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let detail = detail(&report, "ticks");
    let is_late = detail.starts_with("ticks are usually ") && detail.contains("150 ms are allowed");
    assert!(is_late, "{detail}");
    assert!(ids(&report["sentences"]["broken"]).contains(&"intro-05"));
}

#[tokio::test]
async fn a_missing_field_in_the_ack_of_auth_hides_nothing_else() {
    let dev = edge(&[]).await;
    let checks = [
        (
            Mutation::NoEdgeId,
            "there is no edge_id",
            &["ack-of-auth"][..],
        ),
        (
            Mutation::NoFrameRate,
            "there is no frame_rate_limit (10 is assumed)",
            &["ack-of-auth"],
        ),
        (
            Mutation::NoConnectionId,
            "the connection_id is \"\"",
            &["ack-of-auth", "connection-ids"],
        ),
    ]
    .map(|(mutation, seen, failed)| {
        let edge = dev.clients;
        async move {
            let proxy = Proxy::start(edge, mutation).await;
            let ended = run(check(proxy.addr, &["--json"])).await;
            assert_eq!(ended.code, Some(1), "{mutation:?}: {ended:?}");
            let report: Value = serde_json::from_str(&ended.stdout).unwrap();
            let mut found = names(&report, "failed");
            found.sort_unstable();
            assert_eq!(found, failed, "{mutation:?}: {report:#}");
            assert_eq!(report["inconclusive"], 0, "{mutation:?}: {report:#}");
            assert_eq!(detail(&report, "ack-of-auth"), seen);
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn an_edge_with_unusual_settings_passes() {
    let no_window = [
        "minute",
        "resume",
        "resume-next-connection",
        "resume-any-time",
        "resume-far-back",
        "auth-timeout",
    ];
    let all: [(&[Setting], &[&str]); 4] = [
        (&[("RESUME_WINDOW", "1m")], &["minute"]),
        (&[("RESUME_WINDOW", "10s")], &["minute"]),
        // It waits for AUTH longer than the check does.
        (
            &[("RESUME_WINDOW", "0s"), ("AUTH_TIMEOUT_MS", "31000")],
            &no_window,
        ),
        // An interval must have room for two frames.
        (
            &[
                ("FRAME_RATE_LIMIT", "1"),
                ("HEARTBEAT_INTERVAL", "6s"),
                ("HEARTBEAT_TIMEOUT", "8s"),
            ],
            &[],
        ),
    ];
    let checks = all.map(async |(settings, may_skip)| {
        let dev = edge_with(&[], settings).await;
        let ended = run(check(dev.clients, &["--json"])).await;
        assert_passed(&ended, &[&TLS_CASES, may_skip].concat());
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_server_that_excuses_itself_does_not_pass() {
    let excuse = Stub::start(usize::MAX, "NO_TIME").await;
    let ended = run(check(excuse.addr, &["--json"])).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let failed = names(&report, "failed");
    for case in ["pong", "bad-magic", "ticks", "resume", "signs-of-life"] {
        assert!(failed.contains(&case), "{case}: {report:#}");
    }
    assert!(failed.len() > 30, "{report:#}");
    let detail = detail(&report, "pong");
    assert_eq!(detail, "NO_TIME (an excuse) instead of PONG");
}

#[tokio::test]
async fn a_server_without_capacity_is_inconclusive() {
    let full = Stub::start(2, "SERVER_FULL").await;
    let ended = run(check(full.addr, &["--json"])).await;
    assert_eq!(ended.code, Some(75), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(names(&report, "passed"), ["ack-of-auth"], "{report:#}");
    assert_eq!(names(&report, "failed"), [""; 0], "{report:#}");
    for name in names(&report, "skipped") {
        assert!(TLS_CASES.contains(&name), "{name}: {report:#}");
    }
    let inconclusive = names(&report, "inconclusive").len();
    assert_eq!(report["inconclusive"], inconclusive);
    assert!(inconclusive > 40, "{report:#}");
}

/// A server that answers the first AUTHs with ACK, and everything else with an excuse.
struct Stub {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Stub {
    async fn start(acks: usize, excuse: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let remaining = Arc::new(AtomicUsize::new(acks));
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let remaining = Arc::clone(&remaining);
                tokio::spawn(async move {
                    // The client may close at any time.
                    let _ = answer(client, &remaining, excuse).await;
                });
            }
        });
        Self { addr, accepting }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut client: TcpStream, acks: &AtomicUsize, excuse: &str) -> io::Result<()> {
    const AUTH_HEADER: [u8; 6] = [0xF5, 0x7D, 1, frame::AUTH, 0, 0];
    let error = ErrorMsg {
        code: excuse.into(),
        message: "an excuse".into(),
        retry_after_ms: 5_000,
        connection_id: "stub".into(),
        ..ErrorMsg::default()
    };
    let mut bytes = Vec::new();
    if acks.load(Ordering::Relaxed) > 0 {
        loop {
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            let start = bytes.len().min(AUTH_HEADER.len());
            if bytes[..start] != AUTH_HEADER[..start] {
                break;
            }
            if RawFrame::take(&mut bytes).is_some() {
                acks.fetch_sub(1, Ordering::Relaxed);
                client.write_all(&encoded(FrameType::Ack, &ack())).await?;
                break;
            }
        }
        if bytes.is_empty() && client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    client.write_all(&encoded(FrameType::Error, &error)).await?;
    client.shutdown().await?;
    // What still comes is read, so that closing does not reset the connection.
    while client.read_buf(&mut bytes).await? > 0 {
        bytes.clear();
    }
    Ok(())
}

fn ack() -> Ack {
    Ack {
        acked_type: u32::from(frame::AUTH),
        heartbeat_interval_ms: 2_000,
        heartbeat_timeout_ms: 3_000,
        edge_id: "stub".into(),
        protocol_minor: 1,
        connection_id: "stub".into(),
        frame_rate_limit: 10,
        ..Ack::default()
    }
}

fn encoded(frame_type: FrameType, message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame_type, message, &mut bytes);
    bytes
}

#[tokio::test]
async fn tls_to_a_plain_port_is_told() {
    let dev = edge(&[]).await;
    let ended = run(check(dev.clients, &["--tls"])).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("leave out --tls"), "{ended:?}");
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
    assert_eq!(report["connected_to"], dev.clients.to_string());
    let covered = ids(&report["sentences"]["covered"]);
    assert!(covered.contains(&"errors-02"), "{report:#}");
    assert_eq!(ids(&report["sentences"]["not_covered"]), [""; 0]);

    let ended = run(tickstorm(&["check", "--only", "no-such-case"])).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(ended.stderr.contains("--list"), "{ended:?}");
}
