//! Device cookies: every edge with the same credentials, or the same COOKIE_KEY_FILE, knows the
//! devices that have logged in at another.

use std::path::PathBuf;

use tickstorm_edge::{Config, CookieKeyFileError, CredentialSource, CredentialsError, StartError};
use tickstorm_protocol::message::{Ack, Auth};
use tickstorm_testkit::{Peer, TempDir, frame};
use tickstorm_timebase::{Clock, SystemClock};

use crate::support::{PASSWORD, SOON, TestEdge, USER, config};

/// The text of a COOKIE_KEY_FILE.
const KEY: &str = "0123456789abcdef0123456789abcdef";
const KEY_ID: std::ops::Range<usize> = 1..9;
const DEVICE_ID: std::ops::Range<usize> = 9..25;

pub(crate) fn user(password: &str) -> Auth {
    Auth {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..Auth::default()
    }
}

/// Logs in until the edge sends a cookie, which it does once it has derived the key.
pub(crate) async fn cookie_of(edge: &TestEdge, auth: &Auth) -> Vec<u8> {
    cookie_that(edge, auth, |cookie| !cookie.is_empty()).await
}

async fn cookie_that(edge: &TestEdge, auth: &Auth, is_right: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let start = SystemClock.now();
    loop {
        let mut peer = Peer::connect(edge.addr()).await;
        peer.send_message(frame::AUTH, auth).await;
        let ack = peer.expect_frame().await;
        if ack.kind == frame::ACK {
            let cookie = ack.decode::<Ack>().cookie;
            if is_right(&cookie) {
                return cookie;
            }
        }
        let waited = SystemClock.now().since(start);
        assert!(waited < SOON, "still {ack:?} after {waited:?}");
        tokio::task::yield_now().await;
    }
}

/// Logs in with a cookie, and returns the cookie in the ACK.
async fn present(edge: &TestEdge, auth: &Auth, cookie: &[u8]) -> Vec<u8> {
    // The keys are there as soon as any cookie is issued.
    cookie_of(edge, auth).await;
    let auth = Auth {
        cookie: cookie.to_vec(),
        ..auth.clone()
    };
    cookie_of(edge, &auth).await
}

fn file(path: PathBuf) -> Option<CredentialSource> {
    Some(CredentialSource {
        value: std::fs::read_to_string(&path).unwrap().into(),
        file: Some(path),
    })
}

fn with_key(path: PathBuf) -> Config {
    let mut config = config();
    config.credentials.cookie_key = Some(path);
    config
}

#[tokio::test]
async fn edges_with_the_same_password_know_each_others_devices() {
    let (one, other) = (
        TestEdge::start_without_clock(config()).await,
        TestEdge::start_without_clock(config()).await,
    );
    let cookie = cookie_of(&one, &user(PASSWORD)).await;
    assert_eq!(cookie.len(), 41);
    assert_eq!(present(&other, &user(PASSWORD), &cookie).await, cookie);
    let mut config = config();
    let different = CredentialSource {
        value: "different".into(),
        file: None,
    };
    config.credentials.password = Some(different);
    let stranger = TestEdge::start_without_clock(config).await;
    let new = present(&stranger, &user("different"), &cookie).await;
    assert_ne!(new[DEVICE_ID], cookie[DEVICE_ID]);
    for edge in [one, other, stranger] {
        edge.stop().await;
    }
}

#[tokio::test]
async fn a_cookie_from_before_a_rotation_is_valid_while_the_previous_password_is() {
    let dir = TempDir::new("rotation");
    let mut config = config();
    config.credentials.password = file(dir.write("password", "before"));
    let previous = dir.write("previous", "");
    config.credentials.previous = file(previous.clone());
    let edge = TestEdge::start_without_clock(config).await;
    let before = cookie_of(&edge, &user("before")).await;
    dir.write("previous", "before");
    dir.write("password", "after");
    let after = Auth {
        cookie: before.clone(),
        ..user("after")
    };
    let renewed = cookie_of(&edge, &after).await;
    assert_eq!(renewed[DEVICE_ID], before[DEVICE_ID], "the same device");
    assert_ne!(renewed[KEY_ID], before[KEY_ID], "with the new key");
    let still = Auth {
        cookie: before.clone(),
        ..user("before")
    };
    assert_eq!(cookie_of(&edge, &still).await, before);
    dir.write("previous", "");
    let is_other = |cookie: &[u8]| !cookie.is_empty() && cookie[DEVICE_ID] != before[DEVICE_ID];
    cookie_that(&edge, &after, is_other).await;
    assert_eq!(present(&edge, &user("after"), &renewed).await, renewed);
    edge.stop().await;
}

#[tokio::test]
async fn the_key_in_a_file_is_for_all_credentials_and_is_reread() {
    let dir = TempDir::new("cookie-key");
    let path = dir.write("key", format!("{KEY}\n"));
    let one = TestEdge::start_without_clock(with_key(path.clone())).await;
    let mut different = with_key(dir.write("same-key", KEY));
    let source = CredentialSource {
        value: "different".into(),
        file: None,
    };
    different.credentials.password = Some(source);
    let other = TestEdge::start_without_clock(different).await;
    let cookie = cookie_of(&one, &user(PASSWORD)).await;
    assert_eq!(present(&other, &user("different"), &cookie).await, cookie);
    // A key that is too short does not take effect; another one does.
    dir.write("key", &KEY[1..]);
    dir.write("same-key", KEY.to_uppercase());
    let auth = Auth {
        cookie: cookie.clone(),
        ..user("different")
    };
    let new = cookie_that(&other, &auth, |new| new[KEY_ID] != cookie[KEY_ID]).await;
    assert_ne!(new[DEVICE_ID], cookie[DEVICE_ID]);
    assert_eq!(present(&one, &user(PASSWORD), &cookie).await, cookie);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_token_has_a_cookie_of_its_own() {
    const DIGEST: &str = "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0";
    let dir = TempDir::new("token-cookie");
    let tokens = dir.write("tokens", format!("{USER} {DIGEST}\n"));
    let mut config = config();
    config.credentials.tokens = Some(tokens.clone());
    let mut with_key = with_key(dir.write("key", KEY));
    with_key.credentials.tokens = Some(tokens);
    let by_token = Auth {
        token: "s3cret".to_owned(),
        ..Auth::default()
    };
    for config in [config, with_key] {
        let edge = TestEdge::start_without_clock(config).await;
        let cookie = cookie_of(&edge, &by_token).await;
        assert_eq!(present(&edge, &by_token, &cookie).await, cookie);
        // The token and the user have the same name.
        let other = present(&edge, &user(PASSWORD), &cookie).await;
        assert_ne!(other[DEVICE_ID], cookie[DEVICE_ID]);
        edge.stop().await;
    }
}

#[tokio::test]
async fn an_edge_does_not_start_with_a_key_file_that_it_cannot_use() {
    let dir = TempDir::new("bad-cookie-key");
    let short = dir.write("short", &KEY[1..]);
    let error = TestEdge::start_error(with_key(short.clone())).await;
    assert_eq!(error.exit_code(), 78);
    assert!(
        matches!(
            &error,
            StartError::Credentials(CredentialsError::CookieKey {
                source: CookieKeyFileError::Length { found: 31 },
                path,
            }) if *path == short
        ),
        "{error:?}"
    );
    let missing = TestEdge::start_error(with_key(dir.path().join("missing"))).await;
    assert_eq!(missing.exit_code(), 78);
    assert!(
        missing.to_string().contains("COOKIE_KEY_FILE="),
        "{missing}"
    );
}
