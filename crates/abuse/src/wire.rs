//! The frames that clients send, honest ones and others. The codec is that of testkit, which is not
//! the edge's own.

use prost::Message;
use tickstorm_protocol::message::{Auth, Heartbeat, Subscribe};
use tickstorm_protocol::session::Request;
use tickstorm_testkit::frame::{self, frame};
use tickstorm_timebase::{Epoch, Mode};

/// The frame type of a frame that every receiver skips.
pub(crate) const IGNORABLE: u8 = 0x90;
/// The most payload of an ordinary frame from a client, in bytes.
pub(crate) const PAYLOAD_MAX: usize = 4_096;
/// The most payload of an ignorable frame, in bytes.
pub(crate) const IGNORABLE_MAX: usize = 65_536;
/// The length of a device cookie, in bytes.
pub(crate) const COOKIE_LEN: usize = 41;

/// The field of AUTH with the device cookie. In protobuf, concatenated encodings merge.
#[derive(Clone, PartialEq, prost::Message)]
struct AuthCookie {
    #[prost(bytes = "vec", tag = "6")]
    cookie: Vec<u8>,
}

/// The field of ACK with the device cookie.
#[derive(Clone, PartialEq, prost::Message)]
struct AckCookie {
    #[prost(bytes = "vec", tag = "9")]
    cookie: Vec<u8>,
}

/// Encodes AUTH with a user name and password. An empty cookie is left out.
pub(crate) fn auth(user: &str, password: &str, cookie: &[u8]) -> Vec<u8> {
    auth_frame(
        &Auth {
            username: user.into(),
            password: password.into(),
            client_id: "tickstorm abuse".into(),
            ..Auth::default()
        },
        cookie,
    )
}

/// Encodes AUTH with a token.
pub(crate) fn auth_with_token(token: &str) -> Vec<u8> {
    let auth = Auth {
        token: token.into(),
        ..Auth::default()
    };
    auth_frame(&auth, &[])
}

fn auth_frame(auth: &Auth, cookie: &[u8]) -> Vec<u8> {
    let cookie = AuthCookie {
        cookie: cookie.to_vec(),
    };
    let payload = [auth.encode_to_vec(), cookie.encode_to_vec()].concat();
    frame(frame::AUTH, &payload)
}

/// Returns the device cookie in the payload of an ACK; empty if there is none.
pub(crate) fn cookie_of(ack: &[u8]) -> Vec<u8> {
    AckCookie::decode(ack).unwrap_or_default().cookie
}

/// Encodes an AUTH of the greatest size.
pub(crate) fn largest_auth() -> Vec<u8> {
    frame(frame::AUTH, &[0; PAYLOAD_MAX])
}

/// Encodes SUBSCRIBE for SECOND, as honest clients send it.
pub(crate) fn subscribe_second() -> Vec<u8> {
    subscribe(Mode::Second, false, None)
}

/// Encodes SUBSCRIBE for a feed whose ticks do not coincide with those of honest clients. Hostile
/// clients use it so that they do not lengthen the fan-out that is measured.
pub(crate) fn subscribe_quiet() -> Vec<u8> {
    subscribe(Mode::Minute, true, None)
}

/// Encodes SUBSCRIBE for SECOND with a resume point, ahead of time for the same reason.
pub(crate) fn resume(after_ms: i64) -> Vec<u8> {
    subscribe(Mode::Second, true, Some(after_ms))
}

fn subscribe(mode: Mode, ahead: bool, resume_after_ms: Option<i64>) -> Vec<u8> {
    let request = Request {
        mode,
        ahead,
        resume_after: resume_after_ms.map(Epoch::from_ms),
    };
    frame(frame::SUBSCRIBE, &Subscribe::from(request).encode_to_vec())
}

/// Encodes HEARTBEAT.
pub(crate) fn heartbeat() -> Vec<u8> {
    let heartbeat = Heartbeat { client_time_us: 1 };
    frame(frame::HEARTBEAT, &heartbeat.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use tickstorm_testkit::frame::RawFrame;

    use super::*;

    #[test]
    fn a_cookie_is_one_more_field_of_auth() {
        for cookie in [&b""[..], &[7; COOKIE_LEN]] {
            let taken = RawFrame::take(&mut auth("user", "secret", cookie)).unwrap();
            let auth: Auth = taken.decode();
            assert_eq!((&*auth.username, &*auth.password), ("user", "secret"));
            let sent: AuthCookie = taken.decode();
            assert_eq!(sent.cookie, cookie);
        }
    }

    #[test]
    fn the_cookie_of_an_ack_is_found_if_there_is_one() {
        let ack = AckCookie {
            cookie: vec![1, 2, 3],
        };
        assert_eq!(cookie_of(&ack.encode_to_vec()), [1, 2, 3]);
        assert_eq!(cookie_of(&[]), [0; 0]);
    }
}
