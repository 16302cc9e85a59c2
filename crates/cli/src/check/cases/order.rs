//! Frames with several faults, of which the first in the order of checks is reported.

use std::sync::Arc;

use tickstorm_protocol::{ErrorCode, FrameType};

use super::frames::{Point, refused};
use crate::check::bytes::{self, IGNORABLE, NO_MESSAGE};
use crate::check::server::Server;
use crate::check::stop::Outcome;

const AUTH: u8 = FrameType::Auth.byte();
const HEARTBEAT: u8 = FrameType::Heartbeat.byte();
const PONG: u8 = FrameType::Pong.byte();

pub(super) async fn first_failed_check(server: Arc<Server>) -> Outcome {
    use ErrorCode::{
        AlreadyAuthenticated, AuthRequired, BadChecksum, BadMagic, MessageTooLarge,
        UnexpectedMessage, UnknownType, UnsupportedVersion,
    };
    use Point::{AfterAuth, BeforeAuth};

    for (point, bytes, code) in [
        // The first wrong byte decides, whatever would follow.
        (BeforeAuth, vec![0xF4], BadMagic),
        (BeforeAuth, vec![0xF5, 0x7D, 2], UnsupportedVersion),
        (BeforeAuth, vec![0xF5, 0x7D, 1, 0x08], UnknownType),
        // The length comes before the checksum, and before the rules of the session.
        (
            BeforeAuth,
            bytes::header(HEARTBEAT, 5_000).to_vec(),
            MessageTooLarge,
        ),
        (
            BeforeAuth,
            bytes::header(PONG, 5_000).to_vec(),
            MessageTooLarge,
        ),
        (
            AfterAuth,
            bytes::header(AUTH, 5_000).to_vec(),
            MessageTooLarge,
        ),
        // The checksum comes before the rules of the session and the payload.
        (BeforeAuth, bytes::bad_checksum(HEARTBEAT, b""), BadChecksum),
        (
            BeforeAuth,
            bytes::bad_checksum(AUTH, NO_MESSAGE),
            BadChecksum,
        ),
        (
            AfterAuth,
            bytes::bad_checksum(AUTH, NO_MESSAGE),
            BadChecksum,
        ),
        (
            AfterAuth,
            bytes::bad_checksum(PONG, NO_MESSAGE),
            BadChecksum,
        ),
        // The rules of the session come before the payload.
        (
            BeforeAuth,
            bytes::frame(HEARTBEAT, NO_MESSAGE),
            AuthRequired,
        ),
        (
            BeforeAuth,
            bytes::frame(IGNORABLE, NO_MESSAGE),
            AuthRequired,
        ),
        (
            AfterAuth,
            bytes::frame(AUTH, NO_MESSAGE),
            AlreadyAuthenticated,
        ),
        (AfterAuth, bytes::frame(PONG, NO_MESSAGE), UnexpectedMessage),
    ] {
        refused(&server, point, &bytes, code).await?;
    }
    Ok(String::new())
}

pub(super) async fn unexpected_message(server: Arc<Server>) -> Outcome {
    for frame_type in [
        FrameType::DataBatch,
        FrameType::Error,
        FrameType::Ack,
        FrameType::Pong,
    ] {
        let frame = bytes::frame(frame_type.byte(), b"");
        let code = ErrorCode::UnexpectedMessage;
        refused(&server, Point::AfterAuth, &frame, code).await?;
    }
    Ok(String::new())
}
