//! Tests of a clock's announcements and answers, on a host whose time the test sets.

use super::*;
use crate::host::{HostClock, ManualHost};
use crate::unix::UnixTime;

const LEAD: Duration = Duration::from_millis(1_500);
const MINUTE_MS: i64 = 1_700_000_040_000;

/// A clock whose own time and host time advance together.
struct Clock {
    host: ManualHost,
    now: Mono,
    announcer: Announcer,
}

impl Clock {
    /// Starts a clock `ms` milliseconds after a whole minute.
    fn start(ms: i64) -> Self {
        let host = ManualHost::new(UnixTime::from_nanos((MINUTE_MS + ms) * 1_000_000));
        let now = Mono::from_nanos(1);
        let id = "clock-0".parse().unwrap();
        let announcer = Announcer::new(id, 3, LEAD, u64::MAX, host.read(), now);
        Self {
            host,
            now,
            announcer,
        }
    }

    fn pass(&mut self, ms: u64) {
        self.host.advance(Duration::from_millis(ms));
        self.now = self.now + Duration::from_millis(ms);
    }

    /// Polls at the current moment. Returns the announced ticks in milliseconds after the minute,
    /// and whether a step was detected.
    fn poll(&mut self) -> (Vec<(Mode, i64)>, bool) {
        let stepped = self.announcer.handle_host(self.host.read(), self.now);
        let mut out = Vec::new();
        self.announcer.poll(&mut out);
        assert!(
            out.iter()
                .all(|one| one.timeline == self.announcer.timeline())
        );
        let after_minute = |one: &Announcement| (one.mode, one.epoch.as_ms() - MINUTE_MS);
        (out.iter().map(after_minute).collect(), stepped)
    }

    fn announced(&mut self) -> Vec<(Mode, i64)> {
        self.poll().0
    }
}

fn seconds(ms: &[i64]) -> Vec<(Mode, i64)> {
    ms.iter().map(|&ms| (Mode::Second, ms)).collect()
}

#[test]
fn every_tick_of_both_modes_is_announced_once_at_its_lead() {
    let mut clock = Clock::start(100);
    assert_eq!(clock.announced(), seconds(&[1_000]));
    for second in 2..=180 {
        let due = clock.announcer.next_deadline();
        let wait = due.since(clock.now);
        clock.host.advance(wait);
        clock.now = due;
        let mut expected = seconds(&[second * 1_000]);
        if second % 60 == 0 {
            expected.push((Mode::Minute, second * 1_000));
        }
        assert_eq!(clock.announced(), expected);
        assert_eq!(clock.announced(), []);
        let read = clock.host.read().unix.as_millis();
        assert_eq!(read, MINUTE_MS + second * 1_000 - 1_500);
    }
}

#[test]
fn an_announcement_names_its_clock_time_and_timeline() {
    let mut clock = Clock::start(0);
    let mut out = Vec::new();
    clock.announcer.poll(&mut out);
    let expected = Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(MINUTE_MS + 1_000),
        clock_id: "clock-0".parse().unwrap(),
        rank: 3,
        sent_unix_us: MINUTE_MS * 1_000,
        timeline: u64::MAX,
    };
    assert_eq!(out, [expected]);
}

#[test]
fn a_stall_skips_only_announcements_that_would_be_late() {
    let mut clock = Clock::start(0);
    clock.announced();
    clock.pass(10_200);
    assert_eq!(clock.announced(), seconds(&[11_000]));
}

#[test]
fn a_step_changes_the_timeline_and_repeats_announcements_of_coming_ticks() {
    let mut clock = Clock::start(100);
    clock.announced();
    clock.pass(500);
    clock.announced();
    for by_ms in [-3_000, 3_600_000, -3_597_000] {
        let before = clock.announcer.timeline();
        clock.host.step(by_ms * 1_000_000);
        let (announced, stepped) = clock.poll();
        let next = clock.host.read().unix.as_millis() - MINUTE_MS;
        let next = next - next.rem_euclid(1_000) + 1_000;
        assert!(stepped);
        assert_ne!(clock.announcer.timeline(), before);
        assert_eq!(announced[..2], seconds(&[next, next + 1_000]));
        assert_eq!(clock.poll(), (vec![], false));
    }
}

#[test]
fn slewing_and_noise_are_not_a_step_but_small_steps_add_up() {
    let mut clock = Clock::start(100);
    let timeline = clock.announcer.timeline();
    for by_ns in [40_000, -80_000, 90_000, 50_000] {
        clock.host.step(by_ns);
        assert!(!clock.poll().1);
    }
    clock.host.step(1);
    assert!(clock.poll().1);
    assert_ne!(clock.announcer.timeline(), timeline);
}

#[test]
fn after_a_lost_connection_coming_ticks_are_announced_again() {
    let mut clock = Clock::start(58_600);
    let both = [
        (Mode::Second, 59_000),
        (Mode::Second, 60_000),
        (Mode::Minute, 60_000),
    ];
    assert_eq!(clock.announced(), both);
    clock.announcer.announce_again();
    assert_eq!(clock.announced(), both);
    clock.pass(500);
    clock.announcer.announce_again();
    assert_eq!(clock.announced(), both[1..]);
}

#[test]
fn an_answer_contains_both_times() {
    let mut clock = Clock::start(0);
    let received = clock.host.read();
    clock.pass(2);
    let reply = clock
        .announcer
        .answer(7, received, clock.host.read(), clock.now, 40, true);
    let expected = Reply {
        nonce: 7,
        clock_id: "clock-0".parse().unwrap(),
        rank: 3,
        received_unix_us: MINUTE_MS * 1_000,
        sent_unix_us: MINUTE_MS * 1_000 + 2_000,
        clock_error_us: 40,
        synchronized: true,
        timeline: u64::MAX,
    };
    assert_eq!(reply, expected);
}

#[test]
fn an_answer_never_mixes_two_timelines() {
    let mut clock = Clock::start(0);
    let received = clock.host.read();
    clock.host.step(-5_000_000_000);
    let reply = clock
        .announcer
        .answer(7, received, clock.host.read(), clock.now, 0, true);
    assert_eq!(reply.received_unix_us, MINUTE_MS * 1_000 - 5_000_000);
    assert_eq!(reply.sent_unix_us, reply.received_unix_us);
    assert_ne!(reply.timeline, u64::MAX);
    assert_eq!(reply.timeline, clock.announcer.timeline());
}
