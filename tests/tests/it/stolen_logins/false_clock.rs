//! Someone with the login of clock-0, the clock that edges follow.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use tickstorm_bus::message::decode_announcement;
use tickstorm_client::Mode;
use tickstorm_testkit::Nats;

use super::messages::{announcement, answer, random_number, request, with_headers};
use super::{ATTACK, CLOCKS, FLOOD, TIME, attack_lasts};
use crate::support::eventually;
use crate::support::intruder::{Intruder, publication};
use crate::support::observer::now_us;
use crate::tickstorm::PATIENCE;

const SECOND: &str = "tickstorm.v1.tick.second.clock-0";
const MINUTE: &str = "tickstorm.v1.tick.minute.clock-0";

/// The messages per second that are malformed, or up to a megabyte long.
const MALFORMED: u32 = 2_000;

/// An attack: its name, what it does, and the alarms of which it must raise one.
type Attack = (&'static str, fn(&mut FalseClock), &'static [&'static str]);

/// A wrong answer is either the first, so that the clock is a falseticker, or comes after the real
/// clock's and has no effect on the time.
const WRONG_ANSWERS: &[&str] = &["falseticker", "misbehaving"];

/// The intruder.
pub(super) struct FalseClock {
    pub(super) intruder: Intruder,
    /// The timeline of the real clock-0.
    timeline: u64,
}

impl FalseClock {
    /// All attacks, which last for [`ATTACK`] each.
    pub(super) const ATTACKS: [Attack; 8] = [
        (
            "the names of others",
            Self::pose_as_others,
            &["misbehaving"],
        ),
        (
            "5 s ahead",
            |thief| thief.answer_ahead(5, true),
            WRONG_ANSWERS,
        ),
        (
            "5 s behind",
            |thief| thief.answer_ahead(-5, false),
            WRONG_ANSWERS,
        ),
        (
            "1 h ahead",
            |thief| thief.answer_ahead(3_600, false),
            WRONG_ANSWERS,
        ),
        (
            "1 h behind",
            |thief| thief.answer_ahead(-3_600, true),
            WRONG_ANSWERS,
        ),
        ("a flood of answers", Self::flood_answers, &["misbehaving"]),
        (
            "a flood of announcements",
            Self::flood_announcements,
            &["misbehaving"],
        ),
        (
            "malformed and huge messages",
            Self::send_garbage,
            &["misbehaving"],
        ),
    ];

    /// Connects with the login of clock-0, and hears what its real owner announces.
    pub(super) async fn steal(nats: &Nats) -> Self {
        let mut intruder = Intruder::connect(nats, Some(("clock-0", "clock-0")));
        intruder.subscribe(TIME);
        intruder.subscribe("tickstorm.v1.tick.*.clock-0");
        let mut timeline = None;
        let heard = async || {
            let messages = intruder.take_messages();
            timeline = messages.iter().find_map(|message| {
                let announced = decode_announcement(Mode::Second, &message.payload).ok()?;
                Some(announced.timeline)
            });
            timeline.is_some()
        };
        eventually("the real clock-0 is heard", PATIENCE, heard).await;
        Self {
            timeline: timeline.unwrap(),
            intruder,
        }
    }

    /// Connects to a server without logins.
    pub(super) fn without_login(nats: &Nats) -> Self {
        let mut intruder = Intruder::connect(nats, None);
        intruder.subscribe(TIME);
        Self {
            intruder,
            timeline: 1,
        }
    }

    /// Answers as nine other clocks, an hour ahead.
    pub(super) fn invent_clocks(&mut self) {
        self.answer_requests(|to, nonce| {
            let of_clock = |number| {
                let name = format!("a{number}");
                let forged = answer(nonce, &name, 3_600_000_000, 1);
                (format!("{to}.{name}"), forged)
            };
            (0..9).map(of_clock).collect()
        });
    }

    /// Answers in the names of the other clocks. NATS refuses it on their subjects, and edges on
    /// that of clock-0.
    fn pose_as_others(&mut self) {
        self.answer_requests(|to, nonce| {
            let forged = |name| {
                let payload = answer(nonce, name, 0, random_number());
                [
                    (format!("{to}.{name}"), payload.clone()),
                    (format!("{to}.clock-0"), payload),
                ]
            };
            CLOCKS[1..].iter().copied().flat_map(forged).collect()
        });
    }

    /// Answers with a wrong time, on the real clock's timeline or on ever new ones.
    fn answer_ahead(&mut self, ahead_s: i64, is_own_timeline: bool) {
        let own = self.timeline;
        self.answer_requests(|to, nonce| {
            let timeline = if is_own_timeline {
                own
            } else {
                random_number()
            };
            let forged = answer(nonce, "clock-0", ahead_s * 1_000_000, timeline);
            vec![(format!("{to}.clock-0"), forged)]
        });
    }

    /// Answers each request thousands of times.
    fn flood_answers(&mut self) {
        let lasts = attack_lasts();
        while lasts() {
            let requests: BTreeSet<_> = self
                .intruder
                .take_messages()
                .iter()
                .filter_map(request)
                .collect();
            for (to, nonce) in requests {
                let payload = answer(nonce, "clock-0", 0, self.timeline);
                let message = publication(&format!("{to}.clock-0"), None, &payload);
                let time = Duration::from_millis(300);
                self.intruder.flood(time, FLOOD, || message.clone());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn flood_announcements(&mut self) {
        let epoch_ms = now_us() / 1_000_000 * 1_000 + 9_000;
        let message = announcement("clock-0", epoch_ms, self.timeline);
        let message = publication(SECOND, None, &message);
        self.intruder.flood(ATTACK, FLOOD, || message.clone());
    }

    /// Sends what is no message, what is too long, and what a client library may not survive.
    fn send_garbage(&mut self) {
        let huge = vec![b'\r'; 1_000_000];
        let valid = announcement("clock-0", 1_000, 1);
        let mut number = 0_usize;
        self.intruder.flood(ATTACK, MALFORMED, || {
            number += 1;
            if number.is_multiple_of(600) {
                return publication(SECOND, None, &huge);
            }
            match number % 5 {
                0 => publication(SECOND, None, b"what time is it?"),
                1 => publication(SECOND, Some(b"\xFF\xC2\xA0\x0B"), &valid),
                2 => with_headers(SECOND, b"NATS/1.0 \xC3\r\n\r\n"),
                3 => with_headers(MINUTE, b"GARBAGE\r\n"),
                _ => publication(SECOND, None, &valid[..number % valid.len()]),
            }
        });
    }

    /// Answers each time request of each edge for the time of an attack, with the messages that
    /// `reply` returns for a reply subject and a nonce.
    fn answer_requests(&mut self, mut reply: impl FnMut(&str, u64) -> Vec<(String, Vec<u8>)>) {
        let lasts = attack_lasts();
        self.intruder.take_messages();
        while lasts() {
            for message in self.intruder.take_messages() {
                let Some((to, nonce)) = request(&message) else {
                    continue;
                };
                for (subject, payload) in reply(&to, nonce) {
                    self.intruder.publish(&subject, None, &payload);
                }
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}
