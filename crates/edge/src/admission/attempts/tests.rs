use std::collections::VecDeque;
use std::net::IpAddr;

use super::*;

const LIMIT: u32 = 10;
const STEP: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn at(ms: u64) -> Mono {
    Mono::from_nanos(ms * 1_000_000)
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn v4(number: u32) -> Address {
    Address::V4(number.to_be_bytes())
}

/// Returns an address of 2001:db8:1::/48.
fn in_48(number: u16) -> Address {
    let [high, low] = number.to_be_bytes();
    Address::V6([0x20, 1, 0xD, 0xB8, 0, 1, high, low])
}

/// Guessers who only fail, and the failures that are due.
struct Guessers {
    attempts: Arc<Attempts>,
    now: Mono,
    waiting: VecDeque<(Mono, Address, Level)>,
    judged: u32,
}

impl Guessers {
    fn new() -> Self {
        Self {
            attempts: Attempts::new(LIMIT),
            now: at(1_000_000),
            waiting: VecDeque::new(),
            judged: 0,
        }
    }

    fn guess(&mut self, from: Address) -> Turn {
        let (turn, _) = self.attempts.take_turn(from, self.now);
        match turn {
            Turn::Now => {
                self.attempts.fail(from, None, self.now);
                self.judged += 1;
            }
            Turn::After { wait, slowed_by } => {
                self.waiting.push_back((self.now + wait, from, slowed_by));
            }
            Turn::Never => {}
        }
        turn
    }

    /// Lets time pass, and fails what has waited long enough.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let now = self.now;
        let due: Vec<_> = self.waiting.iter().filter(|each| each.0 <= now).collect();
        for (_, from, slowed_by) in &due {
            self.attempts.fail(*from, Some(*slowed_by), now);
        }
        self.judged += u32::try_from(due.len()).unwrap();
        self.waiting.retain(|each| each.0 > now);
    }

    /// Guesses from all these addresses as often as possible, and returns how often they were
    /// judged.
    fn attack(&mut self, from: &[Address], time: Duration) -> u32 {
        let before = self.judged;
        let end = self.now + time;
        while self.now < end {
            for address in from {
                while matches!(self.guess(*address), Turn::Now | Turn::After { .. }) {}
            }
            self.pass(STEP);
        }
        self.judged - before
    }

    fn turn(&self, from: Address) -> Turn {
        self.attempts.take_turn(from, self.now).0
    }
}

/// Returns the wait of a turn in milliseconds.
fn wait_ms(turn: Turn) -> u128 {
    match turn {
        Turn::After { wait, .. } => wait.as_millis(),
        Turn::Now | Turn::Never => panic!("{turn:?}"),
    }
}

#[test]
fn an_address_fails_ten_times_before_its_guesses_wait_ever_longer() {
    let mut guessers = Guessers::new();
    let (one, other) = (v4(1), v4(2));
    for _ in 0..LIMIT {
        assert_eq!(guessers.guess(one), Turn::Now);
    }
    for expected in [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000] {
        let turn = guessers.guess(one);
        assert_eq!(wait_ms(turn), expected);
        guessers.pass(Duration::from_secs(8));
        assert_eq!(guessers.turn(other), Turn::Now);
    }
    // A minute after the first failure.
    guessers.pass(Duration::from_secs(4));
    assert_eq!(guessers.turn(one), Turn::Now);
}

#[test]
fn ten_wait_and_the_eleventh_is_not_judged_until_a_slot_is_free() {
    let mut guessers = Guessers::new();
    let one = v4(1);
    for _ in 0..LIMIT {
        guessers.guess(one);
    }
    let waits = (0..10).map(|_| wait_ms(guessers.guess(one)));
    let eight = 8_000;
    assert_eq!(
        Vec::from_iter(waits),
        [
            250, 500, 1_000, 2_000, 4_000, eight, eight, eight, eight, eight
        ]
    );
    assert_eq!(guessers.guess(one), Turn::Never);
    guessers.now = guessers.now + Duration::from_millis(249);
    assert_eq!(guessers.guess(one), Turn::Never);
    // Whether the client is still there and the AUTH is judged makes no difference.
    guessers.now = guessers.now + Duration::from_millis(1);
    assert!(matches!(guessers.guess(one), Turn::After { .. }));
    assert_eq!(guessers.guess(one), Turn::Never);
}

#[test]
fn a_guesser_alone_is_judged_at_most_ninety_times_a_minute() {
    let mut guessers = Guessers::new();
    for minute in 0..10 {
        let judged = guessers.attack(&[v4(1)], MINUTE);
        assert!((50..=90).contains(&judged), "{judged} in minute {minute}");
    }
}

#[test]
fn no_one_waits_where_no_one_guesses() {
    let attempts = Attempts::new(LIMIT);
    for number in 0..10_000 {
        assert_eq!(attempts.take_turn(v4(1), at(number)), (Turn::Now, None));
        assert!(!attempts.would_wait(v4(1), at(number)));
    }
}

#[test]
fn a_guesser_slows_no_neighbour() {
    for (guesser, neighbour) in [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8:0:1::1"),
    ] {
        let mut guessers = Guessers::new();
        for minute in 0..5 {
            guessers.attack(&[address(guesser)], MINUTE);
            let turn = guessers.turn(address(neighbour));
            assert_eq!(turn, Turn::Now, "minute {minute}");
        }
    }
}

#[test]
fn many_guessers_of_a_network_slow_it_but_no_other_network() {
    let within_24: Vec<_> = (0..250).map(v4).collect();
    let within_56: Vec<_> = (0..250).map(in_48).collect();
    let within_48: Vec<_> = (0..250).map(|number| in_48(number << 8)).collect();
    for (guessing, level, neighbour, other) in [
        (within_24, Level::Network, v4(255), v4(256)),
        (within_56, Level::Slash56, in_48(255), in_48(256)),
        (
            within_48,
            Level::Network,
            in_48(0xFF_FF),
            address("2001:db8:2::"),
        ),
    ] {
        let mut guessers = Guessers::new();
        let failures_max = LIMIT * if level == Level::Slash56 { 4 } else { 16 };
        let waiting_max = u32::try_from(level.waiting_max()).unwrap();
        // Besides the failures, a few short waits at each level, and then 8 s for each slot.
        let most = failures_max + 12 + waiting_max * 60 / 8;
        for _ in 0..3 {
            let judged = guessers.attack(&guessing, MINUTE - SECOND);
            assert!(judged <= most, "{judged} instead of {most} at {level:?}");
            assert_ne!(guessers.turn(neighbour), Turn::Now, "{level:?}");
            assert_eq!(guessers.turn(other), Turn::Now, "{level:?}");
            guessers.attack(&guessing, SECOND);
        }
    }
}

#[test]
fn neither_70000_addresses_nor_a_48_displace_a_record() {
    let many = (0..70_000).map(|number| v4(0x0A00_0000 + number * 256));
    let of_48 = (0..=u16::MAX).map(in_48);
    for addresses in [Vec::from_iter(many), Vec::from_iter(of_48)] {
        let mut guessers = Guessers::new();
        let known = v4(1);
        for _ in 0..LIMIT {
            guessers.guess(known);
        }
        let before = guessers.judged;
        for (at, address) in addresses.iter().enumerate() {
            while guessers.guess(*address) == Turn::Now {}
            if at % 100 == 0 {
                guessers.pass(STEP);
            }
        }
        let passed = guessers.now.since(at(1_000_000));
        assert!(passed < MINUTE, "{passed:?}");
        assert_ne!(guessers.turn(known), Turn::Now, "it is still known");
        // The failures of all addresses, the AUTHs that wait, and their slots by 8 s.
        let most = 100 * LIMIT + 1_024 * 5 + 100;
        let judged = guessers.judged - before;
        assert!(judged <= most, "{judged} of {} guesses", addresses.len());
    }
}

#[test]
fn all_addresses_together_have_a_limit() {
    let mut guessers = Guessers::new();
    // Each network has one address, which fails only as often as it may.
    let mut at_once = 0;
    for number in 0..1_000 {
        while guessers.guess(v4(number << 8)) == Turn::Now {
            at_once += 1;
        }
    }
    assert_eq!(at_once, 100 * LIMIT);
    let newcomer = v4(u32::MAX);
    assert!(matches!(
        guessers.turn(newcomer),
        Turn::After {
            slowed_by: Level::All,
            ..
        }
    ));
    guessers.pass(MINUTE);
    assert_eq!(guessers.turn(newcomer), Turn::Now);
}

#[test]
fn a_device_has_a_limit_of_its_own_however_much_its_address_fails() {
    let mut guessers = Guessers::new();
    guessers.attack(&[v4(1)], MINUTE);
    let (now, attempts) = (guessers.now, guessers.attempts);
    let devices = [DeviceId::random(), DeviceId::random()];
    for _ in 0..LIMIT {
        assert!(attempts.has_turn(devices[0], now));
        attempts.fail_device(devices[0], now);
    }
    assert!(!attempts.has_turn(devices[0], now));
    assert!(attempts.has_turn(devices[1], now));
    assert!(attempts.has_turn(devices[0], now + MINUTE));
    assert_eq!(attempts.take_turn(v4(2), now).0, Turn::Now);
}

#[test]
fn collected_cookies_fail_once_each_when_many_have_failed_and_no_other_device_loses_its_turn() {
    const COLLECTED: u32 = 300;
    let attempts = Attempts::new(LIMIT);
    let collected: Vec<_> = (0..COLLECTED).map(|_| DeviceId::random()).collect();
    let mut judged = 0;
    for device in &collected {
        while attempts.has_turn(*device, at(0)) {
            attempts.fail_device(*device, at(0));
            judged += 1;
        }
    }
    // The first 100 fail as often as they may, and the others once.
    assert_eq!(judged, 100 * LIMIT + COLLECTED - 100);
    assert!(attempts.has_turn(DeviceId::random(), at(0)));
    assert_eq!(attempts.take_turn(v4(1), at(0)).0, Turn::Now);
    let later = at(0) + MINUTE;
    assert!(attempts.has_turn(collected[0], later));
}

#[test]
fn a_device_whose_failures_cannot_be_counted_has_no_turn() {
    let attempts = Attempts::new(1_000);
    let failed = DeviceId::random();
    attempts.fail_device(failed, at(0));
    for _ in 1..KEYS_MAX {
        assert!(attempts.has_turn(DeviceId::random(), at(0)));
        attempts.fail_device(DeviceId::random(), at(0));
    }
    assert!(!attempts.has_turn(DeviceId::random(), at(0)));
    assert!(attempts.has_turn(failed, at(0)), "its failure was counted");
    assert!(attempts.has_turn(DeviceId::random(), at(0) + MINUTE));
}

#[test]
fn a_warning_names_the_block_once_a_minute() {
    let attempts = Attempts::new(1);
    let one = address("192.0.2.1");
    let warning = |ms| attempts.take_turn(one, at(ms)).1;
    assert_eq!(warning(0), None);
    attempts.fail(one, None, at(0));
    let first = warning(0).unwrap();
    assert_eq!(first.block.to_string(), "192.0.2.1");
    assert_eq!((first.failures, first.waiting), (1, 1));
    assert_eq!(warning(59_999), None);
    attempts.fail(one, None, at(60_000));
    assert!(warning(60_000).is_some());
}

#[test]
fn zero_means_no_limit() {
    let attempts = Attempts::new(0);
    let device = DeviceId::random();
    for _ in 0..1_000 {
        attempts.fail(v4(1), None, at(0));
        attempts.fail_device(device, at(0));
    }
    assert_eq!(attempts.take_turn(v4(1), at(0)), (Turn::Now, None));
    assert!(attempts.has_turn(device, at(0)));
    assert!(!attempts.would_wait(v4(1), at(0)));
}
