//! An edge without sockets: a timekeeper and its feeds' schedules, driven in virtual time.

use std::time::Duration;

use tickstorm_timebase::{
    Announcement, Authority, ClockId, Epoch, Mode, Mono, Refused, Reply, Schedule, Tick,
    Timekeeper, TimekeeperConfig,
};

pub(crate) const TOLERANCE: Duration = Duration::from_millis(20);
pub(crate) const HOLDOVER_MAX: Duration = Duration::from_secs(60);
pub(crate) const RESUME_WINDOW: Duration = Duration::from_secs(600);
pub(crate) const AHEAD: Duration = Duration::from_millis(800);

/// A released tick, and when it was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) at: Mono,
    pub(crate) generation: u32,
    pub(crate) tick: Tick,
}

/// One feed and the ticks that it has released.
pub(crate) struct Feed {
    pub(crate) schedule: Schedule,
    pub(crate) released: Vec<Released>,
}

impl Feed {
    fn new(mode: Mode, lead: Duration) -> Self {
        Self {
            schedule: Schedule::new(mode, lead, RESUME_WINDOW),
            released: Vec::new(),
        }
    }

    fn poll(&mut self, authority: &Authority, now: Mono) {
        let mut ticks = Vec::new();
        self.schedule.poll(authority, now, &mut ticks);
        let generation = authority.generation();
        self.released.extend(ticks.into_iter().map(|tick| Released {
            at: now,
            generation,
            tick,
        }));
    }
}

/// An edge with its settings at their defaults.
pub(crate) struct Edge {
    pub(crate) keeper: Timekeeper,
    pub(crate) now: Mono,
    pub(crate) second: Feed,
    pub(crate) minute: Feed,
    pub(crate) ahead: Feed,
    /// The number of the latest request.
    nonce: u64,
    /// The latest generation; `steps` counts its changes since the last [`Edge::take_steps`].
    generation: Option<u32>,
    steps: u32,
}

impl Edge {
    pub(crate) fn new(clocks: &[&str]) -> Self {
        let clocks = clocks.iter().map(|id| clock_id(id)).collect();
        let config = TimekeeperConfig {
            clocks,
            tolerance: TOLERANCE,
            holdover_max: HOLDOVER_MAX,
        };
        Self {
            keeper: Timekeeper::new(config, Mono::ZERO),
            now: Mono::ZERO,
            second: Feed::new(Mode::Second, Duration::ZERO),
            minute: Feed::new(Mode::Minute, Duration::ZERO),
            ahead: Feed::new(Mode::Second, AHEAD),
            nonce: 0,
            generation: None,
            steps: 0,
        }
    }

    /// Runs every timer up to `now` exactly when it is due, except requests, which the caller makes
    /// with [`Self::ask`].
    pub(crate) fn run_until(&mut self, now: Mono) {
        loop {
            let due = self.next_due();
            if due > now {
                break;
            }
            self.now = self.now.max(due);
            self.turn();
        }
        self.now = self.now.max(now);
    }

    /// Suspends the machine until `now`.
    pub(crate) fn sleep_until(&mut self, now: Mono) {
        self.now = now;
    }

    pub(crate) fn ask(&mut self) -> Option<u64> {
        // Each number differs much from those before it, as random ones do.
        self.nonce = self.nonce.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.keeper.poll_request(self.now, || self.nonce)
    }

    pub(crate) fn handle_reply(&mut self, reply: &Reply) -> Result<(), Refused> {
        self.keeper.handle_reply(reply, self.now)
    }

    pub(crate) fn announce(
        &mut self,
        clock: &str,
        mode: Mode,
        epoch: Epoch,
        timeline: u64,
    ) -> Result<(), Refused> {
        let clock_id = clock_id(clock);
        let announcement = Announcement {
            mode,
            epoch,
            clock_id,
            rank: 0,
            sent_unix_us: 0,
            timeline,
        };
        self.keeper.handle_announcement(&announcement, self.now)
    }

    pub(crate) fn authority(&self) -> Option<Authority> {
        self.keeper.authority()
    }

    /// Returns when the next timer is due, not counting requests.
    pub(crate) fn next_due(&self) -> Mono {
        let feeds = [&self.second, &self.minute, &self.ahead];
        let ticks = self
            .authority()
            .into_iter()
            .flat_map(|authority| feeds.map(|feed| feed.schedule.next_due(&authority)));
        ticks.fold(self.keeper.next_change(), Mono::min)
    }

    /// Returns how often all subscriptions ended with TIME_STEPPED since the last call.
    pub(crate) fn take_steps(&mut self) -> u32 {
        std::mem::take(&mut self.steps)
    }

    fn turn(&mut self) {
        self.keeper.poll(self.now);
        let Some(authority) = self.authority() else {
            return;
        };
        let generation = Some(authority.generation());
        if self.generation != generation {
            self.steps += u32::from(self.generation.is_some());
            self.generation = generation;
        }
        for feed in [&mut self.second, &mut self.minute, &mut self.ahead] {
            feed.poll(&authority, self.now);
        }
    }
}

pub(crate) fn clock_id(id: &str) -> ClockId {
    id.parse().unwrap()
}

pub(crate) fn micros(us: u64) -> Mono {
    Mono::from_nanos(us * 1_000)
}
