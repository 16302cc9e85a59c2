//! [`Connection`]: one client's connection and its [`Stage`]. It knows the rules that concern only
//! itself (whether to read from it, its deadlines, how it ends) and touches neither its socket nor
//! the rest of the shard.

use std::net::SocketAddr;
use std::time::Duration;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::ServerSession;
use tickstorm_timebase::{Mono, Request};

use super::authentication::AuthenticatedClient;
use super::env::Env;
use super::key::Key;
use super::outbox::Outbox;
use super::time::Moment;
use super::wheel::Bucket;
use crate::admission::{HandshakePermit, Permit};

/// The maximum number of SUBSCRIBEs that may wait until the time is known; with one more, reading
/// from the connection stops. Their ACKs fit into the control buffer.
pub(super) const PENDING_SUBSCRIBES_MAX: usize = 32;
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
    /// Whether any byte was received. A connection that closes without one is a health check.
    has_received: bool,
    /// Counts it among the process's connections until dropped.
    permit: Permit,
}

/// The stage of a connection's life.
pub(super) enum Stage {
    /// The client has not authenticated yet.
    Handshake {
        /// Counts it among the handshakes until dropped.
        _permit: HandshakePermit,
    },
    /// The client's AUTH failed, and the ERROR is sent at `due`. Nothing is read until then.
    Refused {
        due: Mono,
        /// Still counts as a handshake, so it can be evicted to make room for another.
        _permit: HandshakePermit,
    },
    /// The client has authenticated.
    Served(Served),
    /// The ERROR was sent. Input is discarded until the client closes or `until` has come.
    Lingering { until: Mono },
}

/// The state of a connection whose client has authenticated.
pub(super) struct Served {
    pub(super) client: Box<AuthenticatedClient>,
    /// SUBSCRIBEs that wait until the time is known.
    pub(super) pending_subscribes: Vec<Request>,
    /// The generation of the last known authority time when the first of them arrived.
    pending_since: Option<u32>,
    /// Unsent output; `None` while the socket accepts everything.
    pub(super) outbox: Option<Box<Outbox>>,
}

impl Served {
    pub(super) fn new(client: Box<AuthenticatedClient>) -> Self {
        Self {
            client,
            pending_subscribes: Vec::new(),
            pending_since: None,
            outbox: None,
        }
    }

    /// Queues a SUBSCRIBE until the time is known.
    pub(super) fn defer(&mut self, request: Request, env: &Env) {
        if self.pending_subscribes.is_empty() {
            self.pending_since = env.generation();
        }
        self.pending_subscribes.push(request);
    }

    /// Returns whether a SUBSCRIBE is waiting that arrived before time was stepped to the current
    /// generation.
    pub(super) fn has_stale_subscribe(&self, env: &Env) -> bool {
        !self.pending_subscribes.is_empty() && self.pending_since != env.generation()
    }

    /// Returns whether reading must stop: answers are waiting for the socket, or too many
    /// SUBSCRIBEs are waiting until the time is known.
    fn is_blocked(&self) -> bool {
        let holds_control = self.outbox.as_ref().is_some_and(|out| out.holds_control());
        holds_control || self.pending_subscribes.len() > PENDING_SUBSCRIBES_MAX
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// The reason to record.
    pub(super) reason: CloseReason,
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
        permit: Permit,
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
            has_received: false,
            permit,
        }
    }

    /// Returns whether it counts against MAX_CONNECTIONS.
    pub(super) fn is_admitted(&self) -> bool {
        !self.permit.is_overflow()
    }

    /// Returns whether the connection is open, that is, closing it has not started.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Lingering { .. })
    }

    pub(super) fn served(&self) -> Option<&Served> {
        match &self.stage {
            Stage::Served(served) => Some(served),
            Stage::Handshake { .. } | Stage::Refused { .. } | Stage::Lingering { .. } => None,
        }
    }

    pub(super) fn served_mut(&mut self) -> Option<&mut Served> {
        match &mut self.stage {
            Stage::Served(served) => Some(served),
            Stage::Handshake { .. } | Stage::Refused { .. } | Stage::Lingering { .. } => None,
        }
    }

    pub(super) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        self.served_mut()?.outbox.as_deref_mut()
    }

    /// Returns whether input is read from it.
    pub(super) fn is_reading(&self) -> bool {
        match self.stage {
            Stage::Handshake { .. } | Stage::Lingering { .. } => true,
            Stage::Refused { .. } => false,
            Stage::Served(_) => !self.session.is_paused(),
        }
    }

    /// Returns whether no more input may be processed.
    pub(super) fn is_blocked(&self) -> bool {
        match &self.stage {
            Stage::Handshake { .. } | Stage::Lingering { .. } => false,
            Stage::Refused { .. } => true,
            Stage::Served(served) => served.is_blocked(),
        }
    }

    /// Notes that bytes were received.
    pub(super) fn mark_received(&mut self) {
        self.has_received = true;
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
            Stage::Refused { due, .. } => *due,
            Stage::Served(served) => {
                let stuck = served.outbox.as_ref().map_or(Mono::NEVER, |outbox| {
                    outbox.progress + env.settings().write_deadline
                });
                self.session.deadline(env.limits()).min(stuck)
            }
            Stage::Lingering { until } => *until,
        }
    }

    /// Returns the action that is due at `now`, in the shard's time.
    pub(super) fn overdue(&self, env: &Env, now: Mono) -> Overdue {
        match &self.stage {
            Stage::Lingering { until } if now >= *until => Overdue::Lingering,
            Stage::Lingering { .. } => Overdue::Nothing,
            Stage::Refused { due, .. } if now >= *due => Overdue::Close(CloseReason::AuthFailed),
            Stage::Refused { .. } => Overdue::NotReading,
            Stage::Served(served) if served.is_stuck(env, now) => {
                Overdue::Close(CloseReason::SlowConsumer)
            }
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
            Stage::Refused { .. } | Stage::Lingering { .. } => None,
        }
    }

    /// Returns the reason to close a handshake that makes room for another; `None` if it is not a
    /// handshake. If its AUTH has failed and the answer was only delayed, the answer is sent now.
    pub(super) fn eviction_reason(&self, env: &Env) -> Option<CloseReason> {
        match self.stage {
            Stage::Handshake { .. } => Some(CloseReason::AuthTimeout {
                allowed: env.limits().auth_timeout,
            }),
            Stage::Refused { .. } => Some(CloseReason::AuthFailed),
            Stage::Served(_) | Stage::Lingering { .. } => None,
        }
    }

    /// Starts ending the connection for `reason`, and drops the data of its stage, such as the
    /// outbox. Returns `None` if it is already ending.
    pub(super) fn end(&mut self, reason: CloseReason, now: Mono) -> Option<Farewell> {
        let was_reading = self.is_reading();
        let until = now + LINGER;
        let may_send_error = match std::mem::replace(&mut self.stage, Stage::Lingering { until }) {
            Stage::Handshake { .. } | Stage::Refused { .. } => true,
            Stage::Served(served) => served.outbox.is_none(),
            Stage::Lingering { .. } => return None,
        };
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
            may_send_error,
            was_reading,
        })
    }
}

impl Served {
    fn is_stuck(&self, env: &Env, now: Mono) -> bool {
        let deadline = env.settings().write_deadline;
        let outbox = self.outbox.as_ref();
        outbox.is_some_and(|outbox| now >= outbox.progress + deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// An edge holds 100,000 connections in memory.
    #[test]
    fn a_connection_is_small() {
        let connection = size_of::<Connection<TcpStream>>();
        assert!(connection <= 256, "a connection takes {connection} bytes");
    }
}
