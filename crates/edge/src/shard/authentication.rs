//! Handling of AUTH. Admission decides whether an address may try, and when a failure is answered;
//! auth decides whether the credentials are correct. This module combines the two.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tickstorm_protocol::message::Auth;
use tickstorm_timebase::Mono;

use super::env::Env;
use super::time::Moment;
use crate::admission::{Address, Authenticated, FailureAnswer};
use crate::auth::Identity;
use crate::metrics::AuthResult;

/// The delay, in milliseconds, after which a failed AUTH from a shared address is answered; picked
/// at random from this range.
const FAILURE_DELAY_MS: RangeInclusive<u64> = 1_000..=5_000;
/// Advice on how to tell apart the clients behind a balancer.
const PROXY_ADVICE: &str = "set PROXY_PROTOCOL if this version supports it, or let the balancer \
    keep the clients' own addresses (direct server return, transparent proxying)";
/// The number of characters that are kept of a client's id or version, counted before escaping.
const LABEL_MAX: usize = 64;

/// The identity of a connection's client. Boxed, because only the operator's list needs it.
pub(super) struct AuthenticatedClient {
    /// The token's name; `None` for STREAM_USER.
    token: Option<Box<str>>,
    pub(super) id: Box<str>,
    pub(super) version: Box<str>,
    /// Counts the connection at its address until dropped.
    _authenticated: Authenticated,
}

/// The outcome of an AUTH.
pub(super) enum AuthOutcome {
    /// The credentials are correct.
    Accepted(Box<AuthenticatedClient>),
    /// The credentials are wrong, and the client is sent the ERROR immediately.
    Failed,
    /// The credentials are wrong, and the client is sent the ERROR at this time, in the shard's
    /// time.
    FailedDelayed(Mono),
    /// The address has failed too often, and the credentials were not checked.
    RateLimited,
}

/// Checks the credentials of an AUTH received from `peer`, unless its address is rate-limited.
pub(super) fn authenticate(env: &Env, peer: IpAddr, auth: Auth, at: Moment) -> AuthOutcome {
    let address = Address::from(peer);
    let attempts = &env.commons.attempts;
    if !attempts.may_try(address, at.mono) {
        env.metrics().count_auth(AuthResult::RateLimited);
        return AuthOutcome::RateLimited;
    }
    let credentials = env.commons.credentials.borrow();
    let token = match credentials.verify(&auth) {
        Some(Identity::User) => None,
        Some(Identity::Token(name)) => Some(name.into()),
        None => {
            drop(credentials);
            return handle_failure(env, peer, at);
        }
    };
    drop(credentials);
    env.metrics().count_auth(AuthResult::Accepted);
    AuthOutcome::Accepted(Box::new(AuthenticatedClient {
        token,
        id: label(auth.client_id),
        version: label(auth.client_version),
        _authenticated: attempts.succeed(address),
    }))
}

fn handle_failure(env: &Env, peer: IpAddr, at: Moment) -> AuthOutcome {
    match env.commons.attempts.fail(Address::from(peer), at.mono) {
        FailureAnswer::Now => {
            env.metrics().count_auth(AuthResult::Failed);
            AuthOutcome::Failed
        }
        FailureAnswer::Late { warn } => {
            env.metrics().count_auth(AuthResult::FailedShared);
            if warn {
                tracing::warn!(
                    address = %peer,
                    "AUTH failed from an address that is never rate-limited because many clients \
                     share it; if it is a balancer, {PROXY_ADVICE}"
                );
            }
            let delay = Duration::from_millis(rand::random_range(FAILURE_DELAY_MS));
            AuthOutcome::FailedDelayed(at.now + delay)
        }
    }
}

impl AuthenticatedClient {
    /// Returns the name of the credentials that the client authenticated with.
    pub(super) fn identity(&self) -> &str {
        self.token.as_deref().unwrap_or("user")
    }
}

/// Makes a string that the client sent fit for a log line and the operator's list: truncates it and
/// escapes control characters, quotes and backslashes.
fn label(text: String) -> Box<str> {
    let is_plain = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if text.len() <= LABEL_MAX && text.bytes().all(is_plain) {
        return text.into_boxed_str();
    }
    let truncated = text.chars().take(LABEL_MAX);
    truncated
        .flat_map(char::escape_debug)
        .collect::<String>()
        .into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_from_clients_are_truncated_and_escaped() {
        assert_eq!(&*label("a\n\u{1b}[2J".into()), "a\\n\\u{1b}[2J");
        assert_eq!(label("ä".repeat(100)).chars().count(), 64);
        assert_eq!(label("a".repeat(65)).len(), 64);
        assert_eq!(&*label("it's \"1.0\" \\".into()), r#"it\'s \"1.0\" \\"#);
        assert_eq!(&*label("tickstorm bench/1.0".into()), "tickstorm bench/1.0");
    }
}
