//! Property tests: whatever arrives from the network, in any order and with any settings, nothing
//! panics, overflows, spins or grows without bound.

use std::time::Duration;

use proptest::prelude::*;
use tickstorm_timebase::{
    Announcement, Epoch, Mode, Mono, Reply, Request, Schedule, Timekeeper, TimekeeperConfig,
    UnixTime, plan,
};

use crate::edge::{RESUME_WINDOW, clock_id};

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Reply {
        round: u64,
        id: u8,
        times: [i64; 2],
        timeline: u64,
        rank: u32,
    },
    Announcement {
        id: u8,
        minute: bool,
        epoch_ms: i64,
        timeline: u64,
    },
}

/// Generates any number, biased towards plausible times.
fn time(unit: i64) -> impl Strategy<Value = i64> {
    let now = 1_700_000_040_i64 * unit;
    prop_oneof![
        any::<i64>(),
        Just(i64::MIN),
        Just(i64::MAX),
        (-20..20_i64).prop_map(move |seconds| now + seconds * unit),
        (-unit..unit).prop_map(move |fraction| now + fraction),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let timeline = || prop_oneof![Just(1_u64), Just(2), any::<u64>()];
    let pass_ns = prop_oneof![
        20 => 0..50_000_000_u64,
        10 => 0..5_000_000_000_u64,
        1 => 0..u64::MAX / 1_000,
    ];
    let times = prop_oneof![
        time(1_000_000).prop_map(|both| [both, both]),
        [time(1_000_000), time(1_000_000)],
    ];
    let reply = (0..12_u64, any::<u8>(), times, timeline(), any::<u32>());
    let announcement = (any::<u8>(), any::<bool>(), time(1_000), timeline());
    prop_oneof![
        3 => pass_ns.prop_map(Event::Pass),
        5 => reply.prop_map(|(round, id, times, timeline, rank)| {
            Event::Reply { round, id, times, timeline, rank }
        }),
        2 => announcement.prop_map(|(id, minute, epoch_ms, timeline)| {
            Event::Announcement { id, minute, epoch_ms, timeline }
        }),
    ]
}

/// Maps most ids to three clocks, and each of the others to its own clock.
fn name(id: u8) -> String {
    if id < 200 {
        format!("clock-{}", id % 3)
    } else {
        format!("clock-{id}")
    }
}

struct Edge {
    keeper: Timekeeper,
    schedules: [Schedule; 2],
    now: Mono,
    nonce: u64,
}

impl Edge {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Pass(ns) => self.now = self.now + Duration::from_nanos(ns),
            Event::Reply {
                round,
                id,
                times: [received_unix_us, sent_unix_us],
                timeline,
                rank,
            } => {
                let reply = Reply {
                    nonce: self.nonce.wrapping_sub(round),
                    clock_id: clock_id(&name(id)),
                    rank,
                    received_unix_us,
                    sent_unix_us,
                    clock_error_us: rank,
                    synchronized: false,
                    timeline,
                };
                let _ = self.keeper.handle_reply(&reply, self.now);
            }
            Event::Announcement {
                id,
                minute,
                epoch_ms,
                timeline,
            } => {
                let announcement = Announcement {
                    mode: if minute { Mode::Minute } else { Mode::Second },
                    epoch: Epoch::from_ms(epoch_ms),
                    clock_id: clock_id(&name(id)),
                    rank: 0,
                    sent_unix_us: epoch_ms,
                    timeline,
                };
                let _ = self.keeper.handle_announcement(&announcement, self.now);
            }
        }
    }

    fn turn(&mut self) -> Result<(), TestCaseError> {
        let now = self.now;
        self.keeper.poll(now);
        let next = self.nonce.wrapping_add(1);
        let asked = self.keeper.poll_request(now, || next);
        self.nonce = asked.unwrap_or(self.nonce);
        prop_assert!(self.keeper.next_deadline() > now, "the driver would spin");
        prop_assert!(self.keeper.status(now).clocks.len() <= 64);
        let Some(authority) = self.keeper.authority() else {
            return Ok(());
        };
        prop_assert!(authority.is_valid(now));
        for schedule in &mut self.schedules {
            let before = schedule.last(&authority);
            let mut ticks = Vec::new();
            schedule.poll(&authority, now, &mut ticks);
            prop_assert!(ticks.len() <= 601);
            prop_assert!(ticks.first().is_none_or(|tick| tick.epoch > before));
            prop_assert!(ticks.is_sorted_by(|one, next| one.epoch < next.epoch));
            prop_assert!(schedule.next_due(&authority) > now, "the shard would spin");
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_hostile_network_does_no_harm(
        tolerance_ms in prop_oneof![Just(20_u64), 1..=10_000_u64],
        holdover_ms in prop_oneof![Just(60_000_u64), 1_000..=3_600_000_u64],
        configured in any::<bool>(),
        events in prop::collection::vec(event(), 1..300),
    ) {
        let configured_ids: &[&str] = if configured { &["clock-0", "clock-1"] } else { &[] };
        let clocks = configured_ids.iter().map(|id| clock_id(id)).collect();
        let config = TimekeeperConfig {
            clocks,
            tolerance: Duration::from_millis(tolerance_ms),
            holdover_max: Duration::from_millis(holdover_ms),
        };
        let mut edge = Edge {
            keeper: Timekeeper::new(config, Mono::ZERO),
            schedules: Mode::ALL.map(|mode| Schedule::new(mode, Duration::ZERO, RESUME_WINDOW)),
            now: Mono::ZERO,
            nonce: 0,
        };
        for event in events {
            edge.apply(event);
            edge.turn()?;
        }
    }

    #[test]
    fn the_bounds_of_a_plan_are_in_order(
        mode in prop_oneof![Just(Mode::Second), Just(Mode::Minute)],
        ahead: bool,
        resume_after in prop::option::of(time(1_000)),
        time_ms in 1_700_000_000_000_i64..1_700_000_100_000,
        released_s in -20_i64..20,
        released_ahead_s in prop::option::of(-20_i64..20),
        window_s in 0..3_600_u64,
    ) {
        let now = Epoch::from_ms(time_ms);
        let near = |seconds: i64| mode.floor(Epoch::from_ms(time_ms + seconds * 1_000));
        let request = Request { mode, ahead, resume_after: resume_after.map(Epoch::from_ms) };
        let released = near(released_s);
        let window = Duration::from_secs(window_s);
        let planned = plan(&request, now.time(), released, released_ahead_s.map(near), window);
        let Ok(plan) = planned else {
            let latest = now.time().saturating_add(Duration::from_secs(15));
            prop_assert!(request.resume_after.is_some_and(|point| point.time() > latest));
            return Ok(());
        };
        prop_assert!(plan.start <= plan.replay_until && plan.replay_until <= plan.ahead_until);
        prop_assert!(request.resume_after.is_none_or(|point| point <= plan.start));
        prop_assert!(plan.replay_until >= released);
        // The replay is limited by the window, plus the lead of a feed over authority time that has
        // stepped back a little.
        let most = Duration::from_secs(window_s + 20 + 60);
        let oldest: UnixTime = plan.replay_until.time().saturating_sub(most);
        prop_assert!(plan.start.time() >= oldest);
    }

    #[test]
    fn extreme_points_and_times_do_not_overflow_a_plan(
        mode in prop_oneof![Just(Mode::Second), Just(Mode::Minute)],
        ahead: bool,
        resume_after in prop::option::of(time(1_000)),
        time_ns in time(1_000_000_000),
        released in time(1_000),
        released_ahead in prop::option::of(time(1_000)),
        window in any::<u64>().prop_map(Duration::from_secs),
    ) {
        let request = Request { mode, ahead, resume_after: resume_after.map(Epoch::from_ms) };
        let released = Epoch::from_ms(released);
        let released_ahead = released_ahead.map(Epoch::from_ms);
        let now = UnixTime::from_nanos(time_ns);
        if let Ok(plan) = plan(&request, now, released, released_ahead, window) {
            prop_assert!(plan.start <= plan.replay_until && plan.replay_until <= plan.ahead_until);
        }
    }
}
