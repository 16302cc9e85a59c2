//! [`RefusedPublishes`]: which of this process's own messages the server does not let it publish.
//! The server refuses each message by itself, after the client has sent it, and says nothing about
//! one that it accepts. So a refusal counts as over once messages of its kind were sent and none of
//! them was refused for a while.
//!
//! An entry is named after this process's own subjects, and never after what the server sent. There
//! are at most four: requests, answers, and announcements of each mode.

use std::time::Duration;

use tickstorm_timebase::{ClockId, Mode, Mono};

use crate::link_report::RefusedPublish;
use crate::silence::LOOK_INTERVAL;
use crate::subject::{Subjects, Topic};
use crate::subscribers::Subscribers;

/// The time without a refusal, from the first message on that was sent since, after which messages
/// of its kind count as accepted. Requests, answers and SECOND ticks are sent each second, and a
/// connection that is slower than 3 s is lost.
const ACCEPTED_AFTER: Duration = Duration::from_secs(10);

/// The messages that the server refuses, or has refused over an earlier connection.
#[derive(Debug, Default)]
pub(super) struct RefusedPublishes(Vec<Refusal>);

/// What a process publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Published {
    /// An edge's time requests.
    Requests,
    /// The announcements of the clock with this id.
    Ticks(Mode, ClockId),
    /// The answers of the clock with this id, under any reply subject.
    Answers(ClockId),
}

#[derive(Debug)]
struct Refusal {
    published: Published,
    /// The subject, with `*` for the token of a reply subject.
    subject: String,
    /// When the last message was refused.
    last: Mono,
    /// Whether that was over the present connection.
    is_current: bool,
    /// Whether messages of this kind were sent since.
    is_sent: bool,
    /// The time since the first of them.
    unrefused_for: Duration,
}

/// What a refusal means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RefusalNews {
    /// Messages on this subject of this process were accepted before, as far as is known.
    New(String),
    /// The server has refused messages on this subject before.
    Known,
    /// This process publishes nothing on this subject.
    Foreign,
}

impl RefusedPublishes {
    /// Notes that a message on this subject was sent.
    pub(super) fn handle_sent(&mut self, topic: Topic<'_>) {
        for refusal in &mut self.0 {
            refusal.is_sent |= refusal.published.has(topic);
        }
    }

    /// Notes that the server has refused a message on `subject`, which is as the server sent it.
    pub(super) fn handle_refusal(
        &mut self,
        subject: &str,
        subjects: &Subjects,
        subscribers: &Subscribers,
        now: Mono,
    ) -> RefusalNews {
        let topic = subjects.parse(subject);
        let Some(published) = topic.and_then(|topic| Published::of(topic, subscribers)) else {
            return RefusalNews::Foreign;
        };
        let known = self.0.iter_mut().find(|one| one.published == published);
        if let Some(refusal) = known {
            refusal.last = now;
            refusal.is_current = true;
            refusal.forget_sent();
            return RefusalNews::Known;
        }
        let subject = published.subject(subjects);
        self.0.push(Refusal {
            published,
            subject: subject.clone(),
            last: now,
            is_current: true,
            is_sent: false,
            unrefused_for: Duration::ZERO,
        });
        RefusalNews::New(subject)
    }

    /// Returns the subjects on which messages are accepted again. It must be called at each
    /// [`LOOK_INTERVAL`], which does not pass while the process is stopped.
    ///
    /// If one mode's announcements are accepted again, so are those of the other mode, until one is
    /// refused: permissions are mostly given for both, and the next MINUTE tick may be far.
    pub(super) fn look(&mut self, subscribers: &Subscribers, now: Mono) -> Vec<String> {
        self.0.retain(|one| one.published.is_of(subscribers));
        for refusal in &mut self.0 {
            if refusal.is_sent {
                refusal.unrefused_for += LOOK_INTERVAL;
            }
        }
        let is_over = |refusal: &mut Refusal| refusal.unrefused_for > ACCEPTED_AFTER;
        let mut over: Vec<_> = self.0.extract_if(.., is_over).collect();
        let clocks: Vec<_> = over
            .iter()
            .filter_map(|one| one.published.clock())
            .collect();
        let is_over_with_them = |refusal: &mut Refusal| {
            let clock = refusal.published.clock();
            let is_quiet = now.since(refusal.last) > ACCEPTED_AFTER;
            is_quiet && clock.is_some_and(|clock| clocks.contains(&clock))
        };
        let others: Vec<_> = self.0.extract_if(.., is_over_with_them).collect();
        over.extend(others);
        over.into_iter().map(|refusal| refusal.subject).collect()
    }

    /// Handles the end of the connection: nothing is refused until the next one refuses it.
    pub(super) fn handle_disconnected(&mut self) {
        for refusal in &mut self.0 {
            refusal.is_current = false;
            refusal.forget_sent();
        }
    }

    /// Returns what the server of the present connection refuses.
    pub(super) fn report(&self, now: Mono) -> Vec<RefusedPublish> {
        let current = self.0.iter().filter(|refusal| refusal.is_current);
        let report = current.map(|refusal| RefusedPublish {
            subject: refusal.subject.clone(),
            ago: now.since(refusal.last),
        });
        report.collect()
    }
}

impl Refusal {
    const fn forget_sent(&mut self) {
        self.is_sent = false;
        self.unrefused_for = Duration::ZERO;
    }
}

impl Published {
    /// Returns what this process publishes on this subject; `None` if that is nothing.
    fn of(topic: Topic<'_>, subscribers: &Subscribers) -> Option<Self> {
        let own = |id: &str| subscribers.clock_ids().find(|own| own.as_str() == id);
        match topic {
            Topic::Time => subscribers.has_edges().then_some(Self::Requests),
            Topic::Tick(mode, id) => own(id).map(|id| Self::Ticks(mode, id.clone())),
            Topic::Answer(_, id) => own(id).map(|id| Self::Answers(id.clone())),
        }
    }

    /// Returns whether the subject is one of these messages.
    fn has(&self, topic: Topic<'_>) -> bool {
        match self {
            Self::Requests => topic == Topic::Time,
            Self::Ticks(mode, id) => topic == Topic::Tick(*mode, id.as_str()),
            Self::Answers(id) => matches!(topic, Topic::Answer(_, of) if of == id.as_str()),
        }
    }

    /// Returns the clock whose announcements these are; `None` if they are none.
    const fn clock(&self) -> Option<&ClockId> {
        match self {
            Self::Ticks(_, id) => Some(id),
            Self::Requests | Self::Answers(_) => None,
        }
    }

    /// Returns whether one of these subscribers publishes these messages.
    fn is_of(&self, subscribers: &Subscribers) -> bool {
        match self {
            Self::Requests => subscribers.has_edges(),
            Self::Ticks(_, id) | Self::Answers(id) => subscribers.clock_ids().any(|own| own == id),
        }
    }

    fn subject(&self, subjects: &Subjects) -> String {
        match self {
            Self::Requests => subjects.time().to_owned(),
            Self::Ticks(mode, id) => subjects.tick(*mode, id),
            Self::Answers(id) => subjects.own_answers(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClockEvent, EdgeEvent, Events, ReplyKey};

    const ANSWERS: &str = "tickstorm.v1.answer.*.clock-0";
    const MINUTES: &str = "tickstorm.v1.tick.minute.clock-0";

    /// The refusals of a process with clock-0 and an edge, in virtual time.
    struct Process {
        refused: RefusedPublishes,
        subjects: Subjects,
        subscribers: Subscribers,
        now: Mono,
        _events: (Events<ClockEvent>, Events<EdgeEvent>),
    }

    impl Process {
        fn start() -> Self {
            let mut subscribers = Subscribers::default();
            let clock = subscribers.add_clock(&"clock-0".parse().unwrap(), true);
            let edge = subscribers.add_edge(&[], true);
            Self {
                refused: RefusedPublishes::default(),
                subjects: Subjects::new("tickstorm"),
                subscribers,
                now: Mono::from_nanos(1_000_000_000_000),
                _events: (clock, edge),
            }
        }

        fn refuse(&mut self, subject: &str) -> RefusalNews {
            let (subjects, subscribers) = (&self.subjects, &self.subscribers);
            let refused = &mut self.refused;
            refused.handle_refusal(subject, subjects, subscribers, self.now)
        }

        fn send(&mut self, subject: &str) {
            let topic = self.subjects.parse(subject).expect("one of the bus");
            self.refused.handle_sent(topic);
        }

        /// Lets this time pass, and returns what is over by then.
        fn pass(&mut self, seconds: u64) -> Vec<String> {
            let looks = 0..seconds * 2;
            let over = looks.flat_map(|_| {
                self.now = self.now + LOOK_INTERVAL;
                self.refused.look(&self.subscribers, self.now)
            });
            over.collect()
        }

        fn subjects(&self) -> Vec<String> {
            let report = self.refused.report(self.now).into_iter();
            report.map(|refused| refused.subject).collect()
        }
    }

    /// Returns the subject of an answer of `clock` to one of many edges.
    fn answer(number: u8, clock: &str) -> String {
        let token = ReplyKey::from([number; 16]).token();
        Subjects::new("tickstorm").answer(token, &clock.parse().unwrap())
    }

    #[test]
    fn answers_to_any_number_of_edges_are_refused_under_one_subject() {
        let mut process = Process::start();
        let news = process.refuse(&answer(0, "clock-0"));
        assert_eq!(news, RefusalNews::New(ANSWERS.to_owned()));
        process.pass(3);
        for number in 1..=255 {
            let news = process.refuse(&answer(number, "clock-0"));
            assert_eq!(news, RefusalNews::Known);
        }
        process.pass(2);
        let expected = RefusedPublish {
            subject: ANSWERS.to_owned(),
            ago: Duration::from_secs(2),
        };
        assert_eq!(process.refused.report(process.now), [expected]);
    }

    #[test]
    fn subjects_that_are_not_this_processs_own_are_foreign() {
        let mut process = Process::start();
        let long = "x".repeat(60_000);
        for subject in [
            &answer(0, "clock-1"),
            "tickstorm.v1.tick.second.clock-1",
            "tickstorm.v1.tick.hour.clock-0",
            "tickstorm.v1.answer.*.clock-0",
            "other.v1.time",
            "tickstorm.v1.time.x",
            "\u{1b}[2J",
            "",
            &long,
        ] {
            assert_eq!(process.refuse(subject), RefusalNews::Foreign, "{subject}");
        }
        assert_eq!(process.subjects(), [""; 0]);
        let time = "tickstorm.v1.time";
        assert_eq!(process.refuse(time), RefusalNews::New(time.to_owned()));
    }

    #[test]
    fn a_refusal_is_over_10_s_after_a_message_that_was_not_refused() {
        let mut process = Process::start();
        process.refuse(&answer(0, "clock-0"));
        assert_eq!(process.pass(600), [""; 0], "nothing was sent");
        process.send("tickstorm.v1.time");
        process.send("tickstorm.v1.tick.second.clock-0");
        assert_eq!(process.pass(600), [""; 0], "no answer was sent");
        process.send(&answer(1, "clock-0"));
        assert_eq!(process.pass(9), [""; 0]);
        process.refuse(&answer(1, "clock-0"));
        process.send(&answer(2, "clock-0"));
        assert_eq!(process.pass(10), [""; 0]);
        assert_eq!(process.subjects(), [ANSWERS]);
        assert_eq!(process.pass(1), [ANSWERS]);
        assert_eq!(process.subjects(), [""; 0]);
        let again = process.refuse(&answer(3, "clock-0"));
        assert_eq!(again, RefusalNews::New(ANSWERS.to_owned()));
    }

    #[test]
    fn minute_ticks_are_refused_from_one_to_the_next() {
        let mut process = Process::start();
        for _ in 0..3 {
            process.send(MINUTES);
            process.refuse(MINUTES);
            for _ in 0..60 {
                process.send("tickstorm.v1.tick.second.clock-0");
                assert_eq!(process.pass(1), [""; 0]);
            }
            assert_eq!(process.subjects(), [MINUTES]);
        }
        process.send(MINUTES);
        assert_eq!(process.pass(11), [MINUTES]);
    }

    #[test]
    fn minute_ticks_are_accepted_with_second_ticks_unless_they_are_refused() {
        let seconds = "tickstorm.v1.tick.second.clock-0";
        let mut process = Process::start();
        process.refuse(seconds);
        process.refuse(MINUTES);
        process.send(seconds);
        assert_eq!(process.pass(11), [seconds, MINUTES]);
        process.refuse(seconds);
        process.send(seconds);
        process.pass(5);
        process.refuse(MINUTES);
        assert_eq!(process.pass(30), [seconds]);
        assert_eq!(process.subjects(), [MINUTES]);
    }

    #[test]
    fn over_another_connection_nothing_is_refused_until_it_is_and_that_is_no_news() {
        let mut process = Process::start();
        process.refuse(MINUTES);
        process.send(MINUTES);
        process.pass(9);
        process.refused.handle_disconnected();
        assert_eq!(process.subjects(), [""; 0]);
        assert_eq!(process.pass(60), [""; 0]);
        assert_eq!(process.refuse(MINUTES), RefusalNews::Known);
        assert_eq!(process.subjects(), [MINUTES]);
        process.refused.handle_disconnected();
        process.send(MINUTES);
        assert_eq!(process.pass(11), [MINUTES], "this connection accepts it");
    }

    #[test]
    fn what_a_subscriber_that_is_gone_published_is_forgotten() {
        let mut process = Process::start();
        process.refuse(MINUTES);
        process.refuse("tickstorm.v1.time");
        process.subscribers = Subscribers::default();
        assert_eq!(process.pass(1), [""; 0]);
        assert_eq!(process.subjects(), [""; 0]);
    }
}
