//! The messages that an intruder with a stolen login publishes.

use tickstorm_bus::ReplyKey;
use tickstorm_bus::message::{decode_request, encode_announcement, encode_reply};
use tickstorm_client::{Epoch, Mode};
use tickstorm_timebase::{Announcement, ClockId, Reply};

use crate::support::intruder::Overheard;
use crate::support::observer::now_us;

pub(super) fn id(id: &str) -> ClockId {
    id.parse().unwrap()
}

pub(super) fn announcement(clock_id: &str, epoch_ms: i64, timeline: u64) -> Vec<u8> {
    encode_announcement(&Announcement {
        mode: Mode::Second,
        epoch: Epoch::from_ms(epoch_ms),
        clock_id: id(clock_id),
        rank: 0,
        sent_unix_us: now_us(),
        timeline,
    })
}

pub(super) fn answer(nonce: u64, clock_id: &str, ahead_us: i64, timeline: u64) -> Vec<u8> {
    let time_us = now_us() + ahead_us;
    encode_reply(&Reply {
        nonce,
        clock_id: id(clock_id),
        rank: 0,
        received_unix_us: time_us,
        sent_unix_us: time_us,
        clock_error_us: 0,
        synchronized: true,
        timeline,
    })
}

/// Returns the bytes of a message that consists only of these headers.
pub(super) fn with_headers(subject: &str, headers: &[u8]) -> Vec<u8> {
    let length = headers.len();
    let head = format!("HPUB {subject} {length} {length}\r\n");
    [head.as_bytes(), headers, b"\r\n"].concat()
}

/// Returns the reply subject and the nonce of a time request.
pub(super) fn request(message: &Overheard) -> Option<(String, u64)> {
    let (nonce, _) = decode_request(&message.payload).ok()?;
    Some((message.reply_to.clone()?, nonce))
}

/// Returns random bytes.
pub(super) fn random_bytes() -> [u8; 16] {
    *ReplyKey::random().as_bytes()
}

/// Returns a random number.
pub(super) fn random_number() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
