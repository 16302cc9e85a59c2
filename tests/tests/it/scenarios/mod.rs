//! `tickstorm dev --scenario`: the Rust client passes each of them, and clients that break a rule
//! are told which.

mod careless;

use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tickstorm_client::{Event, Options};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use self::careless::Habit;
use crate::tickstorm::{PATIENCE, run, tickstorm};

/// The time limit for a scenario. The longest one leaves an address alone for a minute.
const SCENARIO_MAX: Duration = Duration::from_secs(180);

/// A running `tickstorm dev --scenario`.
struct Scenario {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    addr: String,
}

impl Scenario {
    async fn start(name: &str) -> Self {
        let mut command = tickstorm(&["dev", "--scenario", name, "--json"]);
        command.env("LISTEN_ADDR", "127.0.0.1:0");
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut scenario = Self {
            child,
            lines,
            addr: String::new(),
        };
        let first = scenario.event().await.unwrap();
        assert_eq!(first["event"], "listening");
        first["addr"]
            .as_str()
            .unwrap()
            .clone_into(&mut scenario.addr);
        scenario
    }

    /// Returns the next event; `None` at the end.
    async fn event(&mut self) -> Option<Value> {
        let line = timeout(SCENARIO_MAX, self.lines.next_line()).await;
        let line = line.expect("the scenario continues").unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Returns the status and all events up to the end.
    async fn ended(&mut self) -> (ExitStatus, Vec<Value>) {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            events.push(event);
        }
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap();
        (status.unwrap(), events)
    }
}

/// Follows an edge until the task is aborted, and returns when something is wrong with the ticks.
async fn follow(options: Options) -> String {
    let mut ticks = match tickstorm_client::connect(options).await {
        Ok(ticks) => ticks,
        Err(error) => return format!("not connected: {error}"),
    };
    let (mut last_ms, mut may_go_back) = (None, false);
    while let Some(event) = ticks.next().await {
        match event {
            Ok(Event::Tick(tick)) => {
                let epoch_ms = tick.epoch.as_ms();
                let expected = last_ms.is_none_or(|last| epoch_ms == last + 1_000);
                if !expected && !std::mem::take(&mut may_go_back) {
                    return format!("{epoch_ms} after {last_ms:?}");
                }
                last_ms = Some(epoch_ms);
            }
            Ok(Event::Reconnecting { resumes: false, .. }) => may_go_back = true,
            Ok(Event::Gap { after, before, .. }) => return format!("a gap: {after:?}, {before:?}"),
            Ok(_) => {}
            Err(error) => return format!("the client gave up: {error}"),
        }
    }
    "the client stopped".to_owned()
}

/// Lets the Rust client play a scenario, plainly and ahead.
async fn passes(name: &str) {
    let plays = [false, true].map(async |ahead| {
        let mut scenario = Scenario::start(name).await;
        let options = Options::new(&scenario.addr).credentials("stream_user", "stream_pass");
        tokio::select! {
            fault = follow(options.ahead(ahead)) => panic!("{name}, ahead {ahead}: {fault}"),
            (status, events) = scenario.ended() => {
                assert_eq!(status.code(), Some(0), "{name}, ahead {ahead}: {events:#?}");
                let end = serde_json::json!({"event": "end", "scenario": name, "faults": 0});
                assert_eq!(events.last(), Some(&end));
            }
        }
    });
    let [plain, ahead] = plays;
    tokio::join!(plain, ahead);
}

macro_rules! passes {
    ($($test:ident: $scenario:literal,)+) => {
        $(
            #[tokio::test]
            async fn $test() {
                passes($scenario).await;
            }
        )+

        /// The scenarios that have a test here.
        const TESTED: &[&str] = &[$($scenario),+];
    };
}

passes! {
    the_client_passes_drain: "drain",
    the_client_passes_going_away: "going-away",
    the_client_passes_no_time: "no-time",
    the_client_passes_step_forward: "step-forward",
    the_client_passes_step_back: "step-back",
    the_client_passes_bad_checksum: "bad-checksum",
    the_client_passes_splits: "splits",
    the_client_passes_slow: "slow",
    the_client_passes_cut: "cut",
    the_client_passes_unknown: "unknown",
    the_client_passes_hints: "hints",
    the_client_passes_wrong_password: "wrong-password",
}

#[tokio::test]
async fn each_scenario_is_tested_and_in_the_help() {
    let ended = run(tickstorm(&["dev", "--scenario", "no-such"])).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
    let (_, names) = ended.stderr.split_once("possible values: ").unwrap();
    let (names, _) = names.split_once(']').unwrap();
    let names: Vec<_> = names.split(", ").collect();
    assert_eq!(names, [TESTED, &["all"]].concat());
    let help = run(tickstorm(&["dev", "--help"])).await;
    for name in names {
        assert!(
            help.stdout.contains(&format!("- {name}:")),
            "{name}: {help:?}"
        );
    }
}

/// Lets a careless client play a scenario until it is told a fault of this rule.
async fn is_told(name: &str, habit: Habit, rule: &str) {
    let mut scenario = Scenario::start(name).await;
    let addr = scenario.addr.clone();
    let told = async {
        let mut others = Vec::new();
        loop {
            let event = scenario.event().await;
            let event = event.unwrap_or_else(|| panic!("no report of {rule:?}, but: {others:#?}"));
            if event["event"] == "fault" && event["rule"] == rule {
                break;
            }
            others.push(event);
        }
    };
    tokio::select! {
        () = told => {}
        () = careless::run(&addr, habit) => panic!("a careless client never stops"),
    }
    let (status, events) = tokio::select! {
        ended = scenario.ended() => ended,
        () = careless::run(&addr, habit) => panic!("a careless client never stops"),
    };
    assert_eq!(status.code(), Some(1), "{events:#?}");
    let end = events.last().unwrap();
    assert_eq!(
        (&end["event"], &end["scenario"]),
        (&"end".into(), &name.into())
    );
    assert!(end["faults"].as_u64() > Some(0), "{end}");
}

#[tokio::test]
async fn a_client_that_does_not_resume_is_told() {
    is_told("drain", Habit::NeverResumes, "Resuming").await;
}

#[tokio::test]
async fn a_client_that_comes_back_too_early_is_told() {
    is_told("hints", Habit::NeverWaits, "Reconnecting, retry_after_ms").await;
}

#[tokio::test]
async fn a_client_that_never_sends_a_heartbeat_is_told() {
    is_told("splits", Habit::NeverHeartbeats, "Session, Heartbeats").await;
}

#[tokio::test]
async fn a_client_that_dies_at_an_unknown_type_is_told() {
    is_told("unknown", Habit::DiesAtUnknownTypes, "Compatibility").await;
}

#[tokio::test]
async fn a_client_that_trusts_a_bad_checksum_is_told() {
    is_told("bad-checksum", Habit::TrustsChecksums, "Errors").await;
}

#[tokio::test]
async fn a_client_that_ignores_going_away_is_told() {
    is_told("going-away", Habit::IgnoresGoingAway, "Moving").await;
}

#[tokio::test]
async fn without_a_client_it_ends_with_code_69() {
    let mut scenario = Scenario::start("all").await;
    let (status, events) = scenario.ended().await;
    assert_eq!(status.code(), Some(69), "{events:#?}");
}

#[tokio::test]
async fn a_signal_after_a_fault_ends_it_with_code_1_and_lists_what_was_not_played() {
    let mut scenario = Scenario::start("all").await;
    let addr = scenario.addr.clone();
    let told = async { while scenario.event().await.expect("it continues")["event"] != "fault" {} };
    tokio::select! {
        () = told => {}
        () = careless::run(&addr, Habit::NeverResumes) => panic!("a careless client never stops"),
    }
    let pid = Pid::from_raw(scenario.child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let (status, events) = scenario.ended().await;
    assert_eq!(status.code(), Some(1), "{events:#?}");
    let [.., end, unplayed] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(end["event"], "end", "{events:#?}");
    assert_eq!(end["interrupted"], true, "{events:#?}");
    assert!(end["faults"].as_u64() > Some(0), "{events:#?}");
    assert_eq!(unplayed["event"], "unplayed", "{events:#?}");
    let unplayed = unplayed["scenarios"].as_array().unwrap();
    assert!(unplayed.contains(&end["scenario"]), "{events:#?}");
}

#[tokio::test]
async fn people_read_what_happens_line_by_line() {
    let mut command = tickstorm(&["dev", "--scenario", "drain"]);
    command
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("STREAM_PASS", "open sesame");
    let mut running = crate::tickstorm::Running::start(command);
    let line = running.line().await;
    let addr = line.strip_prefix("listening on ").unwrap().to_owned();
    assert_eq!(
        running.line().await,
        "login: user stream_user, password from STREAM_PASS"
    );
    let options = Options::new(addr).credentials("stream_user", "stream_pass");
    tokio::spawn(follow(options));
    let fault = running.line_with("FAULT: ").await;
    assert!(
        fault.contains("(docs/protocol.md: Session, Authentication)"),
        "{fault}"
    );
    assert!(!fault.contains("sesame"), "{fault}");
}

#[tokio::test]
async fn settings_that_scenarios_cannot_serve_are_refused() {
    for (args, name, value, code) in [
        (&["dev", "--scenario", "cut"][..], "TLS_ENABLED", "true", 78),
        (
            &["dev", "--scenario", "cut"],
            "STREAM_TOKENS_FILE",
            "/dev/null",
            78,
        ),
        (
            &["dev", "--scenario", "cut"],
            "LISTEN_ADDR",
            "0.0.0.0:0",
            78,
        ),
        (
            &["dev", "--scenario", "cut", "--tls"],
            "LISTEN_ADDR",
            "127.0.0.1:0",
            64,
        ),
        (&["dev", "--json"], "LISTEN_ADDR", "127.0.0.1:0", 64),
    ] {
        let mut command = tickstorm(args);
        command.env(name, value);
        let ended = run(command).await;
        assert_eq!(ended.code, Some(code), "{args:?} with {name}: {ended:?}");
    }
}
