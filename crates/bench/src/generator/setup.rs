//! What all threads of the generator are told before they begin, and what they share while they run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
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
use crate::orders::BurstPlan;

/// What clients are.
#[derive(Clone, Debug)]
pub(crate) struct ClientSetup {
    pub(crate) addr: SocketAddr,
    pub(crate) mode: Mode,
    pub(crate) ahead: bool,
    /// How long before a tick's time it is due: AHEAD_MS, or nothing.
    pub(crate) lead: Duration,
    pub(crate) credentials: ClientCredentials,
    /// From one heartbeat of a client to its next.
    pub(crate) heartbeat: Duration,
    /// The CPUs of its threads; empty: any.
    pub(crate) cpus: Vec<usize>,
}

impl ClientSetup {
    /// The AUTH frame.
    pub(super) fn auth(&self) -> Vec<u8> {
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
        let mut frame = Vec::new();
        encode(FrameType::Auth, &auth, &mut frame);
        frame
    }

    /// The SUBSCRIBE frame.
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

/// Authority time where it is not known.
const UNKNOWN: i64 = i64::MIN;

/// What is known to all threads at any time.
#[derive(Debug)]
pub(crate) struct GeneratorShared {
    /// Authority time minus the machine's own, in nanoseconds.
    offset_ns: AtomicI64,
    error_ns: AtomicU64,
    /// Heartbeats may be sent now: not while ticks are measured.
    may_beat: AtomicBool,
    pub(crate) subscribed: AtomicU64,
    pub(crate) connected: AtomicU64,
    /// Connections that failed or ended.
    pub(crate) ended: AtomicU64,
    plans: Mutex<Plans>,
    /// PONGs of one client, where authority time is to be learned from them.
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
            may_beat: AtomicBool::new(true),
            subscribed: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            plans: Mutex::default(),
            samples: Mutex::default(),
        }
    }
}

impl GeneratorShared {
    /// For other clients of the same edge: the same time, and nothing else.
    pub(crate) fn like(&self) -> Self {
        let other = Self::default();
        if let Some(offset_ns) = self.offset_ns() {
            other.set_offset(offset_ns, self.error_ns());
        }
        other
    }

    /// Authority time minus the machine's own, in nanoseconds.
    pub(crate) fn offset_ns(&self) -> Option<i64> {
        let offset_ns = self.offset_ns.load(Ordering::Relaxed);
        (offset_ns != UNKNOWN).then_some(offset_ns)
    }

    /// Whether heartbeats may be sent from now on.
    pub(crate) fn may_beat(&self, may: bool) {
        self.may_beat.store(may, Ordering::Relaxed);
    }

    /// Whether they may be sent now.
    pub(super) fn beats(&self) -> bool {
        self.may_beat.load(Ordering::Relaxed)
    }

    /// How far that may be wrong.
    pub(crate) fn error_ns(&self) -> u64 {
        self.error_ns.load(Ordering::Relaxed)
    }

    /// Authority time is this much after the machine's own.
    pub(crate) fn set_offset(&self, offset_ns: i64, error_ns: u64) {
        self.error_ns.store(error_ns, Ordering::Relaxed);
        self.offset_ns.store(offset_ns, Ordering::Relaxed);
    }

    /// Ticks of this burst are due by its plan.
    pub(crate) fn plan(&self, burst: BurstPlan, bare: bool) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        *(if bare {
            &mut plans.bare
        } else {
            &mut plans.edge
        }) = Some(burst);
    }

    /// When these ticks were due: by the plan of their burst, else by the grid.
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
