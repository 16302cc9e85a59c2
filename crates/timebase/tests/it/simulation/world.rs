//! What is around the simulated edge: dice, clocks on hosts that are nearly right, and what may go wrong with one of them.

use std::time::Duration;

use tickstorm_timebase::{Announcer, HostReading, Mono, UnixTime};

use crate::edge::clock_id;

const BASE_NS: i64 = 1_700_000_040_000_000_000;
const LEAD: Duration = Duration::from_millis(1_500);
/// How long a clock runs fast before it runs slow: it is disciplined, and stays near its fellows.
const SLEW_NS: u64 = 10_000_000_000;
/// How fast a runaway clock goes wrong.
const RUNAWAY_PPM: i64 = 1_000;

/// SplitMix64: a seed tells the whole story.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least `from`, less than `to`.
    pub(super) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.roll() % from.abs_diff(to)).unwrap()
    }

    pub(super) fn micros(&mut self, from: i64, to: i64) -> Duration {
        Duration::from_micros(u64::try_from(self.between(from, to)).unwrap())
    }

    pub(super) fn percent(&mut self, chance: i64) -> bool {
        self.between(0, 100) < chance
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll() % from.len() as u64).unwrap()]
    }
}

/// What the faulty clock does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Says nothing.
    Silent,
    /// Is stepped by up to hours, once.
    Step,
    /// Is stepped again and again.
    Steps,
    /// Is stepped by about the tolerance.
    Shift,
    /// Runs off.
    Runaway,
    /// Starts again and again.
    Restarts,
    /// Answers each request twice, under two timelines.
    TwoHosts,
    /// Says what can't be.
    Lies,
}

impl Fault {
    /// What one of two clocks may do at no cost, and one of three or more.
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
    /// Whether what the clock says of the time may be wrong.
    pub(super) fn falsifies(self) -> bool {
        ![Self::Silent, Self::Restarts].contains(&self)
    }
}

/// A host's time, as a function of the edge's own.
#[derive(Clone, Copy)]
pub(super) struct Host {
    offset_ns: i64,
    /// Its rate against the edge's machine, while it runs fast.
    rate_ppm: i64,
    stepped_ns: i64,
    runs_off_from: Option<Mono>,
}

impl Host {
    pub(super) fn roll(dice: &mut Dice) -> Self {
        Self {
            offset_ns: dice.between(-6_000_000, 6_000_000),
            rate_ppm: dice.between(-190, 191),
            stepped_ns: 0,
            runs_off_from: None,
        }
    }

    /// The host's time minus the edge's own.
    pub(super) fn offset_ns(&self, now: Mono) -> i64 {
        let phase = now.as_nanos() % (2 * SLEW_NS);
        let slewed = i64::try_from(phase.min(2 * SLEW_NS - phase)).unwrap() * self.rate_ppm;
        let ran = self
            .runs_off_from
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

    pub(super) fn run_off(&mut self, now: Mono) {
        self.runs_off_from = Some(now);
    }

    /// Is right again.
    pub(super) fn mend(&mut self) {
        self.stepped_ns = 0;
        self.runs_off_from = None;
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
