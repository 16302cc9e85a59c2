//! [`Connection`]: one client's connection, and the [`Stage`] that it is in. It knows its own rules
//! (whether it is read, by when something must happen, how it ends) and touches neither its socket
//! nor another part of the shard.

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
use super::wheel::Turn;
use crate::admission::{HandshakePermit, Permit};

/// SUBSCRIBEs that may wait for the time to be known; with one more the connection is not read.
/// Their ACKs fit the control buffer.
pub(super) const ASKED_MAX: usize = 32;
/// How long a connection is read after its ERROR was sent.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// A client's connection.
pub(super) struct Connection<S> {
    pub(super) socket: S,
    pub(super) key: Key,
    pub(super) peer: SocketAddr,
    /// When it was accepted, in the machine's time.
    pub(super) accepted: Mono,
    pub(super) session: ServerSession,
    pub(super) stage: Stage,
    /// The turn of the wheel at which its deadline is looked at.
    pub(super) armed: Turn,
    /// Whether a byte has come: a connection without one is a health check.
    has_spoken: bool,
    /// Counts it among the process's connections.
    permit: Permit,
}

/// How far a connection has come.
pub(super) enum Stage {
    /// It has not authenticated yet.
    Handshake {
        /// Counts it among the handshakes.
        _permit: HandshakePermit,
    },
    /// Its AUTH was wrong, and it hears of that at `due`. Until then it is not read.
    Refused {
        due: Mono,
        /// A handshake still: another one may need its room.
        _permit: HandshakePermit,
    },
    /// It has authenticated.
    Served(Served),
    /// Its ERROR is on the way. What it sends is discarded until it closes or this moment comes.
    Lingering { until: Mono },
}

/// A connection that has authenticated.
pub(super) struct Served {
    pub(super) client: Box<AuthenticatedClient>,
    /// SUBSCRIBEs that wait for the time to be known.
    pub(super) asked: Vec<Request>,
    /// The generation of the last time that was known when the first of them came.
    asked_in: Option<u32>,
    /// What could not be written yet; none while all is well.
    pub(super) outbox: Option<Box<Outbox>>,
}

impl Served {
    pub(super) fn new(client: Box<AuthenticatedClient>) -> Self {
        Self {
            client,
            asked: Vec::new(),
            asked_in: None,
            outbox: None,
        }
    }

    /// Lets a SUBSCRIBE wait until the time is known.
    pub(super) fn ask(&mut self, request: Request, env: &Env) {
        if self.asked.is_empty() {
            self.asked_in = env.generation();
        }
        self.asked.push(request);
    }

    /// Whether a SUBSCRIBE waits that came before time was stepped to the present generation.
    pub(super) fn has_asked_before(&self, env: &Env) -> bool {
        !self.asked.is_empty() && self.asked_in != env.generation()
    }

    /// Whether nothing may be read: answers wait for the socket already, or for the time to be
    /// known.
    fn is_blocked(&self) -> bool {
        let holds_control = self.outbox.as_ref().is_some_and(|out| out.holds_control());
        holds_control || self.asked.len() > ASKED_MAX
    }
}

/// What a step of a connection has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterStep {
    /// It remains in its slot.
    Stays,
    /// It is over: its slot must be emptied, which closes the socket.
    Gone,
}

impl AfterStep {
    pub(super) fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// How a connection that is being closed goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// What it is counted as.
    pub(super) reason: CloseReason,
    /// Whether an ERROR may be sent: the stream is at a frame's boundary, and nothing waits for the
    /// socket.
    pub(super) is_clear: bool,
    /// Whether it was being read, so that the socket's readiness is known.
    pub(super) was_read: bool,
}

/// What a deadline that has passed demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Nothing has passed.
    Nothing,
    /// The end of lingering: it is over.
    Lingering,
    /// Close it.
    Close(CloseReason),
    /// Close it, unless what it sent lies unread in the socket because the edge itself was busy.
    Silent,
    /// Nothing has passed; but it is not read, so only asking shows whether its peer is gone.
    Unread,
}

impl<S> Connection<S> {
    /// A connection that is accepted at `at`.
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
            armed: Turn::NONE,
            has_spoken: false,
            permit,
        }
    }

    /// Whether it counts against MAX_CONNECTIONS.
    pub(super) fn is_admitted(&self) -> bool {
        !self.permit.is_overflow()
    }

    /// Whether its end has not begun.
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

    /// Whether what it sends is read.
    pub(super) fn is_read(&self) -> bool {
        match self.stage {
            Stage::Handshake { .. } | Stage::Lingering { .. } => true,
            Stage::Refused { .. } => false,
            Stage::Served(_) => !self.session.is_paused(),
        }
    }

    /// Whether answers wait, so that nothing more may be taken from it.
    pub(super) fn is_blocked(&self) -> bool {
        match &self.stage {
            Stage::Handshake { .. } | Stage::Lingering { .. } => false,
            Stage::Refused { .. } => true,
            Stage::Served(served) => served.is_blocked(),
        }
    }

    /// Notes that bytes have come.
    pub(super) fn hear(&mut self) {
        self.has_spoken = true;
    }

    /// Stops reading while answers wait: the heartbeat deadline stands still from now on.
    pub(super) fn pause_if_blocked(&mut self, now: Mono) {
        if self.is_blocked() && self.served().is_some() {
            self.session.pause(now);
        }
    }

    /// Takes input again, beginning with what the session has kept, if nothing holds it up any
    /// longer. True if so.
    pub(super) fn resume(&mut self, now: Mono) -> bool {
        let may_go_on = self.served().is_some() && !self.is_read() && !self.is_blocked();
        if may_go_on {
            self.session.resume(now);
        }
        may_go_on
    }

    /// When something must have happened, in the shard's time.
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

    /// Which of its deadlines has passed.
    pub(super) fn overdue(&self, env: &Env, now: Mono) -> Overdue {
        match &self.stage {
            Stage::Lingering { until } if now >= *until => Overdue::Lingering,
            Stage::Lingering { .. } => Overdue::Nothing,
            Stage::Refused { due, .. } if now >= *due => Overdue::Close(CloseReason::AuthFailed),
            Stage::Refused { .. } => Overdue::Unread,
            Stage::Served(served) if served.is_stuck(env, now) => {
                Overdue::Close(CloseReason::SlowConsumer)
            }
            Stage::Handshake { .. } | Stage::Served(_) => {
                if self.silence(env, now).is_some() {
                    Overdue::Silent
                } else if self.is_read() {
                    Overdue::Nothing
                } else {
                    Overdue::Unread
                }
            }
        }
    }

    /// Why it is to be closed as silent, if so.
    pub(super) fn silence(&self, env: &Env, now: Mono) -> Option<CloseReason> {
        match self.stage {
            Stage::Handshake { .. } | Stage::Served(_) => {
                self.session.check_deadline(env.limits(), now)
            }
            Stage::Refused { .. } | Stage::Lingering { .. } => None,
        }
    }

    /// Why a handshake is closed whose room another one needs; none if it is no handshake. If the
    /// answer to a wrong AUTH was only to come late, it comes now.
    pub(super) fn eviction(&self, env: &Env) -> Option<CloseReason> {
        match self.stage {
            Stage::Handshake { .. } => Some(CloseReason::AuthTimeout {
                allowed: env.limits().auth_timeout,
            }),
            Stage::Refused { .. } => Some(CloseReason::AuthFailed),
            Stage::Served(_) | Stage::Lingering { .. } => None,
        }
    }

    /// Begins its end for `reason`: it gives back everything but its socket and slot. None if its
    /// end had begun already.
    pub(super) fn end(&mut self, reason: CloseReason, now: Mono) -> Option<Farewell> {
        let was_read = self.is_read();
        let until = now + LINGER;
        let is_clear = match std::mem::replace(&mut self.stage, Stage::Lingering { until }) {
            Stage::Handshake { .. } | Stage::Refused { .. } => true,
            Stage::Served(served) => served.outbox.is_none(),
            Stage::Lingering { .. } => return None,
        };
        let peer_ended = matches!(
            reason,
            CloseReason::ClientClosed | CloseReason::ConnectionLost
        );
        Some(Farewell {
            reason: if peer_ended && !self.has_spoken {
                CloseReason::HealthCheck
            } else {
                reason
            },
            is_clear,
            was_read,
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

    /// 100,000 lie in memory.
    #[test]
    fn a_connection_is_small() {
        let connection = size_of::<Connection<TcpStream>>();
        assert!(connection <= 256, "a connection has {connection} bytes");
    }
}
