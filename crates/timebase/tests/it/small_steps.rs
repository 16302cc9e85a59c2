//! An edge and one clock on a network with varying delays. Whether the clock is stepped a little or
//! the edge's machine stalls for a moment, the error bound must soon be true again.

use std::time::Duration;

use tickstorm_timebase::{Alarm, Announcer, HostReading, Mono, UnixTime};

use crate::edge::{Edge, clock_id};
use crate::simulation::world::Dice;

const BASE_NS: i64 = 1_700_000_040_000_000_000;
/// Times travel in whole microseconds, and so do bounds here.
const ROUNDING_NS: u64 = 2_000;
/// The largest step of a clock that does not count as one.
const UNNOTICED_NS: u64 = 100_000;

/// What happens to the machines.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The clock's host is stepped by this many nanoseconds.
    Step(i64),
    /// The edge's machine, with its clock, stalls for this many nanoseconds.
    Freeze(i64),
}

struct Line {
    dice: Dice,
    edge: Edge,
    announcer: Announcer,
    /// The host's time minus the edge's own.
    offset_ns: i64,
    real_minus_mono_ns: i64,
    /// How much slower the edge's machine runs than the host, in parts per million.
    slower_ppm: i64,
    /// The range of the delay of a message each way, in microseconds, and of one message in ten.
    delay_us: (i64, i64),
    spike_us: (i64, i64),
}

impl Line {
    fn new(seed: u64, delay_us: (i64, i64), spike_us: (i64, i64)) -> Self {
        let host = HostReading {
            unix: UnixTime::from_nanos(BASE_NS),
            real_minus_mono_ns: BASE_NS,
        };
        let lead = Duration::from_millis(1_500);
        Self {
            dice: Dice(seed),
            edge: Edge::new(&["a"]),
            announcer: Announcer::new(clock_id("a"), 0, lead, 1, host, Mono::ZERO),
            offset_ns: BASE_NS,
            real_minus_mono_ns: BASE_NS,
            slower_ppm: 0,
            delay_us,
            spike_us,
        }
    }

    fn read(&self, now: Mono) -> HostReading {
        let now_ns = i64::try_from(now.as_nanos()).unwrap();
        HostReading {
            unix: UnixTime::from_nanos(
                self.offset_ns + now_ns + now_ns / 1_000_000 * self.slower_ppm,
            ),
            real_minus_mono_ns: self.real_minus_mono_ns,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Step(ns) => {
                self.offset_ns += ns;
                self.real_minus_mono_ns += ns;
            }
            Event::Freeze(ns) => self.offset_ns += ns,
        }
    }

    fn delay(&mut self) -> Duration {
        let spike = self.dice.percent(10);
        let (from, to) = if spike { self.spike_us } else { self.delay_us };
        self.dice.micros(from, to)
    }

    /// Runs until `until`, and returns by how much the error exceeded the bound at most.
    fn run_until(&mut self, until: Mono) -> u64 {
        let mut excess_ns = 0;
        while self.edge.keeper.next_request() <= until {
            let at = self.edge.keeper.next_request().max(self.edge.now);
            self.edge.run_until(at);
            let Some(nonce) = self.edge.ask() else {
                continue;
            };
            let read_at = at + self.delay();
            let host = self.read(read_at);
            let reply = self.announcer.answer(nonce, host, host, read_at, 0, true);
            let heard_at = read_at + self.delay();
            self.edge.run_until(heard_at);
            self.edge.handle_reply(&reply).unwrap();
            // The round ends 40 ms after the request.
            self.edge.run_until(at + Duration::from_millis(40));
            excess_ns = excess_ns.max(self.excess_ns());
        }
        self.edge.run_until(until);
        excess_ns
    }

    /// Returns by how much the error exceeds the bound now.
    fn excess_ns(&self) -> u64 {
        let now = self.edge.now;
        let Some(authority) = self.edge.authority() else {
            return 0;
        };
        let error_ns = authority
            .time_at(now)
            .as_nanos()
            .abs_diff(self.read(now).unix.as_nanos());
        let bound_ns = u64::from(authority.bound_us(now)) * 1_000 + ROUNDING_NS;
        error_ns.saturating_sub(bound_ns)
    }
}

/// Lets `event` happen some seconds after the start. Returns by how much the error exceeded the
/// bound from the end of the next round on.
fn excess_after(event: Event, seed: u64, delay_us: (i64, i64), spike_us: (i64, i64)) -> u64 {
    let mut line = Line::new(seed, delay_us, spike_us);
    let at = Mono::ZERO + line.dice.micros(2_000_000, 14_000_000);
    assert_eq!(line.run_until(at), 0, "seed {seed}");
    line.apply(event);
    line.run_until(at + Duration::from_secs(30))
}

#[test]
fn the_bound_holds_from_the_next_round_after_a_step_of_a_tenth_of_a_millisecond() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let size = dice.between(101_000, 1_200_000);
        let step = Event::Step(dice.pick(&[-1, 1]) * size);
        for spike_us in [(60, 300), (1_000, 4_000), (5_000, 18_000)] {
            let excess_ns = excess_after(step, seed, (60, 300), spike_us);
            assert_eq!(excess_ns, 0, "seed {seed}, {step:?}, {spike_us:?}");
        }
    }
}

#[test]
fn a_step_too_small_to_count_exceeds_the_bound_by_no_more_than_its_size() {
    for seed in 0..400 {
        let size = Dice(seed).between(10_000, 100_000);
        let excess_ns = excess_after(Event::Step(size), seed, (20, 90), (300, 4_000));
        assert!(excess_ns <= UNNOTICED_NS, "seed {seed}: {excess_ns} ns");
    }
}

#[test]
fn the_bound_holds_from_the_next_round_after_a_freeze_longer_than_three_bounds() {
    for seed in 0..400 {
        let size = Dice(seed).between(2_000_000, 10_000_000);
        // Every sample has a bound of at most 0.6 ms.
        let excess_ns = excess_after(Event::Freeze(size), seed, (60, 300), (300, 600));
        assert_eq!(excess_ns, 0, "seed {seed}, {size} ns");
    }
}

#[test]
fn the_bound_holds_on_a_machine_that_runs_too_fast_or_too_slow_once_that_is_measured() {
    for seed in 0..40 {
        for slower_ppm in [-3_000, -1_000, -260, -150, 0, 150, 260, 1_000, 3_000] {
            let mut line = Line::new(seed, (60, 300), (300, 4_000));
            line.slower_ppm = slower_ppm;
            line.run_until(Mono::ZERO + Duration::from_secs(90));
            let excess_ns = line.run_until(Mono::ZERO + Duration::from_secs(150));
            assert_eq!(excess_ns, 0, "seed {seed}, {slower_ppm} ppm");
            let status = line.edge.keeper.status(line.edge.now);
            let is_off = status.alarms.contains(&Alarm::Rate);
            assert_eq!(
                is_off,
                slower_ppm.abs() > 200,
                "{slower_ppm} ppm: {status:?}"
            );
            let seen_ppm = status.rate_ppb.unwrap() / 1_000;
            assert!(
                seen_ppm.abs_diff(-slower_ppm) < 60,
                "{slower_ppm} ppm: {status:?}"
            );

            // In holdover, nothing corrects the offset.
            line.edge.run_until(Mono::ZERO + Duration::from_secs(200));
            assert!(line.edge.authority().is_some());
            assert_eq!(line.excess_ns(), 0, "seed {seed}, {slower_ppm} ppm");
        }
    }
}

/// On a network whose delays are as long as the freeze, no single sample is sure to reveal it.
#[test]
fn a_freeze_as_long_as_the_networks_delays_is_seen_within_seconds() {
    let mut rounds_wrong = 0;
    for seed in 0..400 {
        let mut line = Line::new(seed, (80, 3_000), (3_000, 12_000));
        let at = Mono::ZERO + line.dice.micros(2_000_000, 14_000_000);
        line.run_until(at);
        let size = line.dice.between(2_000_000, 10_000_000);
        line.apply(Event::Freeze(size));
        for round in 1..=30 {
            let excess_ns = line.run_until(at + Duration::from_secs(round));
            rounds_wrong += u32::from(excess_ns > 0);
            assert!(round < 12 || excess_ns == 0, "seed {seed}, round {round}");
        }
    }
    println!("{rounds_wrong} rounds");
    assert!(rounds_wrong < 400, "{rounds_wrong} rounds in 400 runs");
}
