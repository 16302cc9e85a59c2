//! AUTH: whether it is looked at, what it is judged to be, and when the client hears of it. The
//! rules are admission's and auth's; here they are put together.

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

/// Between which milliseconds the time is picked at random after which a failure at a shared
/// address is answered.
const LATE_MS: RangeInclusive<u64> = 1_000..=5_000;
/// What tells the clients behind a balancer apart.
const PROXY_ADVICE: &str = "set PROXY_PROTOCOL where this version obeys it, or let the balancer keep clients' own addresses (direct return, transparent forwarding)";
/// The characters that are kept of what a client says of itself.
const LABEL_MAX: usize = 64;

/// Who a connection's client is; in a box of its own, for the operator's list only.
pub(super) struct AuthenticatedClient {
    /// The token's name; none for STREAM_USER.
    token: Option<Box<str>>,
    pub(super) id: Box<str>,
    pub(super) version: Box<str>,
    /// Counts it at its address.
    _authenticated: Authenticated,
}

/// What an AUTH is judged to be.
pub(super) enum Judgement {
    /// It is right.
    Accepted(Box<AuthenticatedClient>),
    /// It is wrong, and the client hears of it at once.
    Wrong,
    /// It is wrong, and the client hears of it at this moment of the shard's time.
    WrongUntil(Mono),
    /// It was not looked at.
    RateLimited,
}

/// Judges an AUTH that came from `peer`.
pub(super) fn judge(env: &Env, peer: IpAddr, auth: Auth, at: Moment) -> Judgement {
    let address = Address::from(peer);
    let attempts = &env.commons.attempts;
    if !attempts.may_try(address, at.mono) {
        env.metrics().count_auth(AuthResult::RateLimited);
        return Judgement::RateLimited;
    }
    let credentials = env.commons.credentials.borrow();
    let token = match credentials.verify(&auth) {
        Some(Identity::User) => None,
        Some(Identity::Token(name)) => Some(name.into()),
        None => {
            drop(credentials);
            return refuse(env, peer, at);
        }
    };
    drop(credentials);
    env.metrics().count_auth(AuthResult::Accepted);
    Judgement::Accepted(Box::new(AuthenticatedClient {
        token,
        id: label(auth.client_id),
        version: label(auth.client_version),
        _authenticated: attempts.succeed(address),
    }))
}

fn refuse(env: &Env, peer: IpAddr, at: Moment) -> Judgement {
    match env.commons.attempts.fail(Address::from(peer), at.mono) {
        FailureAnswer::Now => {
            env.metrics().count_auth(AuthResult::Failed);
            Judgement::Wrong
        }
        FailureAnswer::Late { warn } => {
            env.metrics().count_auth(AuthResult::FailedShared);
            if warn {
                tracing::warn!(
                    address = %peer,
                    "AUTH fails at an address that is never refused, since many clients share it; if it is a \
                     balancer, {PROXY_ADVICE}"
                );
            }
            let late = Duration::from_millis(rand::random_range(LATE_MS));
            Judgement::WrongUntil(at.now + late)
        }
    }
}

impl AuthenticatedClient {
    /// What it showed itself to be.
    pub(super) fn identity(&self) -> &str {
        self.token.as_deref().unwrap_or("user")
    }
}

/// What a client says of itself, fit for a log line and the operator's list: cut, control
/// characters escaped.
fn label(text: String) -> Box<str> {
    let is_plain = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
    if text.len() <= LABEL_MAX && text.bytes().all(is_plain) {
        return text.into_boxed_str();
    }
    let cut = text.chars().take(LABEL_MAX);
    cut.flat_map(char::escape_debug)
        .collect::<String>()
        .into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_itself_is_cut_and_escaped() {
        assert_eq!(&*label("a\n\u{1b}[2J".into()), "a\\n\\u{1b}[2J");
        assert_eq!(label("ä".repeat(100)).chars().count(), 64);
        assert_eq!(label("a".repeat(65)).len(), 64);
        assert_eq!(&*label("it's \"1.0\" \\".into()), r#"it\'s \"1.0\" \\"#);
        assert_eq!(&*label("tickstorm bench/1.0".into()), "tickstorm bench/1.0");
    }
}
