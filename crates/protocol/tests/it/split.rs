//! Scripts of valid and invalid frames and of times, which a session must handle in the same way
//! however the bytes were cut.

use std::time::Duration;

use proptest::prelude::*;
use tickstorm_protocol::frame::FrameType;
use tickstorm_protocol::message::{Auth, Heartbeat, Subscribe};
use tickstorm_protocol::session::server::Step;

use crate::forge;
use crate::fuzz_drivers::server_session::{
    self, Cut, Event, assert_same_for_every_cut, limits, transcript,
};

fn right_auth() -> Vec<u8> {
    let auth = Auth {
        username: "somebody".to_owned(),
        password: "right".to_owned(),
        ..Auth::default()
    };
    forge::message(FrameType::Auth, &auth)
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let subscribe =
        (0..3, any::<Option<i64>>(), any::<bool>()).prop_map(|(mode, resume, ahead)| {
            let subscribe = Subscribe {
                mode,
                resume_after_epoch_ms: resume,
                ahead,
            };
            forge::message(FrameType::Subscribe, &subscribe)
        });
    let heartbeat = any::<i64>().prop_map(|client_time_us| {
        forge::message(FrameType::Heartbeat, &Heartbeat { client_time_us })
    });
    let any_frame = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, payload)| forge::frame(kind, &payload));
    let ignorable = (0x80u8.., prop::collection::vec(any::<u8>(), 0..5_000))
        .prop_map(|(kind, payload)| forge::frame(kind, &payload));
    let large = (0x80u8.., 65_530_usize..65_540)
        .prop_map(|(kind, len)| forge::frame(kind, &vec![kind; len]));
    prop_oneof![
        40 => subscribe,
        80 => heartbeat,
        10 => any_frame,
        30 => ignorable,
        1 => large,
        10 => Just(right_auth()),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let corrupted =
        (frame(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, flip)| {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            bytes
        });
    prop_oneof![
        20 => frame().prop_map(Event::Arrive),
        1 => corrupted.prop_map(Event::Arrive),
        6 => (0..2_000u64).prop_map(|ms| Event::Advance(Duration::from_millis(ms))),
        1 => (0..30_000u64).prop_map(|ms| Event::Advance(Duration::from_millis(ms))),
        1 => (0..500u64).prop_map(|ms| Event::GoBack(Duration::from_millis(ms))),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
    ]
}

proptest! {
    #[test]
    fn a_session_takes_the_same_steps_however_its_input_is_cut(
        settings: u8,
        events in prop::collection::vec(event(), 0..40),
    ) {
        let events = [vec![Event::Arrive(right_auth())], events].concat();
        assert_same_for_every_cut(&limits(settings), &events);
    }

    #[test]
    fn an_unauthenticated_client_is_treated_the_same_however_its_input_is_cut(
        settings: u8,
        events in prop::collection::vec(event(), 0..4),
    ) {
        assert_same_for_every_cut(&limits(settings), &events);
    }

    #[test]
    fn any_bytes_lead_to_the_same_steps_however_they_are_cut(data: Vec<u8>) {
        server_session::run(&data);
    }
}

#[test]
fn a_conversation_may_be_split_at_every_byte() {
    let limits = limits(0);
    let heartbeat = forge::message(FrameType::Heartbeat, &Heartbeat { client_time_us: 9 });
    let conversation = [
        right_auth(),
        forge::frame(2, &[]),
        heartbeat,
        forge::frame(0x99, b"later"),
        forge::frame(2, &[0x08, 0x01]),
        forge::frame(4, &[]),
    ]
    .concat();
    let whole = [Event::Arrive(conversation.clone())];
    let expected = transcript(&limits, &whole, Cut::AsTheyArrive);
    assert_eq!(expected.steps.len(), 5, "{:?}", expected.steps);
    assert!(matches!(expected.steps.last(), Some(Step::Close(_))));
    for at in 0..=conversation.len() {
        let (head, tail) = conversation.split_at(at);
        let halves = [Event::Arrive(head.to_vec()), Event::Arrive(tail.to_vec())];
        let found = transcript(&limits, &halves, Cut::AsTheyArrive);
        assert_eq!(found, expected, "split at {at}");
        assert_eq!(transcript(&limits, &halves, Cut::Kept), expected);
    }
}
