//! Frames with faults, frames that are skipped, and unknown fields.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::frame::{HEADER_LEN, KEPT_PAYLOAD_MAX, PAYLOAD_MAX};
use tickstorm_protocol::message::{ErrorMsg, Heartbeat};
use tickstorm_protocol::{ErrorCode, FrameType};

use crate::check::bytes::{self, IGNORABLE, NO_MESSAGE};
use crate::check::connection::{Connection, Step};
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure};

const AUTH: u8 = FrameType::Auth.byte();
const SUBSCRIBE: u8 = FrameType::Subscribe.byte();
const HEARTBEAT: u8 = FrameType::Heartbeat.byte();
const GOING_AWAY: u8 = FrameType::GoingAway.byte();

/// How long a server must stay quiet before the byte that decides.
const QUIET: Duration = Duration::from_millis(80);

/// The point of a connection at which a frame is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// It is the first.
    BeforeAuth,
    /// It follows the ACK of AUTH.
    AfterAuth,
}

pub(super) const BOTH: [Point; 2] = [Point::BeforeAuth, Point::AfterAuth];

async fn connection_at(server: &Arc<Server>, point: Point) -> Outcome<Connection> {
    match point {
        Point::BeforeAuth => server.open().await,
        Point::AfterAuth => server.authenticated().await,
    }
}

/// Expects that these bytes are refused with `code`: nothing is answered to all but the last of
/// them, and the last one decides.
pub(super) async fn refused(
    server: &Arc<Server>,
    point: Point,
    bytes: &[u8],
    code: ErrorCode,
) -> Outcome<ErrorMsg> {
    let shown: String = bytes
        .iter()
        .take(HEADER_LEN)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let what = match point {
        Point::BeforeAuth => format!("{shown}… before AUTH"),
        Point::AfterAuth => format!("{shown}… after AUTH"),
    };
    let trying = async {
        let mut connection = connection_at(server, point).await?;
        let (before, last) = bytes.split_at(bytes.len().saturating_sub(1));
        if !before.is_empty() {
            connection.send(before).await;
            connection.nothing_for(QUIET).await?;
        }
        connection.send(last).await;
        connection.refusal(code).await
    };
    trying.await.map_err(|stop| stop.about(&what))
}

pub(super) async fn bad_magic(server: Arc<Server>) -> Outcome {
    for point in BOTH {
        for bytes in [&b"G"[..], &[0x16], &[0x00], &[0xF5, 0x7C], &[0xF5, 0xF5]] {
            refused(&server, point, bytes, ErrorCode::BadMagic).await?;
        }
    }
    Ok(String::new())
}

pub(super) async fn unsupported_version(server: Arc<Server>) -> Outcome {
    for point in BOTH {
        for version in [0, 2, 0xFF] {
            let bytes = [0xF5, 0x7D, version];
            let error = refused(&server, point, &bytes, ErrorCode::UnsupportedVersion).await?;
            ensure!(
                error.supported_versions == [1],
                "the supported_versions after version {version} are {:?}",
                error.supported_versions
            );
        }
    }
    Ok(String::new())
}

pub(super) async fn unknown_type(server: Arc<Server>) -> Outcome {
    for point in BOTH {
        for type_byte in [0x00, 0x08, 0x7F] {
            let bytes = [0xF5, 0x7D, 1, type_byte];
            refused(&server, point, &bytes, ErrorCode::UnknownType).await?;
        }
    }
    Ok(String::new())
}

pub(super) async fn message_too_large(server: Arc<Server>) -> Outcome {
    let code = ErrorCode::MessageTooLarge;
    let over = |len: usize| u32::try_from(len + 1).expect("a limit of 32 bits");
    let kept = over(KEPT_PAYLOAD_MAX);
    for (point, type_byte, claimed) in [
        (Point::BeforeAuth, AUTH, kept),
        (Point::BeforeAuth, AUTH, u32::MAX),
        (Point::BeforeAuth, IGNORABLE, kept),
        (Point::AfterAuth, HEARTBEAT, kept),
        (Point::AfterAuth, SUBSCRIBE, u32::MAX),
        (Point::AfterAuth, IGNORABLE, over(PAYLOAD_MAX)),
    ] {
        refused(&server, point, &bytes::header(type_byte, claimed), code).await?;
    }
    // The largest payload that is allowed is read.
    let mut connection = server.authenticated().await?;
    let frame = bytes::frame(HEARTBEAT, &unknown_fields_of(KEPT_PAYLOAD_MAX));
    connection.send(&frame).await;
    connection.echo(0).await?;
    Ok(String::new())
}

pub(super) async fn bad_checksum(server: Arc<Server>) -> Outcome {
    let code = ErrorCode::BadChecksum;
    let payload = [0x08, 0x07];
    for point in BOTH {
        for frame in [
            bytes::bad_checksum(HEARTBEAT, &payload),
            bytes::sealed(HEARTBEAT, &payload, bytes::zlib_crc32),
            bytes::sealed(HEARTBEAT, &payload, |bytes| {
                crc32c::crc32c(bytes).swap_bytes()
            }),
            bytes::bad_checksum(IGNORABLE, &payload),
        ] {
            refused(&server, point, &frame, code).await?;
        }
    }
    Ok(String::new())
}

pub(super) async fn malformed_payload(server: Arc<Server>) -> Outcome {
    let code = ErrorCode::MalformedPayload;
    for (point, type_byte) in [
        (Point::BeforeAuth, AUTH),
        (Point::AfterAuth, SUBSCRIBE),
        (Point::AfterAuth, HEARTBEAT),
    ] {
        refused(&server, point, &bytes::frame(type_byte, NO_MESSAGE), code).await?;
    }
    Ok(String::new())
}

pub(super) async fn ignorable(server: Arc<Server>) -> Outcome {
    let mut connection = server.authenticated().await?;
    for type_byte in [GOING_AWAY, 0x81, IGNORABLE, 0xC3, 0xFE, 0xFF] {
        for payload in [&b""[..], NO_MESSAGE, &[0xFF; 300]] {
            connection.rest(1).await?;
            connection.send(&bytes::frame(type_byte, payload)).await;
        }
        connection
            .still_answers()
            .await
            .map_err(|stop| stop.about(&format!("after type 0x{type_byte:02X}")))?;
    }
    Ok(String::new())
}

pub(super) async fn large_ignorable(server: Arc<Server>) -> Outcome {
    let mut connection = server.authenticated().await?;
    let frame = bytes::frame(IGNORABLE, &[0x55; KEPT_PAYLOAD_MAX]);
    connection.send(&frame).await;
    connection.still_answers().await?;
    // A server may be configured to skip less than the protocol's limit.
    let mut payload_max = KEPT_PAYLOAD_MAX;
    for len in [PAYLOAD_MAX / 4, PAYLOAD_MAX] {
        let mut connection = server.authenticated().await?;
        connection
            .send(&bytes::frame(IGNORABLE, &vec![0x55; len]))
            .await;
        connection.send(&bytes::heartbeat(7)).await;
        match connection
            .step(Server::now() + Duration::from_secs(5))
            .await?
        {
            Step::Pong(_) => payload_max = len,
            Step::Error(error) => ensure!(
                error.code == ErrorCode::MessageTooLarge.as_str(),
                "a skipped payload of {len} bytes is answered with {}",
                error.code
            ),
            Step::Ack(_) | Step::Ticks | Step::End(_) | Step::TimeUp => {
                crate::check::stop::fail!("a skipped payload of {len} bytes ends the connection")
            }
        }
    }
    Ok(format!("skips payloads of {payload_max} bytes"))
}

pub(super) async fn unknown_fields(server: Arc<Server>) -> Outcome {
    let mut connection = server.authenticated().await?;
    let known = Heartbeat { client_time_us: 42 };
    let message = bytes::message(FrameType::Heartbeat, &known);
    let known = &message[HEADER_LEN..message.len() - 4];
    let payload = [&unknown_fields_of(100), known, &unknown_fields_of(20)].concat();
    connection.send(&bytes::frame(HEARTBEAT, &payload)).await;
    connection.echo(42).await?;
    connection.rest(10).await?;
    connection
        .send(&bytes::frame(SUBSCRIBE, &unknown_fields_of(52)))
        .await;
    connection.ack_of_subscribe().await?;
    Ok(String::new())
}

/// Returns `len` bytes of unknown fields: number 1000, with one byte each. `len` is a multiple of
/// 4.
fn unknown_fields_of(len: usize) -> Vec<u8> {
    const FIELD: [u8; 4] = [0xC2, 0x3E, 0x01, 0x2A];
    FIELD.repeat(len / FIELD.len())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn unknown_fields_have_the_length_asked_for_and_are_ignored() {
        for len in [4, 20, 100, KEPT_PAYLOAD_MAX] {
            let fields = unknown_fields_of(len);
            assert_eq!(fields.len(), len);
            assert_eq!(Heartbeat::decode(&*fields).unwrap(), Heartbeat::default());
        }
    }
}
