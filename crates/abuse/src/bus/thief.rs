//! [`Thief`]: what an attacker with a stolen login subscribes to and publishes. It does no I/O, so
//! that a test can show that an attack sends what its name says.

use std::collections::VecDeque;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tickstorm_bus::ReplyKey;
use tickstorm_bus::message::{
    decode_reply, decode_request, encode_announcement, encode_reply, encode_request,
};
use tickstorm_timebase::{Announcement, ClockId, Epoch, Mode, Reply};

use super::attack::{BusAttack, StolenLogin};

/// The most reply subjects that are remembered.
const HEARD_MAX: usize = 16;
/// The lead of an announcement, in milliseconds: that of a clock by default.
const LEAD_MS: i64 = 1_500;
/// The most bytes of a message on the stage's NATS server.
pub(super) const PAYLOAD_MAX: usize = 1_024;
/// The most subscriptions of a connection to it.
pub(super) const SUBSCRIPTIONS_MAX: u32 = 8;
/// A payload for which the server cuts the connection, in bytes.
const PAYLOAD_TOO_LONG: usize = 1 << 20;
/// One message in so many is too long.
const TOO_LONG_EVERY: u64 = 2_000;
/// A timeline of the thief. Those of clocks are random.
const TIMELINE: u64 = 666;

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) subject: String,
    pub(super) reply_to: Option<String>,
    pub(super) payload: Vec<u8>,
}

/// A time request of an edge.
#[derive(Clone, Debug)]
struct HeardRequest {
    /// The subject of the answers, without the clock's id.
    reply_to: String,
    nonce: u64,
}

/// The moment at which messages are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The host's time, in microseconds.
    pub(super) unix_us: i64,
    /// Whether the second half of the attack has begun.
    pub(super) is_second_half: bool,
}

/// An attacker.
pub(super) struct Thief {
    attack: BusAttack,
    /// The clock whose login is stolen. If it is an edge's, one of the clocks to pose as.
    own: ClockId,
    others: Vec<ClockId>,
    heard: VecDeque<HeardRequest>,
    /// The number of unsolicited messages so far.
    sent: u64,
    random: StdRng,
}

impl Thief {
    pub(super) fn new(
        attack: BusAttack,
        own: ClockId,
        others: Vec<ClockId>,
        random: StdRng,
    ) -> Self {
        Self {
            attack,
            own,
            others,
            heard: VecDeque::new(),
            sent: 0,
            random,
        }
    }

    /// Returns the subjects to subscribe to.
    pub(super) fn subscriptions(&self) -> Vec<String> {
        match self.attack.login() {
            StolenLogin::Clock => vec!["tickstorm.v1.time".into()],
            StolenLogin::Edge => vec!["tickstorm.v1.answer.*.*".into()],
        }
    }

    /// Returns the subjects that NATS must not let the thief subscribe to.
    pub(super) fn forbidden_subscriptions(&self) -> Vec<String> {
        match self.attack {
            BusAttack::OtherNames => vec![">".into(), "tickstorm.v1.answer.*.*".into()],
            BusAttack::Posing => vec![">".into(), "tickstorm.v1.time".into()],
            BusAttack::SecondsOff
            | BusAttack::HoursOff
            | BusAttack::Announcements
            | BusAttack::Answers
            | BusAttack::Malformed
            | BusAttack::Huge
            | BusAttack::Requests
            | BusAttack::BorrowedRequests
            | BusAttack::Subscriptions => Vec::new(),
        }
    }

    /// Returns the next subject to subscribe to meanwhile, if the attack consists of that.
    pub(super) fn next_subscription(&self) -> Option<&'static str> {
        (self.attack == BusAttack::Subscriptions).then_some("tickstorm.v1.tick.*.*")
    }

    /// Takes a message of a subscription, and returns the messages that it provokes.
    pub(super) fn handle_message(
        &mut self,
        subject: &str,
        reply_to: Option<&str>,
        payload: &[u8],
        now: Moment,
    ) -> Vec<Publication> {
        let Some(request) = heard(subject, reply_to, payload) else {
            return Vec::new();
        };
        let time_us = now.unix_us + self.off_us(now);
        let answer = |subject_id: &ClockId, id: &ClockId| Publication {
            subject: format!("{}.{subject_id}", request.reply_to),
            reply_to: None,
            payload: encode_reply(&reply(request.nonce, id, time_us, timeline(now))),
        };
        let publications = match self.attack {
            BusAttack::SecondsOff | BusAttack::HoursOff => vec![answer(&self.own, &self.own)],
            // On their subjects, which NATS must refuse, and on its own, which edges must drop.
            BusAttack::OtherNames => {
                let others = self.others.iter();
                others
                    .flat_map(|other| [answer(other, other), answer(&self.own, other)])
                    .collect()
            }
            BusAttack::Posing => vec![answer(&self.own, &self.own)],
            BusAttack::Answers => vec![answer(&self.own, &self.own); 3],
            BusAttack::Announcements
            | BusAttack::Malformed
            | BusAttack::Huge
            | BusAttack::Requests
            | BusAttack::BorrowedRequests
            | BusAttack::Subscriptions => Vec::new(),
        };
        if self.heard.len() == HEARD_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(request);
        publications
    }

    /// Returns the next unsolicited message. `None` if there is none before a request is heard.
    pub(super) fn next(&mut self, now: Moment) -> Option<Publication> {
        self.sent += 1;
        let number = self.sent;
        match self.attack {
            BusAttack::SecondsOff | BusAttack::HoursOff => {
                let mode = if number.is_multiple_of(2) {
                    Mode::Second
                } else {
                    Mode::Minute
                };
                let time_us = now.unix_us + self.off_us(now);
                Some(self.announce(&self.own, &self.own, mode, time_us, timeline(now)))
            }
            BusAttack::OtherNames => {
                let other = self.other(number);
                let subject = if number.is_multiple_of(2) {
                    &self.own
                } else {
                    other
                };
                let time_us = now.unix_us + self.off_us(now);
                Some(self.announce(subject, other, Mode::Second, time_us, timeline(now)))
            }
            BusAttack::Posing => {
                let time_us = now.unix_us + self.off_us(now);
                let clock = self.other(number);
                Some(self.announce(clock, clock, Mode::Second, time_us, timeline(now)))
            }
            BusAttack::Announcements => {
                // Now, long ago, soon, and in a year.
                let off_s = [0, -86_400, 10, 31_536_000][pick(number, 4)];
                let mode = if number.is_multiple_of(3) {
                    Mode::Minute
                } else {
                    Mode::Second
                };
                let time_us = now.unix_us + off_s * 1_000_000;
                let timeline = number / 1_000;
                Some(self.announce(&self.own, &self.own, mode, time_us, timeline))
            }
            BusAttack::Answers => Some(self.answer(number, now)),
            BusAttack::Malformed => Some(self.malformed(now)),
            BusAttack::Huge => Some(self.huge(number, now)),
            BusAttack::Requests => {
                let key = ReplyKey::random();
                let reply_to = self.reply_subject(number, &key);
                Some(ask(number, reply_to, &key))
            }
            BusAttack::BorrowedRequests => {
                let request = self.heard.get(pick(number, self.heard.len()))?;
                Some(ask(
                    number,
                    Some(request.reply_to.clone()),
                    &ReplyKey::random(),
                ))
            }
            BusAttack::Subscriptions => None,
        }
    }

    fn off_us(&self, now: Moment) -> i64 {
        let off_us = self.attack.time_off_us();
        if now.is_second_half { -off_us } else { off_us }
    }

    fn other(&self, number: u64) -> &ClockId {
        let at = pick(number / 2, self.others.len());
        self.others.get(at).unwrap_or(&self.own)
    }

    /// Announces the next tick of a clock that has this time.
    fn announce(
        &self,
        subject_id: &ClockId,
        id: &ClockId,
        mode: Mode,
        time_us: i64,
        timeline: u64,
    ) -> Publication {
        let (name, period_ms) = match mode {
            Mode::Second => ("second", 1_000),
            Mode::Minute => ("minute", 60_000),
        };
        let epoch_ms = (time_us / 1_000 + LEAD_MS).div_euclid(period_ms) * period_ms;
        Publication {
            subject: format!("tickstorm.v1.tick.{name}.{subject_id}"),
            reply_to: None,
            payload: encode_announcement(&Announcement {
                mode,
                epoch: Epoch::from_ms(epoch_ms),
                clock_id: id.clone(),
                rank: 0,
                sent_unix_us: time_us,
                timeline,
            }),
        }
    }

    /// Answers a request that was heard, with its number or another one, or a request that nobody
    /// has made.
    fn answer(&mut self, number: u64, now: Moment) -> Publication {
        let heard = self.heard.get(pick(number, self.heard.len())).cloned();
        let request = heard.filter(|_| !number.is_multiple_of(4));
        let request = request.unwrap_or_else(|| HeardRequest {
            reply_to: self.random_reply_subject(),
            nonce: number,
        });
        let nonce = request.nonce.wrapping_add(number % 3);
        Publication {
            subject: format!("{}.{}", request.reply_to, self.own),
            reply_to: None,
            payload: encode_reply(&reply(nonce, &self.own, now.unix_us, number)),
        }
    }

    /// Returns an announcement with a field that makes it as long as NATS allows, or longer.
    fn huge(&self, number: u64, now: Moment) -> Publication {
        let own = &self.own;
        let mut message = self.announce(own, own, Mode::Second, now.unix_us, TIMELINE);
        let len = if number.is_multiple_of(TOO_LONG_EVERY) {
            PAYLOAD_TOO_LONG
        } else {
            PAYLOAD_MAX
        };
        let payload = &mut message.payload;
        // Field 15, a string, which a later version may have and this one skips. Its length takes
        // two bytes, which is right for the shorter messages; the longer ones are never decoded.
        let [low, high] = (len - payload.len() - 3)
            .to_le_bytes()
            .first_chunk()
            .map_or([0; 2], |bytes: &[u8; 2]| *bytes);
        payload.push(15 << 3 | 2);
        payload.extend([low | 0x80, high << 1 | low >> 7]);
        payload.resize(len, b'x');
        message
    }

    /// Returns the reply subject of a request: most belong to the key, some do not, and some are
    /// none that an edge would use.
    fn reply_subject(&self, number: u64, key: &ReplyKey) -> Option<String> {
        match number % 16 {
            0 => None,
            1 => Some(format!("tickstorm.v1.tick.second.{}", self.own)),
            2 => Some(format!("_INBOX.{number}")),
            3 => Some(format!("tickstorm.v1.answer.{}", "x".repeat(900))),
            4..8 => Some("tickstorm.v1.answer.0123456789abcdef0123456789abcdef".into()),
            _ => Some(format!("tickstorm.v1.answer.{}", key.token())),
        }
    }

    /// Returns a message with some of its bytes wrong, cut, or random.
    fn malformed(&mut self, now: Moment) -> Publication {
        const EXTREMES: [i64; 6] = [0, -1, 1, i64::MIN, i64::MAX, 1 << 62];
        let own = self.own.clone();
        let time_us = EXTREMES[self.random.random_range(0..EXTREMES.len())];
        let request = self.heard.back().cloned();
        let mut message = match request {
            Some(request) if self.random.random() => Publication {
                subject: format!("{}.{own}", request.reply_to),
                reply_to: None,
                payload: encode_reply(&reply(request.nonce, &own, time_us, u64::MAX)),
            },
            _ => self.announce(&own, &own, Mode::Second, now.unix_us, u64::MAX),
        };
        let payload = &mut message.payload;
        let at = self.random.random_range(0..payload.len());
        match self.random.random_range(0..4) {
            0 => payload.truncate(at),
            1 => payload[at] ^= 1 << self.random.random_range(0..8),
            2 => self.random.fill(&mut payload[..]),
            // Field 5, a number: the last occurrence of a field counts.
            _ => {
                payload.push(5 << 3);
                payload.extend([0xFF; 9]);
                payload.push(1);
            }
        }
        message
    }

    fn random_reply_subject(&mut self) -> String {
        format!("tickstorm.v1.answer.{:032x}", self.random.random::<u128>())
    }
}

/// Returns an index below `len`, by turns; 0 if there is none.
fn pick(number: u64, len: usize) -> usize {
    let len = u64::try_from(len).unwrap_or(u64::MAX).max(1);
    usize::try_from(number % len).unwrap_or(0)
}

/// Returns the request that a clock receives, or that an answer to an edge gives away.
fn heard(subject: &str, reply_to: Option<&str>, payload: &[u8]) -> Option<HeardRequest> {
    if let Some(reply_to) = reply_to {
        return Some(HeardRequest {
            reply_to: reply_to.to_owned(),
            nonce: decode_request(payload).ok()?.0,
        });
    }
    let (reply_to, _) = subject.rsplit_once('.')?;
    Some(HeardRequest {
        reply_to: reply_to.to_owned(),
        nonce: decode_reply(payload).ok()?.nonce,
    })
}

/// Returns the thief's timeline: a clock that is stepped gets another one.
const fn timeline(now: Moment) -> u64 {
    if now.is_second_half {
        TIMELINE + 1
    } else {
        TIMELINE
    }
}

fn reply(nonce: u64, id: &ClockId, time_us: i64, timeline: u64) -> Reply {
    Reply {
        nonce,
        clock_id: id.clone(),
        rank: 0,
        received_unix_us: time_us,
        sent_unix_us: time_us,
        clock_error_us: 10,
        synchronized: true,
        timeline,
    }
}

fn ask(nonce: u64, reply_to: Option<String>, key: &ReplyKey) -> Publication {
    Publication {
        subject: "tickstorm.v1.time".into(),
        reply_to,
        payload: encode_request(nonce, key),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use tickstorm_bus::message::decode_announcement;

    use super::*;

    const NOW: Moment = Moment {
        unix_us: 1_770_091_506_400_000,
        is_second_half: false,
    };
    const LATER: Moment = Moment {
        is_second_half: true,
        ..NOW
    };

    fn id(text: &str) -> ClockId {
        text.parse().unwrap()
    }

    fn thief(attack: BusAttack) -> Thief {
        let others = vec![id("clock-0"), id("clock-1")];
        Thief::new(attack, id("clock-2"), others, StdRng::seed_from_u64(7))
    }

    fn provoked(thief: &mut Thief, now: Moment) -> Vec<Publication> {
        let reply_to = Some("tickstorm.v1.answer.abc");
        thief.handle_message(
            "tickstorm.v1.time",
            reply_to,
            &encode_request(9, &ReplyKey::random()),
            now,
        )
    }

    #[test]
    fn a_clock_with_a_wrong_time_is_ahead_and_later_behind() {
        for (attack, off_us) in [
            (BusAttack::SecondsOff, 5_000_000),
            (BusAttack::HoursOff, 3_600_000_000),
        ] {
            let mut thief = thief(attack);
            for (now, off_us) in [(NOW, off_us), (LATER, -off_us)] {
                let answers = provoked(&mut thief, now);
                assert_eq!(answers.len(), 1);
                assert_eq!(answers[0].subject, "tickstorm.v1.answer.abc.clock-2");
                let reply = decode_reply(&answers[0].payload).unwrap();
                assert_eq!((reply.nonce, reply.clock_id), (9, id("clock-2")));
                assert_eq!(reply.sent_unix_us, NOW.unix_us + off_us);
            }
            let minute = thief.next(NOW).unwrap();
            let second = thief.next(NOW).unwrap();
            assert_eq!(minute.subject, "tickstorm.v1.tick.minute.clock-2");
            assert_eq!(second.subject, "tickstorm.v1.tick.second.clock-2");
            let announced = decode_announcement(Mode::Second, &second.payload).unwrap();
            let lead_ms = announced.epoch.as_ms() - (NOW.unix_us + off_us) / 1_000;
            assert!((500..=LEAD_MS).contains(&lead_ms), "{lead_ms}");
        }
    }

    #[test]
    fn other_names_are_used_on_their_subjects_and_on_the_own_one() {
        let mut thief = thief(BusAttack::OtherNames);
        let answers = provoked(&mut thief, NOW);
        let used: Vec<_> = answers
            .iter()
            .map(|answer| {
                let (_, subject_id) = answer.subject.rsplit_once('.').unwrap();
                let reply = decode_reply(&answer.payload).unwrap();
                (subject_id, reply.clock_id.to_string())
            })
            .collect();
        let expected = [
            ("clock-0", "clock-0"),
            ("clock-2", "clock-0"),
            ("clock-1", "clock-1"),
            ("clock-2", "clock-1"),
        ];
        assert_eq!(used, expected.map(|(subject, id)| (subject, id.to_owned())));
        let subjects: Vec<_> = (0..4).map(|_| thief.next(NOW).unwrap().subject).collect();
        for clock in ["clock-0", "clock-1", "clock-2"] {
            let subject = format!("tickstorm.v1.tick.second.{clock}");
            assert!(subjects.contains(&subject), "{subjects:?}");
        }
    }

    #[test]
    fn requests_have_many_reply_subjects_or_those_of_others() {
        let mut requests = thief(BusAttack::Requests);
        let reply_subjects: std::collections::BTreeSet<_> = (0..160)
            .map(|_| requests.next(NOW).unwrap())
            .map(|request| {
                assert_eq!(request.subject, "tickstorm.v1.time");
                request.reply_to
            })
            .collect();
        assert!(reply_subjects.len() > 80, "{}", reply_subjects.len());
        let mut borrowed = thief(BusAttack::BorrowedRequests);
        assert_eq!(borrowed.next(NOW), None, "nothing was heard yet");
        let answer = encode_reply(&reply(5, &id("clock-1"), 0, 0));
        let provoked =
            borrowed.handle_message("tickstorm.v1.answer.abc.clock-1", None, &answer, NOW);
        assert_eq!(provoked, []);
        let request = borrowed.next(NOW).unwrap();
        assert_eq!(request.reply_to.as_deref(), Some("tickstorm.v1.answer.abc"));
    }

    #[test]
    fn only_one_attack_subscribes_over_and_over() {
        let mut subscriber = thief(BusAttack::Subscriptions);
        assert_eq!(subscriber.next(NOW), None);
        let subject = subscriber.next_subscription();
        assert_eq!(subject, Some("tickstorm.v1.tick.*.*"));
        assert_eq!(thief(BusAttack::Requests).next_subscription(), None);
    }

    #[test]
    fn huge_messages_are_as_long_as_allowed_and_some_are_longer() {
        let mut thief = thief(BusAttack::Huge);
        let lens: Vec<_> = (0..TOO_LONG_EVERY)
            .map(|_| thief.next(NOW).unwrap().payload)
            .map(|payload| {
                if payload.len() == PAYLOAD_MAX {
                    decode_announcement(Mode::Second, &payload).unwrap();
                }
                payload.len()
            })
            .collect();
        assert_eq!(lens.iter().max(), Some(&PAYLOAD_TOO_LONG));
        assert_eq!(lens.iter().min(), Some(&PAYLOAD_MAX));
    }

    #[test]
    fn most_malformed_messages_are_malformed() {
        let mut thief = thief(BusAttack::Malformed);
        provoked(&mut thief, NOW);
        let messages: Vec<_> = (0..1_000).map(|_| thief.next(NOW).unwrap()).collect();
        let is_valid = |message: &&Publication| match message.subject.contains(".tick.") {
            true => decode_announcement(Mode::Second, &message.payload).is_ok(),
            false => decode_reply(&message.payload).is_ok(),
        };
        let valid = messages.iter().filter(is_valid).count();
        // Numbers may be anything, and a flipped bit of a number makes another one.
        assert!((100..900).contains(&valid), "{valid}");
        let is_own = |message: &Publication| message.subject.ends_with(".clock-2");
        assert!(messages.iter().all(is_own));
    }

    #[test]
    fn floods_of_a_clock_stay_on_its_subjects() {
        for attack in [BusAttack::Announcements, BusAttack::Answers] {
            let mut thief = thief(attack);
            provoked(&mut thief, NOW);
            let subjects: Vec<_> = (0..100).map(|_| thief.next(NOW).unwrap().subject).collect();
            assert!(subjects.iter().all(|subject| subject.ends_with(".clock-2")));
            let to_edge = "tickstorm.v1.answer.abc.clock-2".to_owned();
            assert_eq!(subjects.contains(&to_edge), attack == BusAttack::Answers);
        }
    }
}
