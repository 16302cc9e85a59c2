//! Attacks with frames: unfinished ones, wrong ones, and those that come at a wrong time.

use rand::RngExt as _;
use tickstorm_testkit::frame::{
    ACK, AUTH, DATA_BATCH, ERROR, Forged, HEARTBEAT, PONG, SUBSCRIBE, frame,
};

use super::{Ingredients, cut, login, opening, subscription};
use crate::script::{Script, Step};
use crate::wire::{self, IGNORABLE, IGNORABLE_MAX, PAYLOAD_MAX};

/// The number of scripts with random bytes.
const RANDOM_SCRIPTS: usize = 64;
/// The most random bytes of a connection.
const RANDOM_LEN_MAX: usize = 8_192;

pub(super) fn claimed_length(_: &Ingredients) -> Vec<Script> {
    let header = |kind| Forged::new(kind, &[]).claiming(u32::MAX).header().to_vec();
    let after_login = |kind| login().then([Step::Send(header(kind).into())]);
    vec![
        opening(header(AUTH)),
        opening(header(IGNORABLE)),
        after_login(HEARTBEAT),
        after_login(IGNORABLE),
    ]
}

pub(super) fn half_auth(_: &Ingredients) -> Vec<Script> {
    vec![opening(cut(wire::largest_auth()))]
}

pub(super) fn half_frames(_: &Ingredients) -> Vec<Script> {
    let half = cut(frame(HEARTBEAT, &[0; PAYLOAD_MAX]));
    vec![subscription().then([Step::Send(half.into())])]
}

pub(super) fn half_ignorable(_: &Ingredients) -> Vec<Script> {
    let half = cut(frame(IGNORABLE, &[0; IGNORABLE_MAX]));
    vec![subscription().then([Step::Send(half.into())])]
}

pub(super) fn random_bytes(ingredients: &Ingredients) -> Vec<Script> {
    let mut rng = rand::rng();
    let mut random = |start: &[u8]| {
        let len = rng.random_range(1..=RANDOM_LEN_MAX);
        let random = (0..len).map(|_| rng.random::<u8>());
        start.iter().copied().chain(random).collect::<Vec<u8>>()
    };
    let header = Forged::new(AUTH, &[]).header();
    (0..RANDOM_SCRIPTS)
        .map(|number| match number % 4 {
            0 if ingredients.tls => Script::new([Step::Send(random(b"").into())]),
            0 | 1 => opening(random(b"")),
            2 => opening(random(&header[..4])),
            _ => login().then([Step::Send(random(b"").into())]),
        })
        .collect()
}

pub(super) fn wrong_order(_: &Ingredients) -> Vec<Script> {
    let auth = wire::auth("somebody", "secret", &[]);
    let before_login = [
        wire::subscribe_second(),
        wire::heartbeat(),
        frame(DATA_BATCH, &[]),
        frame(ERROR, &[]),
        frame(ACK, &[]),
        frame(PONG, &[]),
        frame(IGNORABLE, b"ignorable"),
        [wire::heartbeat(), auth.clone()].concat(),
    ];
    let after_login = [
        auth.clone(),
        [auth.clone(), auth].concat(),
        frame(DATA_BATCH, &[]),
        frame(ERROR, &[]),
        frame(ACK, &[]),
        frame(PONG, &[]),
        frame(SUBSCRIBE, &[0xFF; 100]),
        Forged::new(HEARTBEAT, &[]).bad_checksum().bytes(),
        Forged::new(0x08, &[]).bytes(),
    ];
    let before = before_login.into_iter().map(opening);
    let after = after_login
        .into_iter()
        .map(|bytes| login().then([Step::Send(bytes.into())]));
    before.chain(after).collect()
}

#[cfg(test)]
mod tests {
    use tickstorm_protocol::frame::{Decoder, FrameError, Rules};

    use super::super::tests::{ingredients, sent};
    use super::*;

    fn decode(bytes: &[u8], rules: Rules) -> Result<bool, FrameError> {
        let frame = Decoder::default().decode(rules, &mut &*bytes);
        frame.map(|frame| frame.is_some())
    }

    #[test]
    fn unfinished_frames_are_as_large_as_allowed_and_one_byte_short() {
        let cases = [
            (half_auth(&ingredients(false)), PAYLOAD_MAX),
            (half_frames(&ingredients(false)), PAYLOAD_MAX),
            (half_ignorable(&ingredients(false)), IGNORABLE_MAX),
        ];
        for (scripts, payload) in cases {
            for script in scripts {
                let half = sent(&script).pop().unwrap();
                assert_eq!(half.len(), payload + 12 - 1);
                assert_eq!(decode(&half, Rules::CLIENT), Ok(false));
            }
        }
    }

    #[test]
    fn a_claimed_length_is_refused_at_its_last_byte() {
        for script in claimed_length(&ingredients(false)) {
            let header = sent(&script).pop().unwrap();
            assert_eq!(header.len(), 8);
            let refused = decode(&header, Rules::CLIENT);
            assert!(
                matches!(refused, Err(FrameError::TooLarge { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn frames_in_a_wrong_order_are_themselves_valid_before_a_login() {
        for script in wrong_order(&ingredients(false)) {
            if !script.logs_in() {
                let bytes = sent(&script).pop().unwrap();
                assert_eq!(decode(&bytes, Rules::CLIENT), Ok(true));
            }
        }
    }
}
