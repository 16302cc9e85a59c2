//! The steps of TLS handshakes. Each takes up to a millisecond, so they wait while a tick is almost
//! due, and while ticks are being sent.

use std::collections::VecDeque;
use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

use super::debugged::log_connection;
use super::turn::Shard;
use crate::sys::network::{HandshakeStep, Network, Readiness, Token};

/// The time before a tick in which no step of a handshake starts. A signature by an RSA key of
/// 2,048 bits takes about 1 ms.
const MARGIN: Duration = Duration::from_millis(3);

/// The longest time for which handshakes wait for a fan-out. An edge that sends without a pause, or
/// nearly so, would otherwise admit nobody.
const PATIENCE: Duration = Duration::from_millis(500);

/// The connections with input for their handshakes. New ones and those that have been answered take
/// turns: a flood of new ones would otherwise delay every handshake twice.
#[derive(Default)]
pub(super) struct HandshakeQueues {
    first: VecDeque<Token>,
    continued: VecDeque<Token>,
    is_turn_of_continued: bool,
}

impl HandshakeQueues {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.continued.is_empty()
    }

    pub(super) fn push(&mut self, step: HandshakeStep, token: Token) {
        match step {
            HandshakeStep::First => self.first.push_back(token),
            HandshakeStep::Continued => self.continued.push_back(token),
        }
    }

    fn pop(&mut self) -> Option<Token> {
        self.is_turn_of_continued = !self.is_turn_of_continued;
        let (one, other) = if self.is_turn_of_continued {
            (&mut self.continued, &mut self.first)
        } else {
            (&mut self.first, &mut self.continued)
        };
        one.pop_front().or_else(|| other.pop_front())
    }
}

impl<N: Network, C: Clock> Shard<N, C> {
    /// Returns whether a step of a handshake may start at `mono`.
    pub(super) fn may_shake_hands(&self, mono: Mono) -> bool {
        let must_wait = self.sending.busy_since.is_some_and(|since| {
            let waits_since = since.max(self.waiting.shook_hands);
            mono < waits_since + PATIENCE
        });
        !must_wait && self.fits_before_tick(mono)
    }

    fn fits_before_tick(&self, mono: Mono) -> bool {
        mono + MARGIN < self.due.next_tick()
    }

    /// Logs that the handshake of a connection has been completed by its last step, if it has.
    fn report_completed(&mut self, token: Token) {
        let network = &self.driver.network;
        if let Some(connection) = self.connections.reported(token)
            && connection.is_open()
            && network.handshake_step(&connection.socket).is_none()
        {
            let certificate = network.client_certificate(&connection.socket);
            log_connection!(
                &self.driver.env, connection.key.id, connection.peer;
                certificate_subject = certificate.map(|shown| display(&shown.subject)),
                "TLS handshake completed"
            );
        }
    }

    /// Takes the next steps of handshakes.
    pub(super) fn shake_hands(&mut self, until: Mono) {
        loop {
            let at = self.time.read_clock();
            if !self.fits_before_tick(at.mono) {
                return;
            }
            let Some(token) = self.waiting.handshakes.pop() else {
                return;
            };
            if let Some(connection) = self.connections.reported(token) {
                connection.is_handshake_queued = false;
            }
            // Events that came meanwhile are served too: the socket is read until it is empty.
            let readiness = Readiness {
                has_input: true,
                until_empty: true,
                takes_output: true,
            };
            self.handle_readiness(token, readiness, at);
            self.report_completed(token);
            self.waiting.shook_hands = at.mono;
            if at.mono >= until || self.driver.buffered.is_over() {
                return;
            }
        }
    }
}
