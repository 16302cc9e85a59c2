use proptest::prelude::*;
use tickstorm_bus::message::{
    MESSAGE_BYTES_MAX, decode_announcement, decode_reply, decode_request, encode_announcement,
    encode_reply, encode_request,
};
use tickstorm_bus::{DropReason, ReplyKey};
use tickstorm_timebase::{Announcement, ClockId, Epoch, Mode, Reply};

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Second), Just(Mode::Minute)]
}

fn ids() -> impl Strategy<Value = ClockId> {
    "[A-Za-z0-9_-]{1,64}".prop_map(|id| id.parse().expect("a valid id"))
}

prop_compose! {
    fn announcements()(
        mode in modes(), epoch_ms: i64, clock_id in ids(), rank: u32, sent_unix_us: i64,
        timeline: u64,
    ) -> Announcement {
        let epoch = Epoch::from_ms(epoch_ms);
        Announcement { mode, epoch, clock_id, rank, sent_unix_us, timeline }
    }
}

prop_compose! {
    fn replies()(
        nonce: u64, clock_id in ids(), rank: u32, received_unix_us: i64, sent_unix_us: i64,
        clock_error_us: u32, synchronized: bool, timeline: u64,
    ) -> Reply {
        Reply {
            nonce, clock_id, rank, received_unix_us, sent_unix_us, clock_error_us, synchronized,
            timeline,
        }
    }
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(
        announcement in announcements(), reply in replies(), nonce: u64,
        key: [u8; 16],
    ) {
        let bytes = encode_announcement(&announcement);
        prop_assert!(bytes.len() * 4 < MESSAGE_BYTES_MAX, "too little room: {} bytes", bytes.len());
        prop_assert_eq!(decode_announcement(announcement.mode, &bytes), Ok(announcement));
        let bytes = encode_reply(&reply);
        prop_assert!(bytes.len() * 4 < MESSAGE_BYTES_MAX, "too little room: {} bytes", bytes.len());
        prop_assert_eq!(decode_reply(&bytes), Ok(reply));
        let key = ReplyKey::from(key);
        prop_assert_eq!(decode_request(&encode_request(nonce, &key)), Ok((nonce, Some(key))));
    }

    #[test]
    fn perturbed_bytes_are_decoded_or_dropped(
        announcement in announcements(), position: prop::sample::Index, byte: u8, noise: Vec<u8>,
    ) {
        let mut bytes = encode_announcement(&announcement);
        let position = position.index(bytes.len());
        bytes[position] = byte;
        for bytes in [&bytes, &noise] {
            for mode in Mode::ALL {
                // Nearly all bytes are valid protobuf, so the test can only check that they do no
                // harm.
                if let Ok(decoded) = decode_announcement(mode, bytes) {
                    prop_assert_eq!(decoded.mode, mode);
                }
            }
            let _ = decode_reply(bytes);
            let _ = decode_request(bytes);
        }
    }
}

#[test]
fn fields_of_later_versions_are_ignored() {
    let key = ReplyKey::random();
    let mut bytes = encode_request(5, &key);
    bytes.extend_from_slice(b"\xFA\x06\x03abc");
    assert_eq!(decode_request(&bytes), Ok((5, Some(key))));
}

#[test]
fn unknown_modes_and_invalid_ids_are_malformed() {
    let announcement = b"\x08\x02\x10\xe8\x07\x1a\x01a";
    assert_eq!(
        decode_announcement(Mode::Second, announcement),
        Err(DropReason::Malformed)
    );
    let id_with_a_space = b"\x10\xe8\x07\x1a\x03a b";
    assert_eq!(
        decode_announcement(Mode::Second, id_with_a_space),
        Err(DropReason::Malformed)
    );
    let id_with_a_dot = b"\x10\xe8\x07\x1a\x03a.b";
    assert_eq!(
        decode_announcement(Mode::Second, id_with_a_dot),
        Err(DropReason::Malformed)
    );
    assert_eq!(decode_request(b"\x08\x01"), Ok((1, None)));
    assert_eq!(
        decode_request(b"\x08\x01\x12\x01k"),
        Err(DropReason::Malformed),
        "the key is too short"
    );
    assert_eq!(
        decode_reply(b"\x08\x01"),
        Err(DropReason::Malformed),
        "there is no id"
    );
}
