//! Tests that encode and decode frames.

use proptest::prelude::*;
use tickstorm_protocol::frame::{self, Decoded, Decoder, FrameError, FrameType, Rules};
use tickstorm_protocol::message::Auth;

use crate::forge;
use crate::fuzz_drivers;

#[test]
fn a_frame_is_appended_to_what_the_buffer_holds() {
    let mut out = b"before".to_vec();
    frame::encode(FrameType::Heartbeat, &(), &mut out);
    assert_eq!(out, [b"before".to_vec(), forge::frame(3, &[])].concat());
}

#[test]
fn only_the_numbers_1_to_7_and_0x80_are_known_types() {
    for byte in 0..=u8::MAX {
        let expected = (1..=7).contains(&byte) || byte == 0x80;
        let found = FrameType::from_byte(byte);
        assert_eq!(found.is_some(), expected, "{byte}");
        assert!(found.is_none_or(|found| found.byte() == byte));
    }
}

#[test]
fn a_client_decodes_every_unknown_type_and_an_edge_skips_ignorable_ones_after_authentication() {
    for byte in [0, 8, 0x7F, 0x80, 0x81, 0xFF] {
        let bytes = forge::frame(byte, b"?");
        let decode = |rules| Decoder::default().decode_or_skip(rules, &mut bytes.as_slice());
        let is_decoded = |rules| match decode(rules) {
            Ok(Some(Decoded::Frame(frame))) => frame.type_byte() == byte && frame.payload() == b"?",
            Ok(_) | Err(_) => false,
        };
        assert!(is_decoded(Rules::CLIENT));
        let (before, after) = (Rules::BEFORE_AUTH, Rules::after_auth(4_096));
        if byte < 0x80 {
            let unknown = FrameError::UnknownType { found: byte };
            assert_eq!(decode(before), Err(unknown));
            assert_eq!(decode(after), Err(unknown));
        } else {
            assert!(is_decoded(before));
            assert_eq!(decode(after), Ok(Some(Decoded::Skipped)));
        }
    }
}

#[test]
fn a_decoder_that_does_not_report_skipped_frames_returns_the_next_one() {
    let bytes = [forge::frame(0x80, b"?"), forge::frame(3, b"!")].concat();
    let mut input = bytes.as_slice();
    let decoded = Decoder::default().decode(Rules::after_auth(4_096), &mut input);
    assert_eq!(decoded.unwrap().unwrap().payload(), b"!");
    assert!(input.is_empty());
}

#[test]
fn a_payload_may_be_as_large_as_the_limit_and_no_larger() {
    for (rules, kind, allowed) in [
        (Rules::CLIENT, 4, 65_536),
        (Rules::CLIENT, 0x80, 65_536),
        (Rules::BEFORE_AUTH, 1, 4_096),
        (Rules::BEFORE_AUTH, 0x80, 4_096),
        (Rules::after_auth(65_536), 2, 4_096),
        (Rules::after_auth(65_536), 0x80, 65_536),
        (Rules::after_auth(5_000), 0xFF, 5_000),
    ] {
        let fits = forge::frame(kind, &vec![0; allowed]);
        let decoded = Decoder::default().decode_or_skip(rules, &mut fits.as_slice());
        assert!(matches!(decoded, Ok(Some(_))), "{rules:?}, type {kind}");
        let claimed = u32::try_from(allowed + 1).unwrap();
        let header = forge::header(kind, claimed);
        let decoded = Decoder::default().decode_or_skip(rules, &mut header.as_slice());
        assert_eq!(decoded, Err(FrameError::TooLarge { claimed, allowed }));
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(username: String, token: String, before: Vec<u8>) {
        let auth = Auth { username, token, ..Auth::default() };
        let mut bytes = before.clone();
        frame::encode(FrameType::Auth, &auth, &mut bytes);
        let mut input = &bytes[before.len()..];
        let frame = Decoder::default().decode(Rules::CLIENT, &mut input).unwrap().unwrap();
        prop_assert_eq!(frame.frame_type(), Some(FrameType::Auth));
        let decoded: Auth = prost::Message::decode(frame.payload()).unwrap();
        prop_assert_eq!(decoded, auth);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn a_changed_byte_is_always_noticed(
        payload: Vec<u8>,
        at: prop::sample::Index,
        flip in 1..=u8::MAX,
    ) {
        let mut bytes = forge::frame(0x80, &payload);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let decoded = Decoder::default().decode(Rules::CLIENT, &mut bytes.as_slice());
        // A length that has grown makes the decoder wait; every other change is an error.
        prop_assert!(!matches!(decoded, Ok(Some(_))), "byte {} of {:?}", at, bytes);
    }

    #[test]
    fn any_bytes_decode_the_same_however_they_are_cut(data: Vec<u8>) {
        fuzz_drivers::frame_decoder::run(&data);
    }

    #[test]
    fn perturbed_frames_decode_the_same_however_they_are_cut(
        settings: u8,
        cut: u8,
        frames in prop::collection::vec(
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..400)),
            1..6,
        ),
        at: prop::sample::Index,
        flip: u8,
    ) {
        let frames = frames.iter().map(|(kind, payload)| forge::frame(*kind, payload));
        let mut stream = frames.collect::<Vec<_>>().concat();
        let at = at.index(stream.len());
        stream[at] ^= flip;
        fuzz_drivers::frame_decoder::run(&[vec![settings, cut], stream].concat());
    }
}
