//! Someone with the login that all edges share.

use std::collections::BTreeSet;

use tickstorm_bus::message::encode_request;
use tickstorm_bus::{ReplyKey, Subjects};
use tickstorm_testkit::Nats;

use super::messages::{announcement, random_bytes, with_headers};
use super::{ATTACK, FLOOD, TIME};
use crate::support::eventually;
use crate::support::intruder::{Intruder, publication};
use crate::tickstorm::PATIENCE;

/// An attack: its name and what it does.
type Attack = (&'static str, fn(&mut FalseEdge));

/// The intruder.
pub(super) struct FalseEdge {
    intruder: Intruder,
}

impl FalseEdge {
    /// All attacks, which last for [`ATTACK`] each.
    pub(super) const ATTACKS: [Attack; 5] = [
        ("requests of many edges", Self::ask_as_many),
        ("requests of one edge", Self::ask_as_one),
        ("requests in the names of others", Self::ask_as_others),
        ("malformed requests", Self::send_garbage),
        ("many subscriptions", Self::subscribe_over_and_over),
    ];

    /// Connects with the login of edges, and overhears the answers to others, which name their
    /// reply subjects.
    pub(super) async fn steal(nats: &Nats) -> Self {
        let mut intruder = Intruder::connect(nats, Some(("edge", "edge")));
        intruder.subscribe("tickstorm.v1.answer.*.*");
        let overheard = async || {
            let messages = intruder.take_messages();
            let mut subjects = messages.iter().map(|message| &message.subject);
            subjects.any(|subject| subject.ends_with(".clock-0"))
        };
        eventually("an answer is overheard", PATIENCE, overheard).await;
        Self { intruder }
    }

    /// Asserts that NATS lets it neither announce nor answer nor hear requests.
    pub(super) async fn assert_refused(&mut self) {
        for subject in [
            "tickstorm.v1.tick.second.clock-0",
            "tickstorm.v1.answer.0123456789abcdef0123456789abcdef.clock-0",
        ] {
            let payload = announcement("clock-0", 1_000, 1);
            self.intruder.publish(subject, None, &payload);
            self.await_error(subject).await;
        }
        self.intruder.subscribe(TIME);
        self.await_error("Subscription to").await;
    }

    async fn await_error(&self, text: &str) {
        let refused = async || self.intruder.errors().concat().contains(text);
        eventually(&format!("{text} is refused"), PATIENCE, refused).await;
    }

    /// Asks under ever new reply subjects.
    fn ask_as_many(&mut self) {
        self.intruder.flood(ATTACK, FLOOD, || {
            own_request(&ReplyKey::from(random_bytes()))
        });
    }

    /// Asks under one reply subject.
    fn ask_as_one(&mut self) {
        let message = own_request(&ReplyKey::from(random_bytes()));
        self.intruder.flood(ATTACK, FLOOD, || message.clone());
    }

    /// Asks under the reply subjects of others, whose keys it does not know.
    fn ask_as_others(&mut self) {
        let victims: BTreeSet<String> = self
            .intruder
            .take_messages()
            .iter()
            .filter_map(|message| Some(message.subject.rsplit_once('.')?.0.to_owned()))
            .collect();
        let victims: Vec<_> = victims.into_iter().collect();
        let mut number = 0;
        self.intruder.flood(ATTACK, FLOOD, || {
            number += 1;
            let reply = victims[number % victims.len()].as_bytes();
            let key = ReplyKey::from(random_bytes());
            publication(TIME, Some(reply), &encode_request(1, &key))
        });
    }

    /// Subscribes to the same permitted subject again and again.
    fn subscribe_over_and_over(&mut self) {
        let mut number = 1_000;
        self.intruder.flood(ATTACK, FLOOD, || {
            number += 1;
            format!("SUB tickstorm.v1.tick.*.* {number}\r\n").into_bytes()
        });
        let errors = self.intruder.errors();
        let refused = errors
            .iter()
            .filter(|error| error.contains("maximum subscriptions exceeded"));
        let refused = refused.count();
        assert!(refused > 1_000, "only {refused} were refused");
    }

    /// Sends what is no request, and what a client library may not survive.
    fn send_garbage(&mut self) {
        let tick = b"tickstorm.v1.tick.second.clock-0";
        let mut number = 0;
        self.intruder.flood(ATTACK, FLOOD, || {
            number += 1;
            match number % 4 {
                0 => publication(TIME, Some(b"\xFF\xC2\xA0\x0B"), b"\x08\x01"),
                1 => publication(TIME, Some(tick), b"\x08\x01"),
                2 => with_headers(TIME, b"NATS/1.0 \xC3\r\n\r\n"),
                _ => publication(TIME, None, b"what time is it?"),
            }
        });
    }
}

/// Returns the bytes of a request under the reply subject that belongs to `key`.
fn own_request(key: &ReplyKey) -> Vec<u8> {
    let reply = Subjects::new("tickstorm").reply(key.token());
    publication(TIME, Some(reply.as_bytes()), &encode_request(1, key))
}
