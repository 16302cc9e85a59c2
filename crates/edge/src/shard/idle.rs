//! What a shard does when it has no work: it waits for events, or spins until a tick is due.

use std::hint;
use std::io;

use tickstorm_timebase::{Clock, Mono};

use super::release::IdleAction;
use super::time::STALL;
use super::turn::Shard;
use super::work_kind::WorkKind;
use crate::sys::network::{Network, WaitFor};

/// How a turn continues after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterWait {
    /// It serves what has arrived.
    Serve,
    /// It ends: a tick is due, or what was read before the wait may no longer be true.
    EndTurn,
}

impl<N: Network, C: Clock> Shard<N, C> {
    /// Looks for events. Waits for them if there is nothing else to do at `mono`, and no feed
    /// `is_sending`.
    ///
    /// # Errors
    /// Fails if waiting for the network fails.
    pub(super) fn await_events(&mut self, is_sending: bool, mono: Mono) -> io::Result<AfterWait> {
        let is_busy = is_sending
            || self.waiting.commands
            || WorkKind::ALL
                .into_iter()
                .any(|kind| self.has_work(kind, mono));
        let idle = if is_busy {
            IdleAction::Wait(WaitFor::None)
        } else {
            self.idle(mono)
        };
        match idle {
            IdleAction::Wait(WaitFor::None) => {
                let events = &mut self.waiting.events;
                self.driver.network.wait(WaitFor::None, events)?;
                Ok(AfterWait::Serve)
            }
            IdleAction::Wait(wait_for) => {
                self.turns.begin_wait();
                let events = &mut self.waiting.events;
                self.driver.network.wait(wait_for, events)?;
                let woken = self.time.read_clock().mono;
                self.turns.end_wait(woken);
                // The time may have changed meanwhile, and must be applied before anything that
                // waits is served. The clock must be read before the suspension is looked for.
                let has_stood_still = self.notice_suspension() || woken.since(mono) > STALL;
                Ok(if has_stood_still {
                    AfterWait::EndTurn
                } else {
                    AfterWait::Serve
                })
            }
            IdleAction::Spin(until) => {
                self.turns.begin_wait();
                let mut now = self.time.read_clock().mono;
                while now < until {
                    hint::spin_loop();
                    now = self.time.read_clock().mono;
                }
                self.turns.end_wait(now);
                Ok(AfterWait::EndTurn)
            }
        }
    }

    /// Returns how to wait when there is nothing to do at `mono`.
    fn idle(&mut self, mono: Mono) -> IdleAction {
        let replays = self.replays_due(mono);
        let departures = self.departures_due(mono);
        let driver = &mut self.driver;
        let batch = match driver.env.ticking_authority(mono) {
            Some(_) => driver.feeds.next_batch(),
            None => Mono::NEVER,
        };
        let other = batch
            .min(self.waiting.wheel_due)
            .min(self.acceptor.due())
            .min(departures)
            .min(replays);
        let spins = driver.env.settings().spin && driver.feeds.have_subscribers();
        self.timer.idle(mono, self.due.next_tick(), other, spins)
    }
}
