//! [`RequestLimits`]: which time requests a clock answers, so that a flood of them costs no edge a
//! round. It does not look into requests.
//!
//! Others may learn an edge's reply subject, but not its key. Once the edge itself has asked, only
//! requests with the key count against its reply subject.
//!
//! A flood of requests under ever new reply subjects cannot be told from many edges that start.
//! Therefore most of what a clock can answer is kept for reply subjects that it answered recently,
//! and each of them has a rate of its own, which no other can use up.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tickstorm_timebase::Mono;

use crate::message::DropReason;
use crate::rate::{Rate, TokenBucket};
use crate::reply_address::ReplyToken;

/// The most answers per second in all. Answering takes 25 µs of a core's time in a build without
/// optimisation, and dropping a request 3 to 9 µs, so that this is at most a quarter of a core. A
/// thousand edges need 1,000, and 20,000 for less than half a second when all of them start at
/// once.
const ANSWERS_PER_SECOND: u32 = 10_000;

/// The share for new reply subjects: a fifth. The burst, as much as in a second, lets two thousand
/// edges become known at once.
const NEW: Rate = Rate::per_second(ANSWERS_PER_SECOND / 5, ANSWERS_PER_SECOND / 5);

/// The share for known reply subjects: four fifths. The burst, as much as in a second, is what a
/// thousand edges need to start at once.
const KNOWN: Rate = Rate::per_second(ANSWERS_PER_SECOND / 5 * 4, ANSWERS_PER_SECOND / 5 * 4);

/// The maximum number of known reply subjects. There may be some thousand edges.
const SUBJECTS_MAX: usize = 4_096;

/// The rate that each known reply subject has to itself: an equal part of [`KNOWN`]. An edge asks
/// once per second. The burst lets it ask a moment early.
const GUARANTEED: Rate = Rate {
    interval: Duration::from_millis(512),
    burst: 2,
};

/// The rate of any one reply subject: at most 50 in any second. An edge asks eight times within
/// 350 ms when it starts, and afterwards once per second.
const PER_SUBJECT: Rate = Rate::per_second(40, 10);

/// The time for which a reply subject stays known after an answer: ten rounds.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// The interval at which reply subjects that are no longer known are removed.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// The number of buckets for reply subjects that find no room in the table. Several share a bucket.
const UNTABLED_BUCKETS: usize = 4_096;

/// Whether a request contains the key that belongs to its reply subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It does: it comes from the edge whose reply subject it is.
    Proven,
    /// It contains no key.
    Unproven,
}

/// A known reply subject.
#[derive(Clone, Copy, Debug)]
struct KnownSubject {
    answered: Mono,
    origin: Origin,
    all: TokenBucket,
    guaranteed: TokenBucket,
}

/// The limits on the requests that one clock answers.
#[derive(Debug)]
pub(crate) struct RequestLimits {
    by_token: HashMap<ReplyToken, KnownSubject>,
    next_purge: Mono,
    known: TokenBucket,
    new: TokenBucket,
    untabled: Box<[TokenBucket]>,
    hasher: RandomState,
}

impl RequestLimits {
    pub(crate) fn new() -> Self {
        Self {
            by_token: HashMap::new(),
            next_purge: Mono::ZERO,
            known: TokenBucket::default(),
            new: TokenBucket::default(),
            untabled: vec![TokenBucket::default(); UNTABLED_BUCKETS].into(),
            hasher: RandomState::new(),
        }
    }

    /// Returns how many reply subjects are known.
    pub(crate) fn known_subjects(&mut self, now: Mono) -> usize {
        self.purge(now);
        self.by_token.len()
    }

    /// Decides whether to answer a request with this reply subject, and counts the answer.
    ///
    /// # Errors
    /// Returns the reason if the request must be dropped.
    pub(crate) fn admit(
        &mut self,
        token: ReplyToken,
        origin: Origin,
        now: Mono,
    ) -> Result<(), DropReason> {
        match self.by_token.get_mut(&token) {
            Some(subject) if now.since(subject.answered) < KNOWN_FOR => {
                match (subject.origin, origin) {
                    (Origin::Proven, Origin::Unproven) => return Err(DropReason::ForeignReply),
                    // Others have used up what is the edge's.
                    (Origin::Unproven, Origin::Proven) => *subject = KnownSubject::new(origin, now),
                    (Origin::Proven, Origin::Proven) | (Origin::Unproven, Origin::Unproven) => {}
                }
                if !subject.all.has(PER_SUBJECT, now) {
                    return Err(DropReason::RateLimited);
                }
                if subject.guaranteed.try_take(GUARANTEED, now) {
                    self.known.take(KNOWN, now);
                } else if !self.known.try_take(KNOWN, now) {
                    return Err(DropReason::Overloaded);
                }
                subject.all.take(PER_SUBJECT, now);
                subject.answered = now;
                Ok(())
            }
            Some(_) | None => self.admit_new(token, origin, now),
        }
    }

    fn admit_new(
        &mut self,
        token: ReplyToken,
        origin: Origin,
        now: Mono,
    ) -> Result<(), DropReason> {
        if !self.new.has(NEW, now) {
            return Err(DropReason::Overloaded);
        }
        self.purge(now);
        if self.by_token.len() < SUBJECTS_MAX || self.by_token.contains_key(&token) {
            let mut subject = KnownSubject::new(origin, now);
            subject.all.take(PER_SUBJECT, now);
            self.by_token.insert(token, subject);
        } else if origin == Origin::Unproven {
            // The reply subject may be that of an edge that is not known. If others could ask in
            // its name, it would get several answers to a request, and accuse the clock.
            return Err(DropReason::Overloaded);
        } else if !self.untabled_bucket(token).try_take(PER_SUBJECT, now) {
            return Err(DropReason::RateLimited);
        }
        self.new.take(NEW, now);
        Ok(())
    }

    /// Removes the reply subjects that are no longer known, at most once per [`PURGE_INTERVAL`].
    fn purge(&mut self, now: Mono) {
        if now >= self.next_purge {
            self.next_purge = now + PURGE_INTERVAL;
            self.by_token
                .retain(|_, subject| now.since(subject.answered) < KNOWN_FOR);
        }
    }

    fn untabled_bucket(&mut self, token: ReplyToken) -> &mut TokenBucket {
        let buckets = self.untabled.len();
        let index = self.hasher.hash_one(token) % buckets as u64;
        &mut self.untabled[usize::try_from(index).unwrap_or_default()]
    }
}

impl KnownSubject {
    fn new(origin: Origin, now: Mono) -> Self {
        Self {
            answered: now,
            origin,
            all: TokenBucket::default(),
            guaranteed: TokenBucket::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplyKey;

    const MS: Duration = Duration::from_millis(1);

    fn token(number: u64) -> ReplyToken {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_le_bytes());
        ReplyKey::from(key).token()
    }

    /// A clock's limits, a clock to read, and attackers that may ask 100 times per millisecond.
    struct Scene {
        limits: RequestLimits,
        now: Mono,
        drawn: u64,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                limits: RequestLimits::new(),
                now: Mono::from_nanos(1_000_000_000_000),
                drawn: 1_000_000,
            }
        }

        /// Returns a scene in which as many edges are known as fit.
        fn full() -> Self {
            let mut scene = Self::new();
            for edge in 0..SUBJECTS_MAX as u64 {
                while scene.ask(token(edge)).is_err() {
                    scene.now = scene.now + MS;
                }
            }
            scene
        }

        fn ask(&mut self, token: ReplyToken) -> Result<(), DropReason> {
            self.limits.admit(token, Origin::Proven, self.now)
        }

        /// Lets a second pass, in which `edges` ask once each, and another sender 100,000 times
        /// under the reply subjects that `flood` returns. Returns the numbers of answers to the
        /// edges and to the flood.
        fn second(&mut self, edges: u64, mut flood: impl FnMut(u64) -> ReplyToken) -> (u64, u64) {
            let (mut answered, mut flooded) = (0, 0);
            for ms in 0..1_000 {
                self.now = self.now + MS;
                for edge in (0..edges).filter(|edge| edge * 7 % 1_000 == ms) {
                    answered += u64::from(self.ask(token(edge)).is_ok());
                }
                for _ in 0..100 {
                    self.drawn += 1;
                    let token = flood(self.drawn);
                    flooded += u64::from(self.ask(token).is_ok());
                }
            }
            (answered, flooded)
        }
    }

    #[test]
    fn a_reply_subject_is_answered_at_most_50_times_in_a_second() {
        let mut scene = Scene::new();
        let mut answered = Vec::new();
        for _ in 0..5_000 {
            scene.now = scene.now + MS;
            match scene.ask(token(1)) {
                Ok(()) => answered.push(scene.now),
                Err(reason) => assert_eq!(reason, DropReason::RateLimited),
            }
        }
        let most = answered.iter().enumerate().map(|(i, start)| {
            let second = answered[i..].iter();
            second
                .take_while(|at| at.since(*start) < Duration::from_secs(1))
                .count()
        });
        assert!((45..=50).contains(&most.max().unwrap()));
    }

    #[test]
    fn edges_that_start_together_are_all_answered_in_each_round() {
        let mut scene = Scene::new();
        for _ in 0..8 {
            for edge in 0..1_000 {
                assert_eq!(scene.ask(token(edge)), Ok(()));
            }
            scene.now = scene.now + 50 * MS;
        }
    }

    #[test]
    fn a_flood_under_new_reply_subjects_costs_known_ones_nothing_and_gets_a_fifth() {
        let mut scene = Scene::new();
        for edge in 0..1_000 {
            assert_eq!(scene.ask(token(edge)), Ok(()));
        }
        for second in 0..15 {
            let (answered, flooded) = scene.second(1_000, token);
            assert_eq!(answered, 1_000, "second {second}");
            assert!(flooded <= 2_000 + 2_000, "{flooded} in second {second}");
        }
        assert!(scene.limits.by_token.len() <= SUBJECTS_MAX);
    }

    #[test]
    fn a_flood_under_as_many_known_reply_subjects_as_fit_costs_others_nothing() {
        let mut scene = Scene::new();
        for edge in 0..100 {
            assert_eq!(scene.ask(token(edge)), Ok(()));
        }
        let theirs = |drawn: u64| token(1_000_000 + drawn % 10_000);
        let mut total = 0;
        for second in 0..15 {
            let (answered, flooded) = scene.second(100, theirs);
            assert_eq!(answered, 100, "second {second}");
            total += flooded;
        }
        // The bursts of both shares, and of each known reply subject.
        let bursts = 10_000 + 2 * SUBJECTS_MAX as u64;
        assert!(total <= 15 * 10_000 + bursts, "{total}");
    }

    #[test]
    fn a_flood_under_one_reply_subject_gets_50_a_second() {
        let mut scene = Scene::new();
        for edge in 0..10 {
            assert_eq!(scene.ask(token(edge)), Ok(()));
        }
        for second in 0..10 {
            let (answered, flooded) = scene.second(10, |_| token(99));
            assert_eq!(answered, 10, "second {second}");
            assert!(flooded <= 50, "{flooded} in second {second}");
        }
    }

    #[test]
    fn who_has_no_key_is_answered_but_cannot_use_up_what_an_edge_with_the_key_has() {
        let mut scene = Scene::new();
        let ask = |scene: &mut Scene, origin| scene.limits.admit(token(1), origin, scene.now);
        while ask(&mut scene, Origin::Unproven).is_ok() {}
        assert_eq!(ask(&mut scene, Origin::Proven), Ok(()), "the edge asks");
        for _ in 0..100 {
            let foreign = ask(&mut scene, Origin::Unproven);
            assert_eq!(foreign, Err(DropReason::ForeignReply));
        }
        assert_eq!(ask(&mut scene, Origin::Proven), Ok(()));
        scene.now = scene.now + KNOWN_FOR;
        assert_eq!(ask(&mut scene, Origin::Unproven), Ok(()), "it is forgotten");
    }

    #[test]
    fn nobody_can_ask_in_the_name_of_an_edge_for_which_there_is_no_room() {
        let mut scene = Scene::full();
        let ask = |scene: &mut Scene, origin| scene.limits.admit(token(999_999), origin, scene.now);
        for _ in 0..10 {
            // There is time for other new reply subjects.
            scene.now = scene.now + 10 * MS;
            let foreign = ask(&mut scene, Origin::Unproven);
            assert_eq!(foreign, Err(DropReason::Overloaded));
            assert_eq!(ask(&mut scene, Origin::Proven), Ok(()));
        }
    }

    #[test]
    fn reply_subjects_without_room_are_limited_as_well() {
        let mut scene = Scene::full();
        let (_, answered) = scene.second(0, |_| token(999_999));
        assert!((40..=50).contains(&answered), "{answered}");
    }

    #[test]
    fn a_reply_subject_is_forgotten_10_s_after_its_last_answer() {
        let mut scene = Scene::full();
        assert_eq!(scene.limits.known_subjects(scene.now), SUBJECTS_MAX);
        scene.now = scene.now + Duration::from_secs(9);
        assert_eq!(scene.ask(token(SUBJECTS_MAX as u64 - 1)), Ok(()));
        scene.now = scene.now + Duration::from_secs(5);
        assert_eq!(scene.ask(token(1_000_000)), Ok(()));
        assert_eq!(scene.limits.known_subjects(scene.now), 2);
        scene.now = scene.now + KNOWN_FOR;
        assert_eq!(scene.limits.known_subjects(scene.now), 0);
    }
}
