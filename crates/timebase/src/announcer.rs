//! [`Announcer`]: the clock's side. Which ticks to announce, what to answer, and under which timeline. It trusts its host's clock
//! and knows nothing of other clocks or of edges.

use std::time::Duration;

use crate::clock_id::ClockId;
use crate::grid::{Epoch, Mode};
use crate::host::HostReading;
use crate::message::{Announcement, Reply};
use crate::mono::Mono;

/// By how much REALTIME − MONOTONIC must have moved on a timeline to be called a step: far more than a reading is off by, far less
/// than CLOCK_TOLERANCE.
const STEP_NS: u64 = 1_000_000;

/// From one timeline to the next: any odd number does, since the first one is random (this is 2^64 over the golden ratio).
const TIMELINE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a clock replica says and when.
#[derive(Clone, Debug)]
pub struct Announcer {
    clock_id: ClockId,
    rank: u32,
    lead: Duration,
    timeline: u64,
    /// The latest reading and the machine's own time at it.
    host: HostReading,
    read_at: Mono,
    /// REALTIME − MONOTONIC at the timeline's beginning: several small steps add up.
    timeline_real_minus_mono_ns: i64,
    announced: [(Mode, Epoch); 2],
}

impl Announcer {
    /// A clock that announces each tick `lead` (TICK_LEAD_MS) before its time, from the first tick after `host` on. `timeline` is
    /// random: no two clocks, and no two starts of one, may share it.
    #[must_use]
    pub fn new(
        clock_id: ClockId,
        rank: u32,
        lead: Duration,
        timeline: u64,
        host: HostReading,
        now: Mono,
    ) -> Self {
        Self {
            clock_id,
            rank,
            lead,
            timeline,
            host,
            read_at: now,
            timeline_real_minus_mono_ns: host.real_minus_mono_ns,
            announced: Mode::ALL.map(|mode| (mode, mode.last_at(host.unix))),
        }
    }

    /// Takes a reading of the host's clock, due before each announcement. True where the clock was stepped since the timeline's
    /// beginning: it has another one from now on, under which everything within the lead is announced anew.
    pub fn handle_host(&mut self, host: HostReading, now: Mono) -> bool {
        self.host = host;
        self.read_at = now;
        let moved = host
            .real_minus_mono_ns
            .abs_diff(self.timeline_real_minus_mono_ns);
        if moved <= STEP_NS {
            return false;
        }
        self.timeline = self.timeline.wrapping_add(TIMELINE_STEP);
        self.timeline_real_minus_mono_ns = host.real_minus_mono_ns;
        self.announce_anew();
        true
    }

    /// Lets [`Self::poll`] give once more what is still to come: for when the connection was lost and is back.
    pub fn announce_anew(&mut self) {
        self.announced = Mode::ALL.map(|mode| (mode, mode.last_at(self.host.unix)));
    }

    /// Appends to `out` the announcements that are due at the latest reading, each mode's in order. Those of ticks whose time has
    /// passed are left out: a later one vouches for them too.
    pub fn poll(&mut self, out: &mut Vec<Announcement>) {
        let horizon = self.host.unix.saturating_add(self.lead);
        for (mode, announced) in &mut self.announced {
            let until = mode.last_at(horizon);
            let mut epoch = mode.next_after(mode.last_at(self.host.unix).max(*announced));
            while epoch <= until {
                out.push(Announcement {
                    mode: *mode,
                    epoch,
                    clock_id: self.clock_id.clone(),
                    rank: self.rank,
                    sent_unix_us: self.host.unix.as_micros(),
                    timeline: self.timeline,
                });
                *announced = epoch;
                epoch = mode.next_after(epoch);
            }
        }
    }

    /// When the next announcement is due, as far as the latest reading tells. Wake then, read the host's clock again, and poll.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let next = |(mode, announced): &(Mode, Epoch)| {
            mode.next_after(mode.last_at(self.host.unix).max(*announced))
                .time()
        };
        let due = self
            .announced
            .iter()
            .map(next)
            .min()
            .map(|next| next.saturating_sub(self.lead));
        let wait_ns = due.map_or(0, |due| {
            due.as_nanos().saturating_sub(self.host.unix.as_nanos())
        });
        self.read_at + Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(0))
    }

    /// Answers the time request `nonce`, read at `received` and answered at `sent`. Where the host's clock was stepped between the
    /// two, the first says nothing any more and the second stands for both.
    pub fn answer(
        &mut self,
        nonce: u64,
        received: HostReading,
        sent: HostReading,
        now: Mono,
        clock_error_us: u32,
        synchronized: bool,
    ) -> Reply {
        self.handle_host(received, now);
        let stepped = self.handle_host(sent, now);
        let received = if stepped { sent } else { received };
        Reply {
            nonce,
            clock_id: self.clock_id.clone(),
            rank: self.rank,
            received_unix_us: received.unix.as_micros(),
            sent_unix_us: sent.unix.as_micros(),
            clock_error_us,
            synchronized,
            timeline: self.timeline,
        }
    }

    /// The present timeline.
    #[must_use]
    pub const fn timeline(&self) -> u64 {
        self.timeline
    }
}

#[cfg(test)]
mod tests;
