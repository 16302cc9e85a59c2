//! AUTH: whether it is looked at, what it is judged to be, and when the client hears of it. The rules are admission's and
//! auth's; here they are carried out.

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::message::Auth;
use tickstorm_timebase::Mono;

use super::Shard;
use super::connection::Connection;
use crate::admission::{Address, Answer, Authenticated};
use crate::auth::Identity;
use crate::metrics::AuthResult;

/// Between which milliseconds the time is picked at random after which a failure at a shared address is answered.
const LATE_MS: RangeInclusive<u64> = 1_000..=5_000;
/// What tells the clients behind a balancer apart.
const PROXY_ADVICE: &str = "set PROXY_PROTOCOL where this version obeys it, or let the balancer keep clients' own addresses (direct return, transparent forwarding)";
/// The characters that are kept of what a client says of itself.
const LABEL_MAX: usize = 64;

/// Who a connection's client is; in a box of its own, for the operator's list only.
pub(super) struct Client {
    /// The token's name; none for STREAM_USER.
    pub(super) token: Option<Box<str>>,
    pub(super) id: Box<str>,
    pub(super) version: Box<str>,
    /// Its place at its address.
    _place: Authenticated,
}

impl Shard {
    pub(super) fn authenticate(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        auth: Auth,
        now: Mono,
    ) {
        let address = Address::from(connection.peer.ip());
        if !self.shared.attempts.may_try(address, self.time.mono()) {
            self.shared.metrics.count_auth(AuthResult::RateLimited);
            self.close(connection, CloseReason::AuthRateLimited);
            return;
        }
        let credentials = self.shared.credentials.borrow();
        let token = match credentials.verify(&auth) {
            Some(Identity::User) => None,
            Some(Identity::Token(name)) => Some(name.into()),
            None => {
                drop(credentials);
                self.refuse(connection, address, now);
                return;
            }
        };
        drop(credentials);
        self.shared.metrics.count_auth(AuthResult::Accepted);
        let client = Box::new(Client {
            token,
            id: label(auth.client_id),
            version: label(auth.client_version),
            _place: self.shared.attempts.succeed(address),
        });
        tracing::debug!(
            connection = connection.key.id,
            peer = %connection.peer,
            identity = client.identity(),
            client_id = client.id,
            client_version = client.version,
            "authenticated"
        );
        let mut frames = self.frames.take();
        let mut state = connection.state.borrow_mut();
        state.handshake = None;
        state.client = Some(client);
        state.session.accept(self.limits(), now, &mut frames);
        drop(state);
        self.send_control(connection, frames);
        self.arm(connection);
    }

    /// Answers a wrong AUTH: at once, or when the wheel finds that it is time to.
    fn refuse(self: &Rc<Self>, connection: &Rc<Connection>, address: Address, now: Mono) {
        match self.shared.attempts.fail(address, self.time.mono()) {
            Answer::Now => {
                self.shared.metrics.count_auth(AuthResult::Failed);
                self.close(connection, CloseReason::AuthFailed);
            }
            Answer::Late { warn } => {
                self.shared.metrics.count_auth(AuthResult::FailedShared);
                if warn {
                    tracing::warn!(
                        address = %connection.peer.ip(),
                        "AUTH fails at an address that is never refused, since many clients share it; if it is a \
                         balancer, {PROXY_ADVICE}"
                    );
                }
                let late = Duration::from_millis(rand::random_range(LATE_MS));
                connection.state.borrow_mut().refusal_due = now + late;
                self.arm(connection);
            }
        }
    }
}

impl Client {
    /// What it showed itself to be.
    pub(super) fn identity(&self) -> &str {
        self.token.as_deref().unwrap_or("user")
    }
}

/// What a client says of itself, fit for a log line and the operator's list: cut, control characters escaped.
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
