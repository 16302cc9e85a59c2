//! The setup that all threads of the generator start with, and the state that they share while they
//! run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use tickstorm_client::estimate::PongExchange;
use tickstorm_command::credentials::ClientCredentials;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::encode;
use tickstorm_protocol::message::{Auth, Subscribe};
use tickstorm_protocol::session::Request;
use tickstorm_timebase::Mode;

use super::arrivals::Due;
use super::frame_ticks::FrameTicks;
use super::sources::ClientSources;
use crate::orders::BurstPlan;
use crate::tls::ClientTls;

/// The properties that all clients share.
#[derive(Clone, Debug)]
pub struct ClientSetup {
    /// The edge's address.
    pub addr: SocketAddr,
    /// The source addresses, if the edge's address is on loopback.
    pub sources: ClientSources,
    /// The mode that clients subscribe to.
    pub mode: Mode,
    /// Whether clients subscribe to an ahead feed.
    pub ahead: bool,
    /// The time by which ticks are due before their epoch: AHEAD_MS in an ahead feed, otherwise
    /// zero.
    pub lead: Duration,
    /// The credentials of all clients.
    pub credentials: ClientCredentials,
    /// `None` for clients that connect over plain TCP.
    pub tls: Option<ClientTls>,
    /// The interval between two heartbeats of a client.
    pub heartbeat: Duration,
    /// Whether other clients have priority: those whose ticks are measured meanwhile.
    pub yields: bool,
    /// The CPUs of the generator's threads. An empty list means all CPUs.
    pub cpus: Vec<usize>,
}

impl ClientSetup {
    /// Returns the AUTH message of a client without a cookie.
    pub(super) fn auth(&self) -> Auth {
        let mut auth = Auth {
            client_id: "tickstorm bench".into(),
            ..Auth::default()
        };
        match &self.credentials {
            ClientCredentials::Token(token) => auth.token = token.expose_secret().into(),
            ClientCredentials::Password(user, password) => {
                auth.username.clone_from(user);
                auth.password = password.expose_secret().into();
            }
        }
        auth
    }

    /// Encodes the SUBSCRIBE frame.
    pub(super) fn subscribe(&self) -> Vec<u8> {
        let request = Request {
            mode: self.mode,
            ahead: self.ahead,
            resume_after: None,
        };
        let mut frame = Vec::new();
        encode(FrameType::Subscribe, &Subscribe::from(request), &mut frame);
        frame
    }
}

/// The value of the offset while authority time is unknown.
const UNKNOWN: i64 = i64::MIN;

/// The state shared by all threads.
#[derive(Debug)]
pub struct GeneratorShared {
    /// Authority time minus the machine's own clock, in nanoseconds.
    offset_ns: AtomicI64,
    error_ns: AtomicU64,
    /// Whether heartbeats may be sent now; they may not while ticks are measured.
    heartbeats_allowed: AtomicBool,
    pub(crate) subscribed: AtomicU64,
    pub(crate) connected: AtomicU64,
    /// The number of connections that failed or ended.
    pub(crate) ended: AtomicU64,
    plans: Mutex<Plans>,
    /// The cipher suite of the first TLS connection.
    pub(crate) cipher_suite: OnceLock<&'static str>,
    /// PONGs of one client, if authority time must be learned from them.
    pub(crate) samples: Mutex<Vec<PongExchange>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Plans {
    edge: Option<BurstPlan>,
    bare: Option<BurstPlan>,
}

impl Default for GeneratorShared {
    fn default() -> Self {
        Self {
            offset_ns: AtomicI64::new(UNKNOWN),
            error_ns: AtomicU64::new(0),
            heartbeats_allowed: AtomicBool::new(true),
            subscribed: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            plans: Mutex::default(),
            cipher_suite: OnceLock::new(),
            samples: Mutex::default(),
        }
    }
}

impl GeneratorShared {
    /// Creates the state for other clients of the same edge: it has the same authority time, and
    /// all counts at 0.
    pub(crate) fn for_other_clients(&self) -> Self {
        let other = Self::default();
        if let Some(offset_ns) = self.offset_ns() {
            other.set_offset(offset_ns, self.error_ns());
        }
        other
    }

    /// Returns authority time minus the machine's own clock, in nanoseconds; `None` while unknown.
    #[must_use]
    pub fn offset_ns(&self) -> Option<i64> {
        let offset_ns = self.offset_ns.load(Ordering::Relaxed);
        (offset_ns != UNKNOWN).then_some(offset_ns)
    }

    /// Allows or forbids heartbeats.
    pub fn allow_heartbeats(&self, allowed: bool) {
        self.heartbeats_allowed.store(allowed, Ordering::Relaxed);
    }

    /// Returns whether heartbeats may be sent now.
    pub(super) fn heartbeats_allowed(&self) -> bool {
        self.heartbeats_allowed.load(Ordering::Relaxed)
    }

    /// Returns the error bound of [`Self::offset_ns`], in nanoseconds.
    pub(crate) fn error_ns(&self) -> u64 {
        self.error_ns.load(Ordering::Relaxed)
    }

    /// Sets how far authority time is ahead of the machine's own clock, and the error bound of
    /// that.
    pub fn set_offset(&self, offset_ns: i64, error_ns: u64) {
        self.error_ns.store(error_ns, Ordering::Relaxed);
        self.offset_ns.store(offset_ns, Ordering::Relaxed);
    }

    /// Sets the plan by which the ticks of a burst are due.
    pub(crate) fn plan(&self, burst: BurstPlan, bare: bool) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        *(if bare {
            &mut plans.bare
        } else {
            &mut plans.edge
        }) = Some(burst);
    }

    /// Returns when these ticks were due: by the plan of their burst, or else by the grid.
    pub(super) fn due(&self, ticks: FrameTicks, lead: Duration) -> Option<Due> {
        let plans = *self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = if ticks.bare { plans.bare } else { plans.edge };
        if let Some((plan, number)) =
            plan.and_then(|plan| Some((plan, plan.number(ticks.first_ms)?)))
        {
            return Some(Due {
                ns: plan.due_ns(number),
                unix_us: None,
            });
        }
        if ticks.bare {
            return None;
        }
        let lead_us = i64::try_from(lead.as_micros()).ok()?;
        let unix_us = ticks.first_ms.checked_mul(1_000)?.checked_sub(lead_us)?;
        let ns = unix_us.checked_mul(1_000)?.checked_sub(self.offset_ns()?)?;
        Some(Due {
            ns: u64::try_from(ns).ok()?,
            unix_us: Some(unix_us),
        })
    }
}
