//! [`Announcer`]: the clock's side. It decides which ticks to announce, how to answer time
//! requests, and which timeline applies. It trusts its host's clock and knows nothing of other
//! clocks or of edges.

use std::time::Duration;

use crate::clock_id::ClockId;
use crate::grid::{Epoch, Mode};
use crate::host::HostReading;
use crate::message::{Announcement, Reply};
use crate::mono::Mono;

/// The change of REALTIME − MONOTONIC since the start of a timeline above which the host's clock
/// counts as stepped. It is about a hundred times the error of a reading. It is also about the
/// error bound of a good sample, so that a step that goes unnoticed makes no bound much too small.
const STEP_NS: u64 = 100_000;

/// The increment from one timeline to the next. Any odd number will do, since the first timeline is
/// random; this one is 2^64 divided by the golden ratio.
const TIMELINE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The announcements and answers of a clock replica.
#[derive(Clone, Debug)]
pub struct Announcer {
    clock_id: ClockId,
    rank: u32,
    lead: Duration,
    timeline: u64,
    /// The latest reading of the host's clock.
    host: HostReading,
    /// The machine's own time at that reading.
    read_at: Mono,
    /// REALTIME − MONOTONIC at the start of the timeline, so that several small steps add up.
    timeline_real_minus_mono_ns: i64,
    /// The last tick of each mode that needs no further announcement.
    announced: [(Mode, Epoch); 2],
}

impl Announcer {
    /// Creates a clock that announces each tick `lead` (TICK_LEAD_MS) before its time, starting
    /// with the first tick after `host`. `timeline` must be random: no two clocks, and no two
    /// starts of one clock, may share it.
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

    /// Handles a reading of the host's clock; call it before each announcement. Returns true if the
    /// clock was stepped since the start of the timeline. The announcer then moves to another
    /// timeline, on which all ticks within the lead are announced again.
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
        self.announce_again();
        true
    }

    /// Makes [`Self::poll`] repeat the announcements of ticks that are still to come, for use after
    /// a reconnect.
    pub fn announce_again(&mut self) {
        self.announced = Mode::ALL.map(|mode| (mode, mode.last_at(self.host.unix)));
    }

    /// Appends to `out` the announcements that are due as of the latest reading, in order within
    /// each mode. Ticks whose time has passed are skipped, since a later announcement vouches for
    /// them.
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

    /// Returns when the next announcement is due, judging by the latest reading. At that time, read
    /// the host's clock again and poll.
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

    /// Answers the time request `nonce`, which was read at `received` and is answered at `sent`. If
    /// the host's clock was stepped between the two, `received` is meaningless and `sent` is used
    /// for both.
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

    /// Returns the current timeline.
    #[must_use]
    pub const fn timeline(&self) -> u64 {
        self.timeline
    }
}

#[cfg(test)]
mod tests;
