//! What an operator does when a client reports that it was cut off: the trail from the client's id
//! to its log lines, the levels of the logs, and the ids of requests to the admin port.

use std::net::IpAddr;

use nix::sys::signal::Signal;
use serde_json::Value;
use tickstorm_testkit::{Peer, PeerOptions, frame, peer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::daemon::{Daemon, PASSWORD, USER};
use crate::support::eventually;
use crate::tickstorm::{PATIENCE, run, tickstorm};

/// An answer of an admin port.
#[derive(Debug)]
struct Answer {
    code: u16,
    request_ids: Vec<String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    fn request_id(&self) -> &str {
        let [id] = &self.request_ids[..] else {
            panic!("{self:?}");
        };
        id
    }
}

/// Sends a request with these further header lines to a daemon's admin port.
async fn ask_with(daemon: &Daemon, request: &str, headers: &[&[u8]]) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(daemon.admin()).await.unwrap();
        let mut bytes = format!("{request} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
        for header in headers {
            bytes.extend_from_slice(header);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        stream.write_all(&bytes).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let code = lines.next().unwrap()[9..12].parse().unwrap();
        let fields = lines.filter_map(|line| line.split_once(": "));
        let ids = fields.filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
        Answer {
            code,
            request_ids: ids.map(|(_, id)| id.to_owned()).collect(),
            body: body.to_owned(),
        }
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

async fn ask(daemon: &Daemon, request: &str) -> Answer {
    ask_with(daemon, request, &[]).await
}

/// Connects a client, and returns it with the id that the edge gives it.
async fn enter(edge: &Daemon, from: &str) -> (Peer, String) {
    let options = PeerOptions {
        from: Some(from.parse::<IpAddr>().unwrap()),
        ..PeerOptions::default()
    };
    let mut client = Peer::connect_with(edge.clients(), options).await;
    client.auth(USER, PASSWORD).await;
    let id = client.expect_ack(frame::AUTH).await.connection_id;
    (client, id)
}

/// Cuts a client off, because it authenticates twice, and returns the id in the ERROR.
async fn cut_off(client: &mut Peer) -> String {
    client.send(&peer::auth(USER, PASSWORD)).await;
    let error = client.expect_error("ALREADY_AUTHENTICATED").await;
    assert!(error.message.contains("only once"), "{error:?}");
    error.connection_id
}

/// Returns the lines of a log that have this value in a field.
fn lines_with(log: &str, field: &str, value: &str) -> Vec<Value> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(|line: &Value| line[field] == value).collect()
}

fn has_message(lines: &[Value], message: &str) -> bool {
    lines.iter().any(|line| line["message"] == message)
}

/// Waits until these lines of a connection are in the log, and checks that all of its lines are
/// marked with `debug`.
async fn assert_trail(edge: &Daemon, id: &str, debug: &str, messages: &[&str]) {
    let what = format!("all lines of {id}");
    eventually(&what, PATIENCE, async || {
        let lines = lines_with(&edge.log(), "connection", id);
        messages.iter().all(|message| has_message(&lines, message))
    })
    .await;
    for line in lines_with(&edge.log(), "connection", id) {
        assert_eq!(
            (&line["debug"], &line["level"]),
            (&debug.into(), &"INFO".into())
        );
        assert!(
            line["peer"].as_str().unwrap().starts_with("127.0.0."),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_client_that_was_cut_off_is_found_by_its_id_and_by_its_address() {
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    let (mut by_id, id) = enter(&edge, "127.0.0.2").await;
    let (mut other, other_id) = enter(&edge, "127.0.0.2").await;
    let listed = ask(&edge, "GET /connections?sort=age").await.json();
    assert_eq!(listed[0]["id"], *id, "{listed}");

    let started = ask(&edge, &format!("POST /debug?client={id}&for=60s")).await;
    let state = started.json();
    assert_eq!(state["clients"][0]["client"], *id, "{state}");
    let left_ms = state["clients"][0]["ends_in_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&left_ms), "{state}");
    let state = ask(&edge, "POST /debug?client=127.0.0.3/32&for=1h")
        .await
        .json();
    assert_eq!(state["clients"].as_array().unwrap().len(), 2, "{state}");

    assert_eq!(
        cut_off(&mut by_id).await,
        id,
        "ACK and ERROR have the same id"
    );
    assert_eq!(cut_off(&mut other).await, other_id);
    let (mut by_address, address_id) = enter(&edge, "127.0.0.3").await;
    assert_eq!(cut_off(&mut by_address).await, address_id);

    for (id, debug, messages) in [
        (&id, &*id, &["sending ERROR", "connection closed"][..]),
        (
            &address_id,
            "127.0.0.3/32",
            &[
                "connection accepted",
                "authenticated",
                "sending ERROR",
                "connection closed",
            ],
        ),
    ] {
        assert_trail(&edge, id, debug, messages).await;
    }
    let closed = lines_with(&edge.log(), "reason", "already_authenticated");
    assert_eq!(closed.len(), 3, "{closed:?}");
    assert!(closed.iter().all(|line| line["identity"] == "user"
        && line["lasted_ms"].is_u64()
        && line["received_bytes"].as_u64() > Some(50)));
    assert_only_the_end(&edge, &other_id);

    let request = started.request_id();
    let caused = lines_with(&edge.log(), "request_id", request);
    assert!(has_message(&caused, "a client is debugged"), "{caused:?}");
    assert!(
        caused.iter().all(|line| line["client"] == *id),
        "{caused:?}"
    );

    let ended = ask(&edge, "DELETE /debug?client=127.0.0.3/32").await.json();
    assert_eq!(ended["clients"].as_array().unwrap().len(), 1, "{ended}");
    assert_eq!(
        ask(&edge, "GET /debug").await.json()["clients"][0]["client"],
        *id
    );
    let (mut later, later_id) = enter(&edge, "127.0.0.3").await;
    cut_off(&mut later).await;
    assert_eq!(edge.terminate().await, Some(0));
    assert_only_the_end(&edge, &later_id);
}

/// The log has one line of a client that was cut off without being debugged.
fn assert_only_the_end(edge: &Daemon, id: &str) {
    let lines = lines_with(&edge.log(), "connection", id);
    assert!(has_message(&lines, "connection closed"), "{lines:?}");
    assert!(
        lines.len() == 1 && lines[0].get("debug").is_none(),
        "{lines:?}"
    );
}

/// An operator must not close another connection than the one that a client has named, on this edge
/// or after a restart.
#[tokio::test]
async fn the_id_of_another_edge_or_of_an_earlier_run_leads_nowhere() {
    let mut edges = [Daemon::new("tickstorm-edge"), Daemon::new("tickstorm-edge")];
    for edge in &mut edges {
        edge.start().await;
    }
    let [one, other] = &mut edges;
    let (mut client, id) = enter(one, "127.0.0.2").await;
    let (mut stays, own) = enter(other, "127.0.0.2").await;
    for request in [
        format!("DELETE /connections/{id}"),
        format!("DELETE /connections/{id}?gently"),
        format!("POST /debug?client={id}&for=60s"),
    ] {
        let answer = ask(other, &request).await;
        assert_eq!(answer.code, 404, "{answer:?}");
        assert!(answer.body.contains("of another edge"), "{answer:?}");
    }
    stays.heartbeat(1).await;
    stays.expect_pong().await;
    assert_eq!(
        ask(one, &format!("DELETE /connections/{id}")).await.code,
        204
    );
    client.expect_eof().await;
    let answer = ask(one, &format!("DELETE /connections/{id}")).await;
    assert_eq!(answer.code, 404, "{answer:?}");
    assert!(answer.body.contains("has ended"), "{answer:?}");
    other.kill().await;
    other.start().await;
    let (_again, _) = enter(other, "127.0.0.2").await;
    let answer = ask(other, &format!("DELETE /connections/{own}")).await;
    assert_eq!(answer.code, 404, "{answer:?}");
    assert!(answer.body.contains("before a restart"), "{answer:?}");
}

#[tokio::test]
async fn tail_prints_the_id_of_a_connection_that_ends() {
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    let addr = edge.clients().to_string();
    let mut command = tickstorm(&["tail", "--addr", &addr, "--user", USER]);
    command.env("STREAM_PASS", "wrong");
    let ended = run(command).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    let id = ended.stderr.split_once("(connection ").unwrap().1;
    let (id, _) = id.split_once(')').unwrap();
    let known = ask(&edge, &format!("POST /debug?client={id}&for=1s")).await;
    assert_eq!(known.code, 200, "{id}: {known:?}");
}

#[tokio::test]
async fn a_module_can_have_a_level_of_its_own() {
    let mut edge = Daemon::new("tickstorm-edge").with(
        "LOG_LEVEL",
        "warn,tickstorm_edge::shard=debug,tickstorm_edge::control=info",
    );
    edge.start().await;
    let (mut client, id) = enter(&edge, "127.0.0.2").await;
    cut_off(&mut client).await;
    eventually("its end is logged", PATIENCE, async || {
        has_message(
            &lines_with(&edge.log(), "connection", &id),
            "connection closed",
        )
    })
    .await;
    let levels = |log: &str| -> Vec<(String, String)> {
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let each = lines.map(|line: Value| (text(&line["target"]), text(&line["level"])));
        each.collect()
    };
    let log = edge.log();
    for (target, level) in levels(&log) {
        let is_allowed = match level.as_str() {
            "DEBUG" => target.starts_with("tickstorm_edge::shard"),
            "INFO" => target == "tickstorm_edge::control",
            _ => true,
        };
        assert!(is_allowed, "{level} of {target} in {log}");
    }
    assert!(
        log.contains("edge started"),
        "an event of control at info: {log}"
    );
    assert!(
        !log.contains("listening"),
        "an event of another module at info: {log}"
    );
    // SIGUSR1 shows everything.
    edge.send(Signal::SIGUSR1);
    edge.logs("debug logging is on").await;
    assert_eq!(edge.terminate().await, Some(0));
}

#[tokio::test]
async fn an_invalid_level_is_refused_with_its_wrong_part() {
    let value = "info,tickstorm_edge::shard=loud";
    let mut commands = Vec::new();
    for name in ["tickstorm-clock", "tickstorm-edge"] {
        let daemon = Daemon::new(name).with("LOG_LEVEL", value);
        commands.push(daemon.command(&[]));
        commands.push(daemon.command(&["--check-config"]));
    }
    let mut dev = tickstorm(&["dev"]);
    dev.env("LOG_LEVEL", value);
    commands.push(dev);
    for command in commands {
        let ended = run(command).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        for part in [
            "LOG_LEVEL=info,tickstorm_edge::shard=loud is invalid",
            "error, warn, info, debug or trace",
            "`loud` is not a level",
        ] {
            assert!(ended.stderr.contains(part), "no {part}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn each_answer_of_an_admin_port_has_a_request_id() {
    let dir = tickstorm_testkit::TempDir::new("request-ids");
    let token = dir.write("token", "0123456789abcdef");
    let token = token.to_str().unwrap();
    for mut daemon in [
        Daemon::new("tickstorm-clock"),
        Daemon::new("tickstorm-edge"),
        Daemon::new("tickstorm-edge").with("ADMIN_TOKEN_FILE", token),
    ] {
        daemon.start().await;
        let mut seen = Vec::new();
        for request in [
            "GET /health/live",
            "GET /health/ready",
            "GET /status",
            "GET /metrics",
            "GET /nowhere",
            "POST /metrics",
            "GET /connections",
            "GET /connections?sort=wrong",
            "DELETE /connections/wrong",
        ] {
            let answer = ask(&daemon, request).await;
            let id = answer.request_id().to_owned();
            assert!(
                id.len() == 16 && !seen.contains(&id),
                "{request}: {answer:?}"
            );
            seen.push(id);
            let own = ask_with(&daemon, request, &[b"x-request-id: till-7/42"]).await;
            assert_eq!(
                (own.request_id(), own.code),
                ("till-7/42", answer.code),
                "{request}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_id_leads_to_the_lines_that_the_request_caused_and_breaks_none() {
    for format in ["json", "text"] {
        let mut edge = Daemon::new("tickstorm-edge").with("LOG_FORMAT", format);
        edge.start().await;
        let long = format!("X-Request-Id: {}", "x".repeat(65));
        for (header, expected) in [
            (&b"X-Request-Id: plain-7"[..], Some("plain-7")),
            (br#"X-Request-Id: a"b\c"#, Some(r#"a"b\c"#)),
            (b"X-Request-Id: x level=ERROR", None),
            (b"X-Request-Id: \x1b[2J\x9b", None),
            (b"X-Request-Id: t\xc3\xa9l\xc3\xa9", None),
            (long.as_bytes(), None),
        ] {
            let (mut client, id) = enter(&edge, "127.0.0.2").await;
            let request = format!("DELETE /connections/{id}");
            let answer = ask_with(&edge, &request, &[header]).await;
            if answer.code == 400 {
                // A control character is refused before there is a request.
                assert!(header.contains(&0x1b), "{answer:?}");
                continue;
            }
            assert_eq!(answer.code, 204, "{answer:?}");
            client.expect_eof().await;
            let request_id = answer.request_id();
            match expected {
                Some(expected) => assert_eq!(request_id, expected),
                None => assert_eq!(request_id.len(), 16, "{answer:?}"),
            }
            if format == "json" {
                edge.logs(&id).await;
                let caused = lines_with(&edge.log(), "request_id", request_id);
                assert!(
                    has_message(&caused, "an operator closed a connection"),
                    "{caused:?}"
                );
                assert!(
                    caused.iter().all(|line| line["connection"] == *id),
                    "{caused:?}"
                );
            } else {
                edge.logs(&format!("request_id={request_id}")).await;
            }
        }
        // Lines are handed to another thread, which writes them.
        let plain = ask_with(&edge, "POST /drain", &[b"X-Request-Id: the-end"]).await;
        assert_eq!((plain.code, plain.request_id()), (202, "the-end"));
        edge.logs("the-end").await;
        let log = edge.log();
        for hostile in ["x level=ERROR", "\u{1b}", "café", &"x".repeat(65)] {
            assert!(!log.contains(hostile), "{hostile:?} in {log}");
        }
    }
}

#[tokio::test]
async fn a_rebalance_and_a_gentle_move_are_logged_with_their_request() {
    let mut edge = Daemon::new("tickstorm-edge");
    edge.start().await;
    let (_client, id) = enter(&edge, "127.0.0.2").await;
    for (request, code, message) in [
        (
            "POST /rebalance?share=0.0001&over=2s".to_owned(),
            202,
            "an operator moves clients to other edges",
        ),
        (
            format!("DELETE /connections/{id}?gently"),
            202,
            "an operator moves a client to another edge",
        ),
        (
            "POST /debug?client=127.0.0.1&for=1s".to_owned(),
            200,
            "a client is debugged",
        ),
    ] {
        let answer = ask(&edge, &request).await;
        assert_eq!(answer.code, code, "{answer:?}");
        edge.logs(message).await;
        let caused = lines_with(&edge.log(), "request_id", answer.request_id());
        assert!(has_message(&caused, message), "{request}: {caused:?}");
    }
    edge.logs("a client is no longer debugged: its time is over")
        .await;
}
