//! Authentication: the first frame must be an AUTH with valid credentials. Credentials may change
//! while an edge runs, and an edge with invalid ones does not start.

use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tickstorm_edge::settings::{DEFAULTS, SECTIONS};
use tickstorm_edge::{Config, CredentialSource, StartError};
use tickstorm_protocol::message::Auth;
use tickstorm_service::env::Settings;
use tickstorm_service::settings::COMMON;
use tickstorm_testkit::{Peer, RawFrame, TempDir, frame};
use tickstorm_timebase::{Clock, Mode, SystemClock};

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

#[tokio::test]
async fn a_first_frame_other_than_auth_gets_auth_required_whatever_its_payload() {
    let edge = TestEdge::start_without_clock(config()).await;
    let known = [
        frame::SUBSCRIBE,
        frame::HEARTBEAT,
        frame::DATA_BATCH,
        frame::ERROR,
        frame::ACK,
        frame::PONG,
    ];
    for kind in known.into_iter().chain([0x80, 0xFF]) {
        for payload in [&[][..], b"\xFF\xFF\xFF"] {
            let mut peer = Peer::connect(edge.addr()).await;
            peer.send(&frame::frame(kind, payload)).await;
            let error = peer.expect_refusal("AUTH_REQUIRED").await;
            assert_eq!(error.retry_after_ms, 0, "type {kind:#04x}: {error:?}");
        }
    }
    edge.stop().await;
}

#[tokio::test]
async fn wrong_credentials_get_auth_failed() {
    let edge = TestEdge::start_without_clock(config()).await;
    let with = |username: &str, password: &str, token: &str| Auth {
        username: username.to_owned(),
        password: password.to_owned(),
        token: token.to_owned(),
        ..Auth::default()
    };
    let wrong = [
        with(USER, "wrong", ""),
        with("wrong", PASSWORD, ""),
        with(PASSWORD, USER, ""),
        with(USER, "", ""),
        with("", PASSWORD, ""),
        with("", "", ""),
        with("", "", "unknown"),
        // If there is a token, user and password are ignored.
        with(USER, PASSWORD, "unknown"),
    ];
    for auth in &wrong {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send_message(frame::AUTH, auth).await;
        let error = peer.expect_refusal("AUTH_FAILED").await;
        assert!(!error.message.contains(PASSWORD), "{error:?}");
    }
    let failed = edge.metric("tickstorm_auth_total", "failed");
    assert_eq!(failed.total_cmp(&8.0), std::cmp::Ordering::Equal);
    edge.stop().await;
}

#[tokio::test]
async fn frames_after_a_failed_auth_are_not_answered() {
    let edge = TestEdge::start_without_clock(config()).await;
    let mut peer = Peer::connect(edge.addr()).await;
    let bytes = [
        tickstorm_testkit::peer::auth(USER, "wrong"),
        tickstorm_testkit::peer::auth(USER, PASSWORD),
        tickstorm_testkit::peer::heartbeat(1),
    ];
    peer.send(&bytes.concat()).await;
    peer.expect_refusal("AUTH_FAILED").await;
    edge.stop().await;
}

#[tokio::test]
async fn a_token_replaces_user_and_password() {
    let dir = TempDir::new("tokens");
    let mut config = config();
    let file = format!(
        "# who may read\n\n  desk-1 {}\ndesk-2\t{}\n",
        hex("token of one"),
        hex("token of two")
    );
    config.credentials.tokens = Some(dir.write("tokens", file));
    let edge = TestEdge::start_without_clock(config).await;
    for token in ["token of one", "token of two"] {
        let mut peer = Peer::connect(edge.addr()).await;
        let auth = Auth {
            username: "anyone".to_owned(),
            token: token.to_owned(),
            ..Auth::default()
        };
        peer.send_message(frame::AUTH, &auth).await;
        peer.expect_ack(frame::AUTH).await;
    }
    for token in [&hex("token of one"), "token of three"] {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.auth_token(token).await;
        peer.expect_refusal("AUTH_FAILED").await;
    }
    let mut peer = Peer::connect(edge.addr()).await;
    peer.auth(USER, PASSWORD).await;
    peer.expect_ack(frame::AUTH).await;
    edge.stop().await;
}

#[tokio::test]
async fn changed_credential_files_take_effect_without_ending_running_connections() {
    let dir = TempDir::new("credentials");
    let mut config = config();
    config.credentials.password = Some(source(dir.write("password", "before\n")));
    config.credentials.tokens = Some(dir.write("tokens", format!("desk {}\n", hex("old token"))));
    let edge = TestEdge::start(config).await;
    let mut running = Peer::connect(edge.addr()).await;
    running.enter(USER, "before", Mode::Second).await;
    let mut by_token = Peer::connect(edge.addr()).await;
    by_token.auth_token("old token").await;
    by_token.expect_ack(frame::AUTH).await;

    dir.write("password", "after");
    dir.write("tokens", format!("desk {}\n", hex("new token")));
    answer_becomes(&edge, &user("after"), frame::ACK).await;
    answer_becomes(&edge, &user("before"), frame::ERROR).await;
    answer_becomes(&edge, &token("new token"), frame::ACK).await;
    answer_becomes(&edge, &token("old token"), frame::ERROR).await;

    for peer in [&mut running, &mut by_token] {
        peer.heartbeat(7).await;
        let (_, pong) = peer.skip_batches().await;
        assert_eq!(pong.kind, frame::PONG, "{pong:?}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn the_previous_password_is_accepted_until_its_file_is_emptied_but_not_if_it_is_missing() {
    let dir = TempDir::new("previous");
    let mut config = config();
    let path = dir.write("previous", "the one before");
    config.credentials.previous = Some(source(path.clone()));
    let edge = TestEdge::start_without_clock(config).await;
    for password in [PASSWORD, "the one before"] {
        assert_eq!(answer(&edge, &user(password)).await.kind, frame::ACK);
    }
    dir.write("previous", "");
    answer_becomes(&edge, &user("the one before"), frame::ERROR).await;
    dir.write("previous", "another");
    answer_becomes(&edge, &user("another"), frame::ACK).await;
    std::fs::remove_file(path).unwrap();
    edge.metric_reaches("tickstorm_credential_reloads_total", "failed", 1.0)
        .await;
    for password in [PASSWORD, "another"] {
        assert_eq!(answer(&edge, &user(password)).await.kind, frame::ACK);
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_file_of_the_previous_password_that_is_empty_at_start_is_watched() {
    let dir = TempDir::new("empty-previous");
    let path = dir.write("previous", "");
    let vars = [
        ("STREAM_USER", USER),
        ("STREAM_PASS", PASSWORD),
        ("STREAM_PASS_PREVIOUS_FILE", path.to_str().unwrap()),
    ];
    let sections = [&[COMMON][..], &SECTIONS].concat();
    let settings = Settings::from_vars(vars, &sections, &DEFAULTS).unwrap();
    let mut config = config();
    config.credentials = Config::from_settings(&settings).credentials;
    let edge = TestEdge::start_without_clock(config).await;
    assert_eq!(answer(&edge, &user("")).await.kind, frame::ERROR);
    dir.write("previous", "the one before");
    answer_becomes(&edge, &user("the one before"), frame::ACK).await;
    assert_eq!(answer(&edge, &user(PASSWORD)).await.kind, frame::ACK);
    edge.stop().await;
}

#[tokio::test]
async fn an_invalid_tokens_file_is_a_start_error_that_names_file_and_line() {
    let dir = TempDir::new("bad-tokens");
    let good = hex("a token");
    let cases = [
        (
            "one-word",
            format!("# comment\n\na {good}\nonly-a-name\n"),
            4,
        ),
        ("three-words", format!("a {good} more\n"), 1),
        ("short", format!("a {}\n", &good[1..]), 1),
        ("no-hex", format!("a {good}\nb {}\n", "g".repeat(64)), 2),
        ("twice", format!("a {good}\na {good}\n"), 2),
        ("long-name", format!("{} {good}\n", "n".repeat(65)), 1),
    ];
    for (name, content, line) in cases {
        let path = dir.write(name, content);
        let error = refused_start(path.clone()).await;
        assert!(matches!(error, StartError::Credentials(_)), "{error:?}");
        let text = error.to_string();
        let place = format!("STREAM_TOKENS_FILE={}: line {line}: ", path.display());
        assert!(text.contains(&place), "{name}: {text}");
        assert!(!text.contains(&good[1..]), "{name}: {text}");
    }
    let missing = dir.path().join("missing");
    let text = refused_start(missing.clone()).await.to_string();
    assert!(text.contains(&missing.display().to_string()), "{text}");
}

async fn refused_start(tokens: PathBuf) -> StartError {
    let mut config = config();
    config.credentials.tokens = Some(tokens);
    TestEdge::start_error(config).await
}

/// Retries until the edge answers with a frame of type `kind`.
async fn answer_becomes(edge: &TestEdge, auth: &Auth, kind: u8) {
    let start = SystemClock.now();
    loop {
        let got = answer(edge, auth).await;
        if got.kind == kind {
            return;
        }
        let waited = SystemClock.now().since(start);
        assert!(waited < SOON, "still {got:?} after {waited:?}, not {kind}");
    }
}

/// Sends an AUTH on a new connection and returns the edge's answer.
async fn answer(edge: &TestEdge, auth: &Auth) -> RawFrame {
    let mut peer = Peer::connect(edge.addr()).await;
    peer.send_message(frame::AUTH, auth).await;
    peer.expect_frame().await
}

fn user(password: &str) -> Auth {
    Auth {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    }
}

fn token(token: &str) -> Auth {
    Auth {
        token: token.to_owned(),
        ..Auth::default()
    }
}

fn source(file: PathBuf) -> CredentialSource {
    CredentialSource {
        value: std::fs::read_to_string(&file).unwrap().into(),
        file: Some(file),
    }
}

fn hex(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
