//! Tests of AUTHs that wait because others have guessed passwords, and of device cookies.

use std::net::IpAddr;

use nix::errno::Errno;
use tickstorm_testkit::TempDir;
use tokio::sync::watch;

use super::*;
use crate::admission::Address;
use crate::auth::{CredentialSource, CredentialSources};

const LIMIT: u32 = 10;
/// The wheel looks at a deadline at most this long after it has passed.
const WHEEL: Duration = Duration::from_millis(200);
/// The address of all clients of the script.
const CLIENTS: [u8; 4] = [192, 0, 2, 1];

/// Returns a shard whose edge issues cookies, after this many failures of the clients' address.
fn guessed(failures: u32) -> Sim {
    let mut sim = Sim::new(settings());
    let commons = &mut sim.shard.driver.env.commons;
    commons.attempts = Attempts::new(LIMIT);
    commons.credentials = watch::channel(with_cookies()).1;
    for _ in 0..failures {
        sim.fail();
    }
    sim
}

fn with_cookies() -> AcceptedCredentials {
    let dir = TempDir::new("cookie-key");
    let source = |value: &str| {
        Some(CredentialSource {
            value: value.into(),
            file: None,
        })
    };
    let sources = CredentialSources {
        user: source("user"),
        password: source("pass"),
        cookie_key: Some(dir.write("key", "k".repeat(32))),
        ..CredentialSources::default()
    };
    AcceptedCredentials::load(&sources).unwrap().0
}

impl Sim {
    fn address() -> Address {
        IpAddr::from(CLIENTS).into()
    }

    /// Counts a failure of the clients' address.
    fn fail(&self) {
        let attempts = &self.shard.driver.env.commons.attempts;
        attempts.fail(Self::address(), None, self.now());
    }

    /// Connects a client that sends these bytes.
    fn client(&mut self, bytes: &[u8]) -> RawFd {
        let client = self.script.connect();
        self.script.client_sends(client, bytes);
        self.run_for(MS);
        client
    }

    /// Returns the cookie in the ACK that is the client's first frame.
    fn cookie(&self, client: RawFd) -> Vec<u8> {
        let frames = self.frames(client);
        assert_eq!(frames[0].kind, ACK, "{frames:?}");
        frames[0].decode::<Ack>().cookie
    }

    fn is_answered(&self, client: RawFd) -> bool {
        !self.script.on(client).sent.is_empty()
    }

    fn auths(&self, result: crate::metrics::AuthResult) -> u64 {
        self.metrics.auth(result).get()
    }
}

fn auth_with(password: &str, cookie: &[u8]) -> Vec<u8> {
    let auth = Auth {
        username: "user".to_owned(),
        password: password.to_owned(),
        cookie: cookie.to_vec(),
        ..Auth::default()
    };
    frame(AUTH, &auth.encode_to_vec())
}

#[test]
fn after_ten_failures_an_auth_waits_longer_than_auth_timeout_and_is_then_judged() {
    use crate::metrics::AuthResult;
    for (password, answer) in [("pass", ACK), ("guess", ERROR)] {
        let mut sim = guessed(LIMIT + 5);
        let client = sim.client(&auth(password));
        assert_eq!(sim.metrics.auth_waiting.get(), 1);
        sim.run_for(8 * SECOND - 10 * MS);
        assert!(!sim.is_answered(client), "judged too early");
        sim.run_for(WHEEL);
        assert_eq!(sim.frames(client)[0].kind, answer);
        assert_eq!(sim.metrics.auth_waiting.get(), 0);
        let (accepted, failed) = (
            sim.auths(AuthResult::DelayedAccepted),
            sim.auths(AuthResult::DelayedFailed),
        );
        let expected = if answer == ACK { (1, 0) } else { (0, 1) };
        assert_eq!((accepted, failed), expected);
    }
}

#[test]
fn frames_that_follow_a_waiting_auth_are_served_after_it() {
    let mut sim = guessed(LIMIT);
    let mut bytes = auth("pass");
    bytes.extend(subscribe(Mode::Second, false, None));
    bytes.extend(&heartbeat(1)[..5]);
    let client = sim.client(&bytes);
    sim.script.client_sends(client, &heartbeat(1)[5..]);
    sim.run_for(100 * MS);
    assert!(!sim.is_answered(client));
    assert!(
        sim.script.on(client).has_input(),
        "nothing is read meanwhile"
    );
    sim.run_for(250 * MS + WHEEL);
    let kinds: Vec<_> = sim.frames(client).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds[..3], [ACK, ACK, PONG]);
    sim.run_for(SECOND);
    assert_eq!(sim.ticks(client).len(), 1);
    sim.script.client_sends(client, &heartbeat(2));
    sim.run_for(MS);
    assert!(sim.frames(client).iter().any(|frame| frame.kind == PONG));
}

#[test]
fn frames_that_follow_a_waiting_auth_that_fails_are_discarded() {
    let mut sim = guessed(LIMIT);
    let mut bytes = auth("guess");
    bytes.extend(auth("pass"));
    let client = sim.client(&bytes);
    sim.script.client_sends(client, &heartbeat(1));
    sim.run_for(250 * MS + WHEEL);
    assert_eq!(sim.error(client), "AUTH_FAILED");
    assert!(
        !sim.script.on(client).has_input(),
        "unread input would reset"
    );
    assert!(sim.script.on(client).is_shut && !sim.script.on(client).is_closed);
    sim.run_for(SECOND + WHEEL);
    assert!(sim.script.on(client).is_closed);
}

#[test]
fn a_client_that_leaves_keeps_its_slot_until_its_wait_is_over_and_no_longer() {
    for breaks in [false, true] {
        let mut sim = guessed(LIMIT + 5);
        for _ in 0..10 {
            let client = sim.client(&auth("guess"));
            if breaks {
                sim.script.breaks(client, Errno::ECONNRESET);
            } else {
                sim.script.client_ends(client);
            }
        }
        sim.run_for(7 * SECOND);
        let late = sim.client(&auth("pass"));
        assert_eq!(sim.error(late), "AUTH_RATE_LIMITED");
        sim.run_for(SECOND + WHEEL);
        let next = sim.client(&auth("pass"));
        assert!(!sim.is_answered(next));
        assert_eq!(sim.metrics.auth_waiting.get(), 1);
        sim.run_for(8 * SECOND + WHEEL);
        assert_eq!(sim.frames(next)[0].kind, ACK);
        assert_eq!(sim.metrics.active_connections.get(), 1, "{breaks}");
    }
}

#[test]
fn a_waiting_auth_can_be_evicted_and_is_then_not_judged() {
    let mut sim = guessed(LIMIT);
    let limits = AdmissionLimits {
        handshakes: 1,
        ..AdmissionLimits::NONE
    };
    sim.shard.driver.env.commons.admission = Admission::new(
        limits,
        watch::channel(IpLists::default()).1,
        sim.metrics.admission_gauges(),
    );
    let waiting = sim.client(&auth("pass"));
    sim.run_for(SECOND);
    // It has been accepted by now. With more failures, the next one waits longer.
    assert_eq!(sim.frames(waiting)[0].kind, ACK);
    for _ in 0..5 {
        sim.fail();
    }
    let waiting = sim.client(&auth("pass"));
    sim.run_for(2 * SECOND);
    assert!(!sim.is_answered(waiting));
    let newcomer = sim.client(&auth_with("guess", &[]));
    assert_eq!(sim.error(waiting), "AUTH_RATE_LIMITED");
    assert!(!sim.is_answered(newcomer), "it waits itself");
    let unjudged = crate::metrics::AuthResult::DelayedUnjudged;
    assert_eq!(sim.auths(unjudged), 1);
    assert_eq!(sim.metrics.auth_waiting.get(), 1);
}

#[test]
fn a_drain_closes_waiting_auths() {
    let mut sim = guessed(LIMIT + 5);
    let client = sim.client(&auth("pass"));
    sim.drain(Duration::ZERO);
    sim.run_for(SECOND);
    assert_eq!(sim.error(client), "SERVER_DRAINING");
    assert_eq!(sim.metrics.auth_waiting.get(), 0);
}

#[test]
fn a_device_keeps_its_cookie_and_each_device_has_another() {
    let mut sim = guessed(0);
    let first = sim.client(&auth("pass"));
    let first = sim.cookie(first);
    assert_eq!(first.len(), 41);
    let again = sim.client(&auth_with("pass", &first));
    assert_eq!(sim.cookie(again), first);
    let other = sim.client(&auth("pass"));
    assert_ne!(sim.cookie(other), first);
    for forged in [vec![1; 41], vec![0; 65], first[..40].to_vec()] {
        let client = sim.client(&auth_with("pass", &forged));
        let new = sim.cookie(client);
        assert_eq!(new.len(), 41, "an invalid cookie is as good as none");
        assert_ne!(new, forged);
    }
}

#[test]
fn no_client_with_a_cookie_waits_however_many_guess_at_its_address() {
    let mut sim = guessed(0);
    let clients: Vec<_> = (0..300).map(|_| sim.client(&auth("pass"))).collect();
    let cookies: Vec<_> = clients.iter().map(|client| sim.cookie(*client)).collect();
    for _ in 0..LIMIT + 5 {
        sim.fail();
    }
    // All slots are taken for 8 s.
    for _ in 0..10 {
        sim.client(&auth("guess"));
    }
    for cookie in &cookies {
        let back = sim.client(&auth_with("pass", cookie));
        assert_eq!(&sim.cookie(back), cookie);
    }
    let without = sim.client(&auth("pass"));
    assert_eq!(sim.error(without), "AUTH_RATE_LIMITED");
}

#[test]
fn a_device_that_fails_too_often_waits_like_others_and_they_are_not_slowed() {
    let mut sim = guessed(0);
    let device = sim.client(&auth("pass"));
    let cookie = sim.cookie(device);
    for _ in 0..LIMIT {
        let client = sim.client(&auth_with("guess", &cookie));
        assert_eq!(sim.error(client), "AUTH_FAILED");
    }
    // None of them counted against the address, but further ones do.
    for _ in 0..LIMIT {
        let client = sim.client(&auth_with("guess", &cookie));
        assert_eq!(sim.error(client), "AUTH_FAILED");
    }
    let client = sim.client(&auth_with("pass", &cookie));
    assert!(!sim.is_answered(client));
    sim.run_for(250 * MS + WHEEL);
    assert_eq!(sim.cookie(client), cookie, "it is still the same device");
}

#[test]
fn a_good_login_of_the_guessers_own_does_not_reset_the_count() {
    let mut sim = guessed(LIMIT - 1);
    let own = sim.client(&auth("pass"));
    assert_eq!(sim.frames(own)[0].kind, ACK);
    let last = sim.client(&auth("guess"));
    assert_eq!(sim.error(last), "AUTH_FAILED");
    let next = sim.client(&auth("guess"));
    assert!(!sim.is_answered(next));
}

#[test]
fn while_keys_are_being_derived_cookies_wait_for_them_and_guesses_do_not_profit() {
    let mut sim = guessed(LIMIT + 5);
    let known = with_cookies();
    let (publish, credentials) = watch::channel(credentials());
    sim.shard.driver.env.commons.credentials = credentials;
    let mut other = guessed(0);
    let cookie = other.client(&auth("pass"));
    let cookie = other.cookie(cookie);
    let client = sim.client(&auth_with("pass", &cookie));
    let forger = sim.client(&auth_with("pass", &[1; 41]));
    let without = sim.client(&auth("pass"));
    sim.run_for(SECOND);
    assert!(!sim.is_answered(client) && !sim.is_answered(forger));
    publish.send_replace(known);
    sim.run_for(WHEEL);
    assert_eq!(sim.cookie(client), cookie);
    sim.run_for(7 * SECOND + WHEEL);
    assert_eq!(sim.frames(without)[0].kind, ACK, "8 s in all");
    assert!(!sim.is_answered(forger), "it began to wait when keys came");
    sim.run_for(2 * SECOND);
    assert_eq!(sim.frames(forger)[0].kind, ACK);
}

#[test]
fn without_a_key_no_cookie_is_issued() {
    let mut sim = Sim::new(settings());
    let client = sim.client(&auth("pass"));
    assert!(sim.cookie(client).is_empty());
}
