//! `tickstorm bench` at small sizes. Each scenario completes, and its results report its
//! measurements and no faults. The measured speeds are not judged here.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tickstorm_testkit::{CertificateAuthority, TempDir};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::tickstorm::{Ended, tickstorm};

/// The time limit for a scenario of several seconds on a very slow machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The exit code if the load generator was the bottleneck, which is possible in a build without
/// optimization.
const VOID: i32 = 75;

/// The results of a run that completed: the JSON file, the HTML page and the output.
struct Results {
    json: Value,
    html: String,
    stdout: String,
}

impl Results {
    fn number(&self, pointer: &str) -> f64 {
        let found = self.json.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no {pointer} in {}", self.json))
    }

    fn figure(&self, id: &str) -> &Value {
        self.named("figures", id)
    }

    fn distribution(&self, id: &str) -> &Value {
        self.named("distributions", id)
    }

    fn named(&self, of: &str, id: &str) -> &Value {
        let all = self.json[of].as_array().unwrap();
        let found = all.iter().find(|one| one["id"] == id);
        found.unwrap_or_else(|| panic!("no {id} in {}", self.json))
    }

    /// Asserts that these figures were measured for the edge and for the bare loop, with their
    /// ratio.
    fn assert_ratios(&self, ids: &[&str]) {
        for id in ids {
            let figure = self.figure(id);
            for field in ["edge", "limit", "ratio"] {
                let value = figure[field].as_f64();
                let is_positive = value.is_some_and(|value| value > 0.0);
                assert!(is_positive, "{field} of {figure}");
            }
        }
    }

    /// Asserts that the results report no faults and that the page and the output are complete.
    fn assert_no_faults(&self) {
        let faults = self.json["faults"].as_object().unwrap();
        for name in ["lost", "duplicate", "out_of_order", "early", "disconnected"] {
            assert_eq!(faults[name], 0, "{}", self.json);
        }
        assert_eq!(self.json["violations"], serde_json::json!([]));
        assert!(self.html.starts_with("<!DOCTYPE html>"));
        assert!(self.html.contains("<svg"));
        assert!(self.stdout.contains("faults: "), "{}", self.stdout);
    }
}

async fn bench_ended(args: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = tickstorm(&[&["bench"], args].concat());
    command.envs(env.iter().copied());
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("still running: {args:?}"))
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn bench(args: &[&str]) -> Results {
    bench_with(args, &[]).await
}

async fn bench_with(args: &[&str], env: &[(&str, &str)]) -> Results {
    let directory = TempDir::new("bench");
    let files = [("--json", "out.json"), ("--html", "out.html")];
    let [json, html] = files.map(|(_, name)| directory.path().join(name));
    let (json_path, html_path) = (json.to_str().unwrap(), html.to_str().unwrap());
    let to_files = ["--json", json_path, "--html", html_path];
    let ended = bench_ended(&[args, &to_files].concat(), env).await;
    assert!(matches!(ended.code, Some(0 | VOID)), "{ended:?}");
    Results {
        json: serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap(),
        html: std::fs::read_to_string(&html).unwrap(),
        stdout: ended.stdout,
    }
}

#[tokio::test]
async fn fanout_measures_every_tick_of_every_client_and_the_bare_loop() {
    let results = bench(&["fanout", "-n", "150", "--ticks", "3", "--with-limit"]).await;
    results.assert_no_faults();
    results.assert_ratios(&["cpu_us_per_message", "last_arrival_ms", "spread_ms"]);
    let after_due = results.distribution("after_due");
    assert!(after_due["count"].as_u64() >= Some(450), "{after_due}");
    assert!(results.distribution("bare_after_due")["count"].as_u64() >= Some(450));
    assert!(after_due["p50"].as_f64() <= after_due["max"].as_f64());
    assert!(results.number("/generator/user_share") >= 0.0);
    assert!(results.figure("rss_bytes_per_connection")["edge"].is_number());
}

#[tokio::test]
async fn fanout_over_tls_is_compared_with_a_sealing_loop_and_with_an_edge_without_tls() {
    let args = [
        "fanout",
        "-n",
        "100",
        "--ticks",
        "4",
        "--tls",
        "--with-limit",
    ];
    let results = bench(&args).await;
    results.assert_no_faults();
    assert_eq!(results.json["faults"]["broken"], 0, "{}", results.json);
    for figure in ["cpu_us_per_message", "last_arrival_ms"] {
        for edge in ["", "plain_"] {
            results.assert_ratios(&[&format!("{edge}{figure}")]);
        }
        results.assert_ratios(&[&format!("{figure}_to_plain")]);
    }
    // The bare loop sends once in the measured part of a round and once after it, and the clients
    // have opened all of its records.
    assert!(results.distribution("bare_after_due")["count"].as_u64() >= Some(800));
    assert!(results.distribution("plain_after_due")["count"].as_u64() >= Some(400));
    let tls = &results.json["tls"];
    assert_eq!(tls["suite"], "TLS13_AES_256_GCM_SHA384", "{tls}");
    assert_eq!(tls["key_type"], "ecdsa-p256", "{tls}");
    let line = "TLS: TLS13_AES_256_GCM_SHA384, key of the edge ecdsa-p256";
    assert!(results.stdout.contains(line) && results.html.contains(line));
    for id in ["rss_bytes_per_connection", "plain_rss_bytes_per_connection"] {
        assert!(results.figure(id)["edge"].is_number(), "{id}");
    }
}

#[tokio::test]
async fn every_other_scenario_also_runs_over_tls() {
    for args in [
        "burst -n 20 --rate 1000 --for 1s --rounds 1 --with-limit",
        "idle -n 20 --heartbeat 1s --for 3s --with-limit",
        "churn -n 30 --per-second 10 --for 2s",
        "auth -n 10 --tokens 100 --auths 20 --wrong 25 --ticks 3",
        "fanout -n 20 --ticks 2 --ahead --released 2",
        "slow -n 20 --share 5 --rate 8000 --for 4s --rounds 1 --how trickle",
    ] {
        let args: Vec<_> = args.split(' ').chain(["--tls"]).collect();
        let results = bench_with(&args, &[("WRITE_DEADLINE_MS", "1000")]).await;
        results.assert_no_faults();
        let suite = &results.json["tls"]["suite"];
        assert_eq!(suite, "TLS13_AES_256_GCM_SHA384", "{args:?}");
    }
}

#[tokio::test]
async fn connect_storms_over_tls_are_compared_with_as_many_quiet_ticks() {
    let args = "connect -n 40 --rounds 1 --storms 2 --present 10 --with-limit \
                --tls --tls-client-auth --tls-key-type rsa-2048";
    let results = bench(&args.split_whitespace().collect::<Vec<_>>()).await;
    results.assert_no_faults();
    results.assert_ratios(&["pipelined_cpu_us", "storm_last_arrival_ms"]);
    assert_eq!(results.distribution("storm")["count"], 80);
    let columns = &results.json["lateness"]["columns"];
    let ticks = columns[1]["ticks"].as_u64().unwrap();
    assert!(ticks >= 2, "{columns}");
    assert_eq!(columns[0]["ticks"], ticks, "{columns}");
    for ticks_of in ["in_storm", "after_storm"] {
        let arrived = results.distribution(ticks_of)["count"].as_u64().unwrap();
        assert!(arrived >= 10 * ticks, "{ticks_of}: {arrived}");
    }
    let tls = &results.json["tls"];
    assert_eq!(tls["key_type"], "rsa-2048", "{tls}");
    assert_eq!(tls["client_certificate"], true, "{tls}");
}

/// An edge with TLS that another program has started.
struct TlsEdge {
    files: TempDir,
    addr: String,
    // The process ends with its standard input.
    _process: tokio::process::Child,
}

impl TlsEdge {
    async fn start() -> Self {
        let authority = CertificateAuthority::new();
        let certificate = authority.issue("edge.test");
        let files = TempDir::new("bench_tls");
        files.write("ca.pem", authority.certificate());
        files.write("stranger.pem", CertificateAuthority::new().certificate());
        let mut command = tickstorm(&["bench-edge"]);
        command
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .env("TLS_ENABLED", "true")
            .env(
                "TLS_CERT_FILE",
                files.write("edge.crt", &certificate.certificate),
            )
            .env("TLS_KEY_FILE", files.write("edge.key", &certificate.key))
            .stdin(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let ready = ready.expect("the edge is not ready").unwrap().unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        Self {
            addr: ready["Ready"]["addr"].as_str().unwrap().to_owned(),
            files,
            _process: process,
        }
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }
}

#[tokio::test]
async fn an_edge_with_tls_that_is_already_running_is_measured_only_if_it_can_be_trusted() {
    let edge = TlsEdge::start().await;
    let (ca, stranger) = (edge.path("ca.pem"), edge.path("stranger.pem"));
    let fanout = ["fanout", "-n", "20", "--ticks", "2", "--addr", &edge.addr];
    let trusting = ["--tls", "--tls-ca", &ca, "--tls-name", "edge.test"];
    let results = bench(&[&fanout[..], &trusting].concat()).await;
    results.assert_no_faults();
    assert!(results.distribution("after_due")["count"].as_u64() >= Some(40));
    assert_eq!(results.json["tls"]["key_type"], Value::Null);
    for (options, named) in [
        (
            &["--tls", "--tls-ca", &stranger, "--tls-name", "edge.test"][..],
            "invalid peer certificate",
        ),
        (&["--tls", "--tls-ca", &ca], "not valid for name"),
        (&[], "none of 20 clients was served"),
    ] {
        let ended = bench_ended(&[&fanout[..], options].concat(), &[]).await;
        assert_eq!(ended.code, Some(69), "{options:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "{options:?}: {ended:?}");
    }
}

#[tokio::test]
async fn fanout_ahead_releases_through_the_rust_client() {
    let args = [
        "fanout",
        "-n",
        "20",
        "--ticks",
        "4",
        "--ahead",
        "--released",
        "3",
    ];
    let results = bench(&args).await;
    results.assert_no_faults();
    assert!(results.distribution("released")["count"].as_u64() >= Some(3));
}

#[tokio::test]
async fn fanout_also_measures_an_edge_that_is_already_running() {
    let dev = crate::dev::Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let results = bench(&["fanout", "-n", "30", "--ticks", "2", "--addr", &addr]).await;
    results.assert_no_faults();
    assert!(results.distribution("after_due")["count"].as_u64() >= Some(60));
    assert_eq!(results.json["edge"], Value::Null);
    assert!(results.figure("cpu_us_per_message")["edge"].is_null());
}

#[tokio::test]
async fn the_generator_holds_more_clients_than_a_process_may_open_files() {
    let dev = crate::dev::Dev::on_free_ports().await;
    let addr = dev.clients.to_string();
    let output = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 1024 && exec \"$0\" \"$@\""])
        .arg(crate::tickstorm::binary("tickstorm"))
        .args([
            "bench", "fanout", "-n", "1200", "--ticks", "2", "--addr", &addr,
        ])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    let output = output.expect("still running").unwrap();
    assert!(matches!(output.status.code(), Some(0 | VOID)), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains(" 0 lost"), "{stdout}");
}

#[tokio::test]
async fn connect_measures_three_ways_to_connect_and_the_bare_accept_loop() {
    let results = bench(&["connect", "-n", "100", "--rounds", "1", "--with-limit"]).await;
    results.assert_no_faults();
    results.assert_ratios(&[
        "pipelined_cpu_us",
        "stepwise_cpu_us",
        "pipelined_per_second",
    ]);
    for way in ["pipelined", "stepwise", "storm"] {
        assert_eq!(results.distribution(way)["count"], 100, "{way}");
    }
}

#[tokio::test]
async fn burst_delivers_every_tick_and_measures_the_bare_loop_with_the_same_batches() {
    let args = [
        "burst",
        "-n",
        "20",
        "--rate",
        "1000",
        "--for",
        "1s",
        "--rounds",
        "2",
        "--with-limit",
    ];
    let results = bench(&args).await;
    results.assert_no_faults();
    results.assert_ratios(&["cpu_ms", "last_arrival_ms"]);
    assert_eq!(results.figure("delivered_per_second")["edge"], 20_000.0);
}

#[tokio::test]
async fn idle_measures_cpu_and_memory_and_the_bare_echo_loop() {
    let args = [
        "idle",
        "-n",
        "40",
        "--heartbeat",
        "1s",
        "--for",
        "3s",
        "--with-limit",
    ];
    let results = bench(&args).await;
    results.assert_no_faults();
    results.assert_ratios(&["edge_cores", "cpu_us_per_heartbeat"]);
    for answers in ["pong", "bare_pong"] {
        assert!(
            results.distribution(answers)["count"].as_u64() >= Some(40),
            "{answers}"
        );
    }
}

#[tokio::test]
async fn slow_clients_are_closed_and_the_others_miss_no_tick() {
    let args = [
        "slow", "-n", "40", "--share", "5", "--rate", "8000", "--for", "4s", "--rounds", "1",
    ];
    let results = bench_with(&args, &[("WRITE_DEADLINE_MS", "1000")]).await;
    results.assert_no_faults();
    results.assert_ratios(&["others_p99_ms"]);
    assert!(results.figure("closed_after_s")["edge"].is_number());
    assert_eq!(results.number("/options/slow"), 2.0);
}

#[tokio::test]
async fn churn_leaks_no_descriptor() {
    let results = bench(&["churn", "-n", "60", "--per-second", "20", "--for", "3s"]).await;
    results.assert_no_faults();
    let files = |id: &str| results.figure(id)["edge"].as_f64().unwrap();
    assert_eq!(files("files_begin"), files("files_end"));
    assert_eq!(results.figure("churned")["edge"], 60.0);
}

#[tokio::test]
async fn a_drain_leaves_no_client_and_each_gets_its_ticks_until_then() {
    let args = ["drain", "-n", "300", "--ticks", "2"];
    let results = bench_with(&args, &[("DRAIN_TIMEOUT", "4s")]).await;
    assert_eq!(results.number("/faults/disconnected"), 0.0);
    assert_eq!(results.number("/faults/lost"), 0.0);
    assert_eq!(results.figure("left")["edge"], 0.0);
    let took = results.figure("drain_s")["edge"].as_f64().unwrap();
    assert!((2.0..20.0).contains(&took), "{took} s");
    assert!(results.distribution("before")["count"].as_u64() >= Some(600));
    assert!(results.distribution("during")["count"].as_u64() >= Some(300));
}

#[tokio::test]
async fn auth_counts_every_tick_and_every_auth() {
    let args = [
        "auth", "-n", "20", "--tokens", "300", "--auths", "40", "--wrong", "25", "--ticks", "5",
    ];
    let results = bench(&args).await;
    results.assert_no_faults();
    for name in ["auth_unanswered", "auth_answered_wrongly"] {
        assert_eq!(results.json["faults"][name], 0, "{}", results.json);
    }
    // Two of the five ticks follow 40 AUTHs each, a quarter of which must be refused.
    assert_eq!(results.distribution("accepted")["count"], 60);
    assert_eq!(results.distribution("refused")["count"], 20);
    for (column, ticks) in [(0, 3), (1, 2)] {
        let column = &results.json["lateness"]["columns"][column];
        assert_eq!(column["ticks"], ticks, "{column}");
        let counts = column["counts"].as_array().unwrap().iter();
        let counted: u64 = counts.map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(counted, ticks, "{column}");
    }
    let head = "| release lateness | without AUTHs | with 40 AUTHs |\n| --- | ---: | ---: |";
    assert!(results.stdout.contains(head), "{}", results.stdout);
    assert!(results.html.contains("with 40 AUTHs"));
}

#[tokio::test]
async fn errors_are_reported_before_anything_is_measured() {
    for (args, code, expected) in [
        (&["fanout", "-n", "0"][..], 64, "0"),
        (&["fanout", "--for", "soon"], 64, "a duration"),
        (&["fanout", "--edge-cpus", "first"], 64, "CPUs"),
        (&["fanout", "--edge-cpus", "4000"], 64, "no CPU 4000"),
        (
            &["fanout", "--with-limit", "--addr", "127.0.0.1:1"],
            64,
            "--addr",
        ),
        (&["fanout", "--released", "5"], 64, "--ahead"),
        (&["burst", "--addr", "127.0.0.1:1"], 64, "child process"),
        (&["slow", "--addr", "127.0.0.1:1"], 64, "child process"),
        (&["auth", "--addr", "127.0.0.1:1"], 64, "child process"),
        (&["auth", "--tokens", "10001"], 64, "10001"),
        (&["fanout", "--addr", "8080"], 64, "a host and a port"),
        (
            &["fanout", "-n", "5", "--addr", "127.0.0.1:1"],
            69,
            "refused",
        ),
        (&["hover"], 64, "hover"),
        (&["slow", "--with-limit"], 64, "no bare loop"),
        (&["churn", "--with-limit"], 64, "no bare loop"),
        (&["auth", "--with-limit"], 64, "no bare loop"),
        (&["drain", "--with-limit"], 64, "no bare loop"),
        (&["drain", "--addr", "127.0.0.1:1"], 64, "child process"),
        (&["fanout", "--tls-key-type", "rsa-2048"], 64, "--tls"),
        (
            &["fanout", "--tls", "--tls-key-type", "dsa"],
            64,
            "rsa-2048",
        ),
        (&["fanout", "--tls", "--tls-ca", "ca.pem"], 64, "--addr"),
        (
            &["fanout", "--tls", "--with-limit", "--mode", "minute"],
            64,
            "--mode minute",
        ),
        (
            &[
                "fanout",
                "--tls",
                "--tls-ca",
                "/nowhere",
                "--addr",
                "127.0.0.1:1",
            ],
            78,
            "/nowhere",
        ),
    ] {
        let ended = bench_ended(args, &[]).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {ended:?}");
    }
    for (name, value) in [
        ("SHARDS", "0"),
        ("STREAM_PASS_FILE", "/nowhere"),
        ("TLS_CERT_FILE", "/nowhere"),
    ] {
        let ended = bench_ended(&["fanout", "-n", "5"], &[(name, value)]).await;
        assert_eq!(ended.code, Some(78), "{name}: {ended:?}");
        assert!(ended.stderr.contains(name), "{name}: {ended:?}");
    }
}

#[tokio::test]
async fn the_exit_code_is_74_if_results_cannot_be_written() {
    let args = [
        "fanout",
        "-n",
        "5",
        "--ticks",
        "1",
        "--json",
        "/nowhere/out.json",
    ];
    let ended = bench_ended(&args, &[]).await;
    assert_eq!(ended.code, Some(74), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere/out.json"), "{ended:?}");
}

#[tokio::test]
async fn help_lists_scenarios_with_examples_and_hides_the_childs_command() {
    let ended = bench_ended(&["--help"], &[]).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    for scenario in [
        "fanout", "connect", "burst", "idle", "slow", "churn", "auth", "drain",
    ] {
        assert!(
            ended
                .stdout
                .contains(&format!("tickstorm bench {scenario}")),
            "{ended:?}"
        );
    }
    let ended = crate::tickstorm::run(tickstorm(&["--help"])).await;
    assert!(ended.stdout.contains("bench") && !ended.stdout.contains("bench-edge"));
}
