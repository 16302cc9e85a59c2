//! Deadlines: AUTH's, the heartbeat's, the write deadline, a late answer's and the end of lingering. The wheel says whom to look
//! at; here it is decided whether a deadline has really passed, and what follows.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use socket2::SockRef;
use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::Mono;

use super::Shard;
use super::connection::{Connection, Phase, State};
use super::wheel::{TURN, Turn};

impl Shard {
    /// Puts a connection into the wheel for its next deadline, unless it stands there for an earlier turn.
    pub(super) fn arm(&self, connection: &Connection) {
        let mut state = connection.state.borrow_mut();
        let deadline = self.deadline(&state);
        self.arm_at(connection, &mut state, deadline);
    }

    /// Likewise for `deadline`.
    pub(super) fn arm_at(&self, connection: &Connection, state: &mut State, deadline: Mono) {
        let mut wheel = self.wheel.borrow_mut();
        if wheel.turn_of(deadline) < state.armed {
            state.armed = wheel.arm(connection.key, deadline);
        }
    }

    fn deadline(&self, state: &State) -> Mono {
        if let Phase::Lingering(until) = state.phase {
            return until;
        }
        let stuck = state.outbox.as_ref().map_or(Mono::NEVER, |outbox| {
            outbox.progress + self.settings().write_deadline
        });
        let silent = state.session.deadline(self.limits());
        silent.min(stuck).min(state.refusal_due)
    }

    /// Turns the wheel until the shard ends.
    pub(super) async fn turn_wheel(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TURN).await;
            let now = self.time.now();
            self.vitals
                .turned
                .store(self.time.mono().as_nanos(), Ordering::Relaxed);
            let mut due = Vec::new();
            self.wheel.borrow_mut().turn(now, &mut due);
            for (key, turn) in due {
                if let Some(connection) = self.at(key.slot).filter(|found| found.key == key) {
                    self.look_at(&connection, turn);
                }
            }
        }
    }

    /// A connection's turn has come: acts on the deadline that has passed, if one has.
    fn look_at(self: &Rc<Self>, connection: &Rc<Connection>, turn: Turn) {
        let mut state = connection.state.borrow_mut();
        if state.armed != turn {
            return;
        }
        state.armed = Turn::NONE;
        let now = self.time.now();
        if let Phase::Lingering(until) = state.phase {
            drop(state);
            if now >= until {
                self.remove(connection);
                return;
            }
        } else if now >= state.refusal_due {
            drop(state);
            self.close(connection, CloseReason::AuthFailed);
        } else if self.is_stuck(&state, now) {
            drop(state);
            self.close(connection, CloseReason::SlowConsumer);
        } else if state.session.check_deadline(self.limits(), now).is_some() {
            drop(state);
            // What it sent may lie in the socket unread because the edge itself was busy.
            self.read_late(connection);
            let state = connection.state.borrow();
            let verdict = state.session.check_deadline(self.limits(), now);
            let is_open = state.phase == Phase::Open;
            drop(state);
            if let (Some(reason), true) = (verdict, is_open) {
                self.close(connection, reason);
            }
        } else if !state.is_read {
            drop(state);
            // Nobody reads it, so nobody else hears from keepalive that its peer is gone.
            if let Ok(Some(error)) = SockRef::from(&connection.stream).take_error() {
                self.fail(connection, &error);
            }
        } else {
            drop(state);
        }
        if connection.state.borrow().phase != Phase::Gone {
            self.arm(connection);
        }
    }

    fn is_stuck(&self, state: &State, now: Mono) -> bool {
        let deadline = self.settings().write_deadline;
        state
            .outbox
            .as_ref()
            .is_some_and(|outbox| now >= outbox.progress + deadline)
    }
}
