//! [`Connection`]: one client's connection and its [`Stage`]. It knows the rules that concern only
//! itself (whether to read from it, its deadlines, how it ends) and touches neither its socket nor
//! the rest of the shard.

use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::ServerSession;
use tickstorm_timebase::{Mono, Request};

use super::authentication::{AuthenticatedClient, WaitingAuth};
use super::env::Env;
use super::key::Key;
use super::lingering::LingeringPermit;
use super::outbox::Outbox;
use super::replay_budget::ReplayBudget;
use super::time::Moment;
use super::wheel::Bucket;
use crate::admission::{AddressPermit, HandshakePermit, Permit};
use crate::metrics::ConnectionState;

/// The maximum number of SUBSCRIBEs that may wait until the time is known; with one more, reading
/// from the connection stops. Their ACKs fit into the control buffer.
pub(super) const PENDING_SUBSCRIBES_MAX: usize = 32;
/// The time within which a SUBSCRIBE is answered. While the edge does not know the time, the answer
/// is NO_TIME.
pub(crate) const SUBSCRIBE_TIME_MAX: Duration = Duration::from_secs(5);
/// The time for which input is read and discarded after the ERROR was sent.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// A client's connection.
pub(super) struct Connection<S> {
    pub(super) socket: S,
    pub(super) key: Key,
    pub(super) peer: SocketAddr,
    /// The time at which it was accepted, in the machine's time.
    pub(super) accepted: Mono,
    pub(super) session: ServerSession,
    pub(super) stage: Stage,
    /// The wheel's bucket in which its deadline will be checked.
    pub(super) armed: Bucket,
    /// Whether it waits for its turn to take a step of its TLS handshake.
    pub(super) is_handshake_queued: bool,
    /// Whether it has an entry among the shard's buffers.
    pub(super) is_buffering: bool,
    /// The state in which it is counted; `None` while it is not.
    pub(super) counted_as: Option<ConnectionState>,
    /// Whether any byte was received. A connection that closes without one is a health check.
    has_received: bool,
    counted: Counted,
    /// The milliseconds for which the edge had been stalled in all, as far as the session knows.
    stalled_ms: u32,
}

/// What a connection counts against, until this is dropped.
pub(super) enum Counted {
    /// It is admitted.
    Admitted {
        _permit: Permit,
        _address: AddressPermit,
    },
    /// It lingers after an ERROR.
    Lingering { _permit: LingeringPermit },
    /// It has ended, and is about to be removed from its slot.
    Not,
}

/// The stage of a connection's life.
pub(super) enum Stage {
    /// The client has not authenticated yet.
    Handshake {
        /// Counts it among the handshakes until dropped.
        permit: HandshakePermit,
    },
    /// The client's AUTH waits until it is judged. Nothing is read until then.
    Judging {
        waiting: Box<WaitingAuth>,
        /// Still counts as a handshake, so it can be evicted to make room for another.
        permit: HandshakePermit,
    },
    /// The client has authenticated.
    Served(Served),
    /// The ERROR was sent. Input is discarded until the client closes or `until` has come.
    Lingering { until: Mono },
}

/// The state of a connection whose client has authenticated.
pub(super) struct Served {
    pub(super) client: Box<AuthenticatedClient>,
    /// SUBSCRIBEs that wait until the time is known; `None` while none waits.
    pending_subscribes: Option<Box<PendingSubscribes>>,
    /// Unsent output; `None` while the socket accepts everything.
    pub(super) outbox: Option<Box<Outbox>>,
    pub(super) replay_budget: ReplayBudget,
    /// Whether it is in the queue of replays.
    pub(super) is_replay_queued: bool,
}

/// SUBSCRIBEs that wait until the time is known. Boxed, because there are few.
struct PendingSubscribes {
    requests: Vec<Request>,
    /// The generation of the last known authority time when the first of them arrived.
    since: Option<u32>,
    /// The time by which the first of them must be answered.
    deadline: Mono,
}

impl Served {
    pub(super) fn new(client: Box<AuthenticatedClient>) -> Self {
        Self {
            client,
            pending_subscribes: None,
            outbox: None,
            replay_budget: ReplayBudget::default(),
            is_replay_queued: false,
        }
    }

    /// Returns whether the client has presented a valid device cookie. Its replays are then not
    /// charged to its address.
    pub(super) fn has_cookie(&self) -> bool {
        self.client.has_cookie()
    }

    /// Queues a SUBSCRIBE, which arrived at `now`, until the time is known.
    pub(super) fn defer(&mut self, request: Request, env: &Env, now: Mono) {
        let pending = self.pending_subscribes.get_or_insert_with(|| {
            Box::new(PendingSubscribes {
                requests: Vec::new(),
                since: env.generation(),
                deadline: now + SUBSCRIBE_TIME_MAX,
            })
        });
        pending.requests.push(request);
    }

    /// Returns whether SUBSCRIBEs wait until the time is known.
    pub(super) const fn has_pending_subscribes(&self) -> bool {
        self.pending_subscribes.is_some()
    }

    /// Returns when the first waiting SUBSCRIBE must be answered; [`Mono::NEVER`] if none waits.
    fn subscribe_deadline(&self) -> Mono {
        let pending = self.pending_subscribes.as_ref();
        pending.map_or(Mono::NEVER, |pending| pending.deadline)
    }

    /// Returns the waiting SUBSCRIBEs, which then no longer wait.
    pub(super) fn take_pending_subscribes(&mut self) -> Vec<Request> {
        let pending = self.pending_subscribes.take();
        pending.map_or_else(Vec::new, |pending| pending.requests)
    }

    /// Returns whether a SUBSCRIBE is waiting that arrived before time was stepped to the current
    /// generation.
    pub(super) fn has_stale_subscribe(&self, env: &Env) -> bool {
        let pending = self.pending_subscribes.as_ref();
        pending.is_some_and(|pending| pending.since != env.generation())
    }

    /// Returns whether reading must stop: answers are waiting for the socket, or too many
    /// SUBSCRIBEs are waiting until the time is known.
    fn is_blocked(&self) -> bool {
        let holds_control = self.outbox.as_ref().is_some_and(|out| out.holds_control());
        let pending = self.pending_subscribes.as_ref();
        let waiting = pending.map_or(0, |pending| pending.requests.len());
        holds_control || waiting > PENDING_SUBSCRIBES_MAX
    }
}

/// The consequence of a step for the connection's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterStep {
    /// The connection remains in its slot.
    Stays,
    /// The connection has ended: its slot must be emptied, which closes the socket.
    Gone,
}

impl AfterStep {
    pub(super) fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// The remaining work of closing a connection, as returned by [`Connection::end`].
pub(super) struct Farewell {
    /// The reason to record.
    pub(super) reason: CloseReason,
    /// The client, if it had authenticated.
    pub(super) client: Option<Box<AuthenticatedClient>>,
    /// Whether an ERROR may be sent: the stream is at a frame boundary, and no output is waiting
    /// for the socket.
    pub(super) may_send_error: bool,
    /// Whether it was being read. If not, the socket must be re-armed to report its current
    /// readiness.
    pub(super) was_reading: bool,
}

/// The action that is due for a connection whose bucket of the wheel has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Nothing: no deadline has passed.
    Nothing,
    /// Drop it: it has lingered long enough.
    Lingering,
    /// Close it.
    Close(CloseReason),
    /// Judge its AUTH: the wait is over.
    Judge,
    /// Answer its SUBSCRIBE, which has waited for as long as it may.
    Unanswered,
    /// Close it as silent, unless its input is still unread in the socket because the edge itself
    /// was busy.
    Silent,
    /// Check the socket for an error: no deadline has passed, but while nothing is read, only this
    /// check shows whether the peer is gone.
    NotReading,
}

impl<S> Connection<S> {
    /// Creates a connection that was accepted at `at`.
    pub(super) fn new(
        key: Key,
        (socket, peer): (S, SocketAddr),
        at: Moment,
        stage: Stage,
        counted: Counted,
    ) -> Self {
        Self {
            socket,
            key,
            peer,
            accepted: at.mono,
            session: ServerSession::new(at.now),
            stage,
            armed: Bucket::NONE,
            is_handshake_queued: false,
            is_buffering: false,
            counted_as: None,
            has_received: false,
            counted,
            stalled_ms: millis(at.stalled()),
        }
    }

    /// Notes that the edge had been stalled for this time in all when the connection can first have
    /// arrived.
    pub(super) fn arrived_after(&mut self, stalled: Duration) {
        self.stalled_ms = millis(stalled);
    }

    /// Tells the session for how long the edge has been stalled since it was last told, and returns
    /// that time. Input that is read now may have arrived meanwhile.
    pub(super) fn note_stall(&mut self, at: Moment) -> Duration {
        let stalled_ms = millis(at.stalled());
        let before_ms = std::mem::replace(&mut self.stalled_ms, stalled_ms);
        let new = Duration::from_millis(stalled_ms.saturating_sub(before_ms).into());
        if !new.is_zero() {
            self.session.stalled_for(new);
        }
        new
    }

    /// Returns whether the connection is open, that is, closing it has not started.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Lingering { .. })
    }

    /// Returns its state, as the metrics tell it.
    pub(super) fn state(&self) -> ConnectionState {
        match &self.stage {
            Stage::Handshake { .. } | Stage::Judging { .. } => ConnectionState::Handshake,
            Stage::Served(_) if self.session.is_subscribed() => ConnectionState::Subscribed,
            Stage::Served(_) => ConnectionState::Authenticated,
            Stage::Lingering { .. } => ConnectionState::Lingering,
        }
    }

    /// Returns for how long its client has been served, if it is, in the machine's time.
    pub(super) fn served_for(&self, mono: Mono) -> Option<Duration> {
        let age = mono.since(self.accepted);
        let handshake = self.served()?.client.handshake();
        Some(age.saturating_sub(handshake))
    }

    pub(super) fn served(&self) -> Option<&Served> {
        match &self.stage {
            Stage::Served(served) => Some(served),
            Stage::Handshake { .. } | Stage::Judging { .. } | Stage::Lingering { .. } => None,
        }
    }

    pub(super) fn served_mut(&mut self) -> Option<&mut Served> {
        match &mut self.stage {
            Stage::Served(served) => Some(served),
            Stage::Handshake { .. } | Stage::Judging { .. } | Stage::Lingering { .. } => None,
        }
    }

    pub(super) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        self.served_mut()?.outbox.as_deref_mut()
    }

    /// Returns how much memory it holds for unfinished input and waiting control frames, besides
    /// that of its socket.
    pub(super) fn buffered(&self) -> usize {
        let outbox = self.served().and_then(|served| served.outbox.as_deref());
        self.session.buffered() + outbox.map_or(0, Outbox::buffered)
    }

    /// Returns whether input is read from it.
    pub(super) fn is_reading(&self) -> bool {
        match self.stage {
            Stage::Handshake { .. } | Stage::Lingering { .. } => true,
            Stage::Judging { .. } => false,
            Stage::Served(_) => !self.session.is_paused(),
        }
    }

    /// Returns whether no more input may be processed.
    pub(super) fn is_blocked(&self) -> bool {
        match &self.stage {
            Stage::Handshake { .. } | Stage::Lingering { .. } => false,
            Stage::Judging { .. } => true,
            Stage::Served(served) => served.is_blocked(),
        }
    }

    /// Lets an AUTH wait. Has no effect unless the connection is a handshake.
    pub(super) fn wait(&mut self, waiting: Box<WaitingAuth>) {
        let ended = Stage::Lingering {
            until: waiting.due(),
        };
        self.stage = match std::mem::replace(&mut self.stage, ended) {
            Stage::Handshake { permit } => {
                permit.mark_judging();
                Stage::Judging { waiting, permit }
            }
            other @ (Stage::Judging { .. } | Stage::Served(_) | Stage::Lingering { .. }) => other,
        };
    }

    /// Notes that bytes were received. Returns whether they are the first ones.
    pub(super) fn mark_received(&mut self) -> bool {
        !std::mem::replace(&mut self.has_received, true)
    }

    /// Lets admission know that the first bytes were received, if they did not complete the
    /// handshake.
    pub(super) fn report_received(&self) {
        match &self.stage {
            Stage::Handshake { permit } | Stage::Judging { permit, .. } => permit.mark_received(),
            Stage::Served(_) | Stage::Lingering { .. } => {}
        }
    }

    /// Counts the connection towards the address of its client, which was not known when it was
    /// accepted.
    pub(super) fn count_client(&mut self, client: SocketAddr, permit: AddressPermit) {
        self.peer = client;
        if let Stage::Handshake { permit } = &self.stage {
            permit.set_address(client.ip().into());
        }
        if let Counted::Admitted { _address, .. } = &mut self.counted {
            *_address = permit;
        }
    }

    /// Lets a connection that has just ended linger.
    pub(super) fn linger(&mut self, permit: LingeringPermit) {
        self.counted = Counted::Lingering { _permit: permit };
    }

    /// Stops reading if the connection is blocked. The heartbeat deadline is suspended until it
    /// resumes.
    pub(super) fn pause_if_blocked(&mut self, now: Mono) {
        if self.is_blocked() && self.served().is_some() {
            self.session.pause(now);
        }
    }

    /// Resumes reading, if it was paused and nothing blocks it any longer. Returns whether it did;
    /// the caller must then process the input that the session has kept.
    pub(super) fn resume(&mut self, now: Mono) -> bool {
        let may_resume = self.served().is_some() && !self.is_reading() && !self.is_blocked();
        if may_resume {
            self.session.resume(now);
        }
        may_resume
    }

    /// Returns the next deadline, in the shard's time.
    pub(super) fn deadline(&self, env: &Env) -> Mono {
        match &self.stage {
            Stage::Handshake { .. } => self.session.deadline(env.limits()),
            Stage::Judging { waiting, .. } => waiting.due(),
            Stage::Served(served) => {
                let session = self.session.deadline(env.limits());
                let write = served.write_deadline(env);
                session.min(write).min(served.subscribe_deadline())
            }
            Stage::Lingering { until } => *until,
        }
    }

    /// Returns the action that is due at `now`, in the shard's time.
    pub(super) fn overdue(&self, env: &Env, now: Mono) -> Overdue {
        match &self.stage {
            Stage::Lingering { until } if now >= *until => Overdue::Lingering,
            Stage::Lingering { .. } => Overdue::Nothing,
            Stage::Judging { waiting, .. } if now >= waiting.due() => Overdue::Judge,
            Stage::Judging { .. } => Overdue::NotReading,
            Stage::Served(served) if now >= served.write_deadline(env) => {
                Overdue::Close(CloseReason::SlowConsumer)
            }
            Stage::Served(served) if now >= served.subscribe_deadline() => Overdue::Unanswered,
            Stage::Handshake { .. } | Stage::Served(_) => {
                if self.timeout_reason(env, now).is_some() {
                    Overdue::Silent
                } else if self.is_reading() {
                    Overdue::Nothing
                } else {
                    Overdue::NotReading
                }
            }
        }
    }

    /// Returns the reason to close it if an AUTH or heartbeat timeout has expired.
    pub(super) fn timeout_reason(&self, env: &Env, now: Mono) -> Option<CloseReason> {
        match self.stage {
            Stage::Handshake { .. } | Stage::Served(_) => {
                self.session.check_deadline(env.limits(), now)
            }
            Stage::Judging { .. } | Stage::Lingering { .. } => None,
        }
    }

    /// Returns the reason to close a handshake that makes room for another; `None` if it is not a
    /// handshake. An AUTH that waits is not judged any more.
    pub(super) fn eviction_reason(&self, env: &Env) -> Option<CloseReason> {
        match self.stage {
            Stage::Handshake { .. } => Some(CloseReason::AuthTimeout {
                allowed: env.limits().auth_timeout,
            }),
            Stage::Judging { .. } => Some(CloseReason::AuthRateLimited),
            Stage::Served(_) | Stage::Lingering { .. } => None,
        }
    }

    /// Starts ending the connection for `reason`: it gives back its permits, and drops the data of
    /// its stage, such as the outbox. Returns `None` if it is already ending.
    pub(super) fn end(&mut self, reason: CloseReason, now: Mono) -> Option<Farewell> {
        let was_reading = self.is_reading();
        let until = now + LINGER;
        self.session.close();
        let ended = std::mem::replace(&mut self.stage, Stage::Lingering { until });
        let (may_send_error, client) = match ended {
            Stage::Handshake { .. } | Stage::Judging { .. } => (true, None),
            Stage::Served(served) => (served.accepts_error(), Some(served.client)),
            Stage::Lingering { .. } => return None,
        };
        self.counted = Counted::Not;
        let peer_ended = matches!(
            reason,
            CloseReason::ClientClosed | CloseReason::ConnectionLost
        );
        Some(Farewell {
            reason: if peer_ended && !self.has_received {
                CloseReason::HealthCheck
            } else {
                reason
            },
            client,
            may_send_error,
            was_reading,
        })
    }
}

impl Served {
    /// Returns when it becomes a slow consumer, in the shard's time. Only the time for which its
    /// output waits for the socket counts.
    fn write_deadline(&self, env: &Env) -> Mono {
        let outbox = self.outbox.as_ref();
        outbox
            .filter(|outbox| outbox.waits_for_socket)
            .map_or(Mono::NEVER, |outbox| {
                outbox.progress + env.settings().write_deadline
            })
    }

    /// Returns whether an ERROR may be sent: the stream is at a frame boundary, and no output waits
    /// for the socket.
    fn accepts_error(&self) -> bool {
        let outbox = self.outbox.as_ref();
        outbox.is_none_or(|outbox| outbox.is_between_frames() && !outbox.waits_for_socket)
    }
}

/// Returns whole milliseconds. An edge that was stalled for more than 49 days forgives no more.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// An edge holds 100,000 connections in memory.
    #[test]
    fn a_connection_is_small() {
        let connection = size_of::<Connection<TcpStream>>();
        assert!(connection <= 208, "a connection takes {connection} bytes");
        let client = size_of::<AuthenticatedClient>();
        assert!(
            client <= 56,
            "an authenticated client takes {client} bytes more"
        );
    }
}
