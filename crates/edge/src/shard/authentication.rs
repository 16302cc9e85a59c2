//! Handling of AUTH. Admission decides when an AUTH may be judged; auth decides whether its cookie
//! is valid and whether its credentials are correct. This module combines the two, and keeps AUTHs
//! that wait.

use std::net::IpAddr;
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tickstorm_protocol::message::Auth;
use tickstorm_timebase::Mono;
use zeroize::Zeroizing;

use super::env::Env;
use super::time::Moment;
use crate::admission::{Address, Level, SlowWarning, Turn};
use crate::auth::{AcceptedCredentials, Cookie, DeviceId, Identity, label};
use crate::metrics::AuthResult;

/// The wait of an AUTH with a cookie whose key may not have been derived yet, after which it is
/// looked at again.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Advice on how to tell apart the clients behind a balancer.
const PROXY_ADVICE: &str = "set PROXY_PROTOCOL, and let it send PROXY headers of version 2, or \
    let it keep the clients' own addresses (direct server return, transparent proxying)";

/// The identity of a connection's client. Boxed, because only the operator's list needs it.
pub(super) struct AuthenticatedClient {
    /// The token's name; `None` for STREAM_USER.
    token: Option<Box<str>>,
    pub(super) id: Box<str>,
    pub(super) version: Box<str>,
    has_cookie: bool,
    /// The time from accept to AUTH. It takes no memory, because the other fields leave room.
    handshake_ms: u32,
}

/// An AUTH that is judged later.
pub(super) struct WaitingAuth {
    auth: Zeroizing<Auth>,
    due: Mono,
    cause: WaitCause,
    /// Counts it among the waiting AUTHs until dropped.
    count: WaitCount,
}

/// The reason for which an AUTH waits.
#[derive(Clone, Copy, Debug)]
enum WaitCause {
    /// Its cookie may be valid, but keys are still being derived.
    Keys,
    /// Its address, or a block around it, has failed too often.
    Failures(Level),
}

/// Counts an AUTH in the gauge of waiting AUTHs until dropped.
struct WaitCount {
    waiting: IntGauge,
    /// Moved if the connection ends before the AUTH is judged.
    unjudged: Option<IntCounter>,
}

/// The outcome of an AUTH.
pub(super) enum AuthOutcome {
    /// The credentials are correct. The client is sent the cookie, unless its key has not been
    /// derived yet.
    Accepted(Box<AuthenticatedClient>, Option<Cookie>),
    /// The credentials are wrong.
    Failed,
    /// The AUTH must be judged later.
    Waits(Box<WaitingAuth>),
    /// Too many AUTHs wait already, and the credentials were not checked.
    RateLimited,
}

/// The limit that a failure counts against.
#[derive(Clone, Copy, Debug)]
enum Charged {
    Device(DeviceId),
    /// The address, and the blocks around it up to the level that made the AUTH wait.
    Address {
        slowed_by: Option<Level>,
    },
}

/// Continues with an AUTH whose wait is over.
pub(super) fn resume(env: &Env, peer: IpAddr, waiting: WaitingAuth, at: Moment) -> AuthOutcome {
    let WaitingAuth {
        auth,
        cause,
        mut count,
        ..
    } = waiting;
    count.unjudged = None;
    match cause {
        WaitCause::Keys => authenticate(env, peer, auth, at),
        WaitCause::Failures(level) => {
            let credentials = env.commons.credentials.borrow();
            let cookie = Cookie::parse(&auth.cookie);
            let device = cookie.and_then(|cookie| credentials.device_of(&auth, &cookie));
            let charged = Charged::Address {
                slowed_by: Some(level),
            };
            judge(env, &credentials, peer, &auth, device, charged, at)
        }
    }
}

/// Checks the credentials of an AUTH received from `peer`, or lets it wait if there were too many
/// failures.
pub(super) fn authenticate(
    env: &Env,
    peer: IpAddr,
    auth: Zeroizing<Auth>,
    at: Moment,
) -> AuthOutcome {
    let (attempts, address) = (&env.commons.attempts, Address::from(peer));
    let credentials = env.commons.credentials.borrow();
    let cookie = Cookie::parse(&auth.cookie);
    let device = cookie
        .as_ref()
        .and_then(|cookie| credentials.device_of(&auth, cookie));
    if let Some(device) = device
        && attempts.has_turn(device, at.mono)
    {
        let charged = Charged::Device(device);
        return judge(env, &credentials, peer, &auth, Some(device), charged, at);
    }
    // After a restart or a rotation, clients with cookies must not have to queue behind guessers
    // until their keys are there.
    if cookie.is_some()
        && device.is_none()
        && credentials.lack_cookie_keys()
        && attempts.would_wait(address, at.mono)
    {
        return wait(env, auth, KEY_WAIT, WaitCause::Keys, at);
    }
    let (turn, warning) = attempts.take_turn(address, at.mono);
    if let Some(warning) = warning {
        warn(&warning);
    }
    match turn {
        Turn::Now => {
            let charged = Charged::Address { slowed_by: None };
            judge(env, &credentials, peer, &auth, device, charged, at)
        }
        Turn::After {
            wait: time,
            slowed_by,
        } => wait(env, auth, time, WaitCause::Failures(slowed_by), at),
        Turn::Never => {
            env.metrics().count_auth(AuthResult::RateLimited);
            env.commons.logins.note_unjudged(address, at.mono);
            AuthOutcome::RateLimited
        }
    }
}

fn wait(
    env: &Env,
    auth: Zeroizing<Auth>,
    time: Duration,
    cause: WaitCause,
    at: Moment,
) -> AuthOutcome {
    let waiting = env.metrics().auth_waiting.clone();
    waiting.inc();
    AuthOutcome::Waits(Box::new(WaitingAuth {
        auth,
        due: at.now + time,
        cause,
        count: WaitCount {
            waiting,
            unjudged: Some(env.metrics().auth(AuthResult::DelayedUnjudged).clone()),
        },
    }))
}

fn judge(
    env: &Env,
    credentials: &AcceptedCredentials,
    peer: IpAddr,
    auth: &Auth,
    device: Option<DeviceId>,
    charged: Charged,
    at: Moment,
) -> AuthOutcome {
    let is_delayed = matches!(charged, Charged::Address { slowed_by: Some(_) });
    let Some(identity) = credentials.verify(auth) else {
        let attempts = &env.commons.attempts;
        match charged {
            Charged::Device(device) => attempts.fail_device(device, at.mono),
            Charged::Address { slowed_by } => attempts.fail(peer.into(), slowed_by, at.mono),
        }
        let logins = &env.commons.logins;
        logins.note_refused(auth, peer.into(), at.mono);
        env.metrics().count_auth(if is_delayed {
            AuthResult::DelayedFailed
        } else {
            AuthResult::Failed
        });
        return AuthOutcome::Failed;
    };
    env.metrics().count_auth(if is_delayed {
        AuthResult::DelayedAccepted
    } else {
        AuthResult::Accepted
    });
    env.commons.logins.note_accepted(at.mono);
    let cookie = credentials.issue_cookie(identity, auth, device.unwrap_or_else(DeviceId::random));
    let client = AuthenticatedClient {
        token: match identity {
            Identity::User { .. } => None,
            Identity::Token { name, .. } => Some(name.into()),
        },
        id: label(&auth.client_id),
        version: label(&auth.client_version),
        has_cookie: device.is_some(),
        handshake_ms: 0,
    };
    AuthOutcome::Accepted(Box::new(client), cookie)
}

/// Warns the operator that AUTHs wait, and why.
fn warn(warning: &SlowWarning) {
    tracing::warn!(
        address = %warning.block,
        failures = warning.failures,
        waiting = warning.waiting,
        "AUTHs without a device cookie have to wait, because too many have failed within a minute; \
         if the address is a balancer's, {PROXY_ADVICE}"
    );
}

impl AuthenticatedClient {
    /// Returns the name of the credentials that the client authenticated with.
    pub(super) fn identity(&self) -> &str {
        self.token.as_deref().unwrap_or("user")
    }

    /// Returns whether the client has presented a valid device cookie.
    pub(super) fn has_cookie(&self) -> bool {
        self.has_cookie
    }

    /// Notes how long after its connection was accepted the client has authenticated.
    pub(super) fn note_handshake(&mut self, time: Duration) {
        self.handshake_ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    }

    /// Returns how long after its connection was accepted the client has authenticated.
    pub(super) fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms.into())
    }
}

impl WaitingAuth {
    /// Returns when to continue with it, in the shard's time.
    pub(super) fn due(&self) -> Mono {
        self.due
    }
}

impl Drop for WaitCount {
    fn drop(&mut self) {
        self.waiting.dec();
        if let Some(unjudged) = &self.unjudged {
            unjudged.inc();
        }
    }
}
