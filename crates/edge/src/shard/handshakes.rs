//! The steps of TLS handshakes. Each takes up to a millisecond, so they wait while a tick is almost
//! due, and while ticks are being sent.

use std::time::Duration;

use tickstorm_timebase::{Clock, Mono};

use super::turn::Shard;
use crate::sys::network::{Network, Readiness};

/// The time before a tick in which no step of a handshake starts. A signature by an RSA key of
/// 2,048 bits takes about 1 ms.
const MARGIN: Duration = Duration::from_millis(3);

/// The longest time for which handshakes wait for a fan-out. An edge that sends without a pause, or
/// nearly so, would otherwise admit nobody.
const PATIENCE: Duration = Duration::from_millis(500);

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

    /// Takes the next steps of handshakes.
    pub(super) fn shake_hands(&mut self, until: Mono) {
        loop {
            let at = self.time.read_clock();
            if !self.fits_before_tick(at.mono) {
                return;
            }
            let Some(token) = self.waiting.handshakes.pop_front() else {
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
            self.waiting.shook_hands = at.mono;
            if at.mono >= until || self.driver.buffered.is_over() {
                return;
            }
        }
    }
}
