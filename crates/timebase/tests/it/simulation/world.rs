//! The simulated edge's surroundings: dice, clocks on hosts that are nearly right, and the faults
//! that one of the clocks may have.

use std::time::Duration;

use tickstorm_timebase::{Announcer, HostReading, Mono, UnixTime};

use crate::edge::clock_id;

const BASE_NS: i64 = 1_700_000_040_000_000_000;
const LEAD: Duration = Duration::from_millis(1_500);
/// The time for which a clock runs fast before it runs slow: it is disciplined, and stays near the
/// others.
const SLEW_NS: u64 = 10_000_000_000;
/// The drift of a runaway clock.
const RUNAWAY_PPM: i64 = 1_000;

/// A SplitMix64 generator: the seed determines the whole run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number of at least `from` and less than `to`.
    pub(crate) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.roll() % from.abs_diff(to)).unwrap()
    }

    pub(crate) fn micros(&mut self, from: i64, to: i64) -> Duration {
        Duration::from_micros(u64::try_from(self.between(from, to)).unwrap())
    }

    pub(crate) fn percent(&mut self, chance: i64) -> bool {
        self.between(0, 100) < chance
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll() % from.len() as u64).unwrap()]
    }
}

/// The fault that the faulty clock has for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It sends nothing.
    Silent,
    /// It is stepped once, by up to two hours.
    Step,
    /// It is stepped repeatedly.
    Steps,
    /// It is stepped by about the tolerance, repeatedly.
    Shift,
    /// It runs away at [`RUNAWAY_PPM`].
    Runaway,
    /// It restarts repeatedly.
    Restarts,
    /// It answers each request twice, on two timelines.
    TwoHosts,
    /// It sends impossible values.
    Lies,
}

impl Fault {
    /// Returns the faults of one of `clocks` clocks that an edge must tolerate. With two clocks
    /// there are fewer than with three or more.
    pub(super) const fn of(clocks: usize) -> &'static [Self] {
        if clocks == 2 {
            return &[Self::Silent, Self::Step];
        }
        &[
            Self::Silent,
            Self::Step,
            Self::Steps,
            Self::Shift,
            Self::Runaway,
            Self::Restarts,
            Self::TwoHosts,
            Self::Lies,
        ]
    }
}

impl Fault {
    /// Returns whether the clock may send a wrong time.
    pub(super) fn falsifies(self) -> bool {
        ![Self::Silent, Self::Restarts].contains(&self)
    }
}

/// A host's time as a function of the edge's own time.
#[derive(Clone, Copy)]
pub(super) struct Host {
    offset_ns: i64,
    /// Its rate relative to the edge's machine while it runs fast.
    rate_ppm: i64,
    stepped_ns: i64,
    runs_away_from: Option<Mono>,
}

impl Host {
    pub(super) fn roll(dice: &mut Dice) -> Self {
        Self {
            offset_ns: dice.between(-6_000_000, 6_000_000),
            rate_ppm: dice.between(-190, 191),
            stepped_ns: 0,
            runs_away_from: None,
        }
    }

    /// Returns the host's time minus the edge's own.
    pub(super) fn offset_ns(&self, now: Mono) -> i64 {
        let phase = now.as_nanos() % (2 * SLEW_NS);
        let slewed = i64::try_from(phase.min(2 * SLEW_NS - phase)).unwrap() * self.rate_ppm;
        let ran = self
            .runs_away_from
            .map_or(0, |from| now.since(from).as_nanos());
        let ran = i64::try_from(ran).unwrap() * RUNAWAY_PPM;
        BASE_NS + self.offset_ns + self.stepped_ns + (slewed + ran) / 1_000_000
    }

    pub(super) fn unix_ns(&self, now: Mono) -> i64 {
        i64::try_from(now.as_nanos()).unwrap() + self.offset_ns(now)
    }

    pub(super) fn read(&self, now: Mono) -> HostReading {
        HostReading {
            unix: UnixTime::from_nanos(self.unix_ns(now)),
            real_minus_mono_ns: BASE_NS + self.stepped_ns,
        }
    }

    pub(super) fn step(&mut self, by_ns: i64) {
        self.stepped_ns += by_ns;
    }

    pub(super) fn run_away(&mut self, now: Mono) {
        self.runs_away_from = Some(now);
    }

    /// Returns to the right time.
    pub(super) fn fix(&mut self) {
        self.stepped_ns = 0;
        self.runs_away_from = None;
    }
}

/// A clock replica on its host.
pub(super) struct Clock {
    pub(super) id: &'static str,
    pub(super) host: Host,
    pub(super) announcer: Announcer,
}

impl Clock {
    pub(super) fn start(id: &'static str, host: Host, timeline: u64, now: Mono) -> Self {
        let reading = host.read(now);
        let announcer = Announcer::new(clock_id(id), 0, LEAD, timeline, reading, now);
        Self {
            id,
            host,
            announcer,
        }
    }
}
