//! The subjects of the bus's messages. The last token of an announcement's and an answer's subject
//! is the id of the clock that sends it, so that a NATS server can bind ids to logins.

use tickstorm_timebase::{ClockId, Mode};

use crate::reply_address::ReplyToken;

/// The subjects of one cluster, in version 1 of the cluster protocol.
#[derive(Clone, Debug)]
pub struct Subjects {
    /// Ends with a dot, as do the others except `time`.
    second: String,
    minute: String,
    any_mode: String,
    answer: String,
    time: String,
}

/// What a subject says about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic<'a> {
    /// It is a time request.
    Time,
    /// It announces a tick of this mode, in the name of this clock.
    Tick(Mode, &'a str),
    /// It answers a request with this reply subject, in the name of this clock.
    Answer(ReplyToken, &'a str),
}

impl Subjects {
    /// Creates subjects that start with `prefix`, so that several clusters can share one NATS.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            second: format!("{prefix}.v1.tick.second."),
            minute: format!("{prefix}.v1.tick.minute."),
            any_mode: format!("{prefix}.v1.tick.*."),
            answer: format!("{prefix}.v1.answer."),
            time: format!("{prefix}.v1.time"),
        }
    }

    /// Returns the subject on which `clock` announces the ticks of `mode`.
    #[must_use]
    pub fn tick(&self, mode: Mode, clock: &ClockId) -> String {
        format!("{}{clock}", self.ticks_of(mode))
    }

    /// Returns the subject to subscribe to for the announcements of all clocks.
    #[must_use]
    pub fn ticks(&self, mode: Mode) -> String {
        format!("{}*", self.ticks_of(mode))
    }

    /// Returns the subject to subscribe to for everything that `clock` announces.
    #[must_use]
    pub fn own_ticks(&self, clock: &ClockId) -> String {
        format!("{}{clock}", self.any_mode)
    }

    /// Returns the subject of time requests.
    #[must_use]
    pub fn time(&self) -> &str {
        &self.time
    }

    /// Returns the reply subject of an edge's time requests.
    #[must_use]
    pub fn reply(&self, token: ReplyToken) -> String {
        format!("{}{token}", self.answer)
    }

    /// Returns the subject on which `clock` answers a request with this reply subject.
    #[must_use]
    pub fn answer(&self, token: ReplyToken, clock: &ClockId) -> String {
        format!("{}{token}.{clock}", self.answer)
    }

    /// Returns the subjects of everything that `clock` answers.
    #[must_use]
    pub fn own_answers(&self, clock: &ClockId) -> String {
        format!("{}*.{clock}", self.answer)
    }

    /// Returns the subject to subscribe to for the answers of all clocks.
    #[must_use]
    pub fn answers(&self, token: ReplyToken) -> String {
        format!("{}{token}.*", self.answer)
    }

    /// Interprets the subject of a message. Returns `None` if it is none of these. The clock's id
    /// may be invalid.
    pub(crate) fn parse<'a>(&self, subject: &'a str) -> Option<Topic<'a>> {
        if subject == self.time {
            return Some(Topic::Time);
        }
        for mode in Mode::ALL {
            if let Some(clock) = subject.strip_prefix(self.ticks_of(mode)) {
                return Some(Topic::Tick(mode, clock));
            }
        }
        let (token, clock) = subject.strip_prefix(&self.answer)?.split_once('.')?;
        Some(Topic::Answer(token.parse().ok()?, clock))
    }

    /// Interprets the reply subject of a request. The sender could name any subject, including
    /// those of ticks, so `None` is returned unless it is exactly an edge's reply subject.
    pub(crate) fn parse_reply(&self, subject: &str) -> Option<ReplyToken> {
        subject.strip_prefix(&self.answer)?.parse().ok()
    }

    fn ticks_of(&self, mode: Mode) -> &str {
        match mode {
            Mode::Second => &self.second,
            Mode::Minute => &self.minute,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ReplyKey;

    fn ids() -> impl Strategy<Value = ClockId> {
        "[A-Za-z0-9_-]{1,64}".prop_map(|id| id.parse().expect("a valid id"))
    }

    fn prefixes() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_-]{1,8}(\\.[A-Za-z0-9_-]{1,8}){0,2}"
    }

    /// Texts that resemble subjects, so that mistakes in parsing them would show.
    fn almost_subjects() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            Just("v1".to_owned()),
            Just("tick".to_owned()),
            Just("second".to_owned()),
            Just("answer".to_owned()),
            Just("time".to_owned()),
            Just("*".to_owned()),
            Just(">".to_owned()),
            Just(String::new()),
            "[0-9a-fA-F]{31,33}",
            "\\PC{0,4}",
        ];
        prop::collection::vec(token, 0..6).prop_map(|tokens| format!("t.{}", tokens.join(".")))
    }

    proptest! {
        #[test]
        fn parsing_inverts_formatting(prefix in prefixes(), id in ids(), key: [u8; 16]) {
            let subjects = Subjects::new(&prefix);
            let token = ReplyKey::from(key).token();
            for mode in Mode::ALL {
                let subject = subjects.tick(mode, &id);
                prop_assert_eq!(subjects.parse(&subject), Some(Topic::Tick(mode, id.as_str())));
                prop_assert!(is_within(&subject, &subjects.ticks(mode)));
            }
            let answer = subjects.answer(token, &id);
            prop_assert_eq!(subjects.parse(&answer), Some(Topic::Answer(token, id.as_str())));
            prop_assert!(is_within(&answer, &subjects.answers(token)));
            prop_assert_eq!(&answer, &format!("{}.{id}", subjects.reply(token)));
            prop_assert_eq!(subjects.parse_reply(&subjects.reply(token)), Some(token));
            prop_assert_eq!(subjects.parse(subjects.time()), Some(Topic::Time));
        }

        #[test]
        fn a_clock_answers_only_below_a_reply_subject(reply in almost_subjects(), id in ids()) {
            let subjects = Subjects::new("t");
            if let Some(token) = subjects.parse_reply(&reply) {
                prop_assert_eq!(subjects.reply(token), reply);
                let answer = subjects.answer(token, &id);
                prop_assert!(answer.starts_with("t.v1.answer."), "{answer}");
                prop_assert_eq!(answer.split('.').count(), 5);
                prop_assert!(!answer.contains(['*', '>', ' ']), "{answer}");
            }
        }

        #[test]
        fn no_subject_of_one_system_is_one_of_another(
            prefix in prefixes(), other in prefixes(), id in ids(), key: [u8; 16],
        ) {
            prop_assume!(prefix != other);
            let (subjects, others) = (Subjects::new(&prefix), Subjects::new(&other));
            let token = ReplyKey::from(key).token();
            for subject in [
                others.tick(Mode::Second, &id), others.answer(token, &id), others.time().to_owned(),
            ] {
                prop_assert_eq!(subjects.parse(&subject), None, "{}", subject);
            }
        }
    }

    /// Returns whether a subscription to `pattern`, which ends with `*`, receives `subject`.
    fn is_within(subject: &str, pattern: &str) -> bool {
        let start = pattern.strip_suffix('*').expect("it ends with a wildcard");
        let rest = subject.strip_prefix(start);
        rest.is_some_and(|token| !token.is_empty() && !token.contains('.'))
    }

    #[test]
    fn a_reply_subject_has_exactly_one_more_token() {
        let subjects = Subjects::new("t");
        let token = "0123456789abcdef0123456789abcdef";
        for token in [token, "Qk9PSw-_"] {
            let reply = format!("t.v1.answer.{token}");
            assert!(subjects.parse_reply(&reply).is_some(), "{token}");
        }
        for reply in [
            "t.v1.answer.".to_owned(),
            "t.v1.answer".to_owned(),
            format!("t.v1.answer.{token}."),
            format!("t.v1.answer.{token}.x"),
            format!("t.v1.answer.{token}{token}0"),
            format!("t.v1.answer.+{}", &token[1..]),
            format!("u.v1.answer.{token}"),
            "t.v1.answer.*".to_owned(),
            "t.v1.answer.>".to_owned(),
            "t.v1.tick.second.clock-0".to_owned(),
            "_INBOX.x".to_owned(),
        ] {
            assert_eq!(subjects.parse_reply(&reply), None, "{reply}");
        }
    }
}
