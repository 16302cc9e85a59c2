//! Judges the answer to an AUTH.

use std::io;

use prost::Message as _;
use tickstorm_protocol::FrameType;
use tickstorm_protocol::frame::{Frame, FrameError};
use tickstorm_protocol::message::{Ack, ErrorMsg};

use tickstorm_tls::OpenError;

use super::tokens::AuthVerdict;

const AUTH: u32 = FrameType::Auth.byte() as u32;
const AUTH_FAILED: &str = "AUTH_FAILED";

/// The way in which the answer to an AUTH was wrong or missing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthFault {
    #[error("can't send AUTH: {0}")]
    Send(#[source] io::Error),
    #[error("AUTH was not answered")]
    Unanswered,
    #[error("the edge closed the connection without answering AUTH")]
    Closed,
    #[error("can't receive the answer to AUTH: {0}")]
    Receive(#[source] io::Error),
    #[error("TLS: {0}")]
    Open(#[from] OpenError),
    #[error("an unknown token was accepted")]
    WrongAccepted,
    #[error("a valid token was refused: ERROR {code}: {message}")]
    ValidRefused { code: String, message: String },
    #[error("an unknown token was refused by ERROR {code}, not AUTH_FAILED: {message}")]
    RefusedOtherwise { code: String, message: String },
    #[error("AUTH was answered by an ACK of frame type {0}")]
    AckOfOther(u32),
    #[error("AUTH was answered by a frame of type {0:#04x}")]
    OtherFrame(u8),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Payload(#[from] prost::DecodeError),
}

impl AuthFault {
    /// Returns whether there was no answer at all.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Send(_) | Self::Unanswered | Self::Closed | Self::Receive(_) => true,
            Self::Open(_)
            | Self::WrongAccepted
            | Self::ValidRefused { .. }
            | Self::RefusedOtherwise { .. }
            | Self::AckOfOther(_)
            | Self::OtherFrame(_)
            | Self::Frame(_)
            | Self::Payload(_) => false,
        }
    }
}

/// Compares an answer with the expected verdict.
pub(super) fn judge(frame: &Frame<'_>, expected: AuthVerdict) -> Result<(), AuthFault> {
    match frame.frame_type() {
        Some(FrameType::Ack) => {
            let ack = Ack::decode(frame.payload())?;
            match expected {
                _ if ack.acked_type != AUTH => Err(AuthFault::AckOfOther(ack.acked_type)),
                AuthVerdict::Accepted => Ok(()),
                AuthVerdict::Refused => Err(AuthFault::WrongAccepted),
            }
        }
        Some(FrameType::Error) => {
            let ErrorMsg { code, message, .. } = ErrorMsg::decode(frame.payload())?;
            match expected {
                AuthVerdict::Accepted => Err(AuthFault::ValidRefused { code, message }),
                AuthVerdict::Refused if code == AUTH_FAILED => Ok(()),
                AuthVerdict::Refused => Err(AuthFault::RefusedOtherwise { code, message }),
            }
        }
        _ => Err(AuthFault::OtherFrame(frame.type_byte())),
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_protocol::frame::{Decoder, Rules, encode};

    use super::*;

    fn judged(
        frame_type: FrameType,
        message: &impl prost::Message,
        expected: AuthVerdict,
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        encode(frame_type, message, &mut bytes);
        let mut decoder = Decoder::default();
        let frame = decoder.decode(Rules::CLIENT, &mut &bytes[..]).unwrap();
        judge(&frame.unwrap(), expected).map_err(|fault| {
            assert!(!fault.is_silence());
            fault.to_string()
        })
    }

    #[test]
    fn only_the_answer_that_suits_the_token_is_right() {
        let ack = |acked_type| Ack {
            acked_type,
            ..Ack::default()
        };
        let error = |code: &str| ErrorMsg {
            code: code.into(),
            message: "no".into(),
            ..ErrorMsg::default()
        };
        let subscribe = FrameType::Subscribe.byte().into();
        for expected in [AuthVerdict::Accepted, AuthVerdict::Refused] {
            let valid = expected == AuthVerdict::Accepted;
            assert_eq!(judged(FrameType::Ack, &ack(AUTH), expected).is_ok(), valid);
            assert!(judged(FrameType::Ack, &ack(subscribe), expected).is_err());
            let failed = judged(FrameType::Error, &error(AUTH_FAILED), expected);
            assert_eq!(failed.is_ok(), !valid);
            let limited = judged(FrameType::Error, &error("AUTH_RATE_LIMITED"), expected);
            let limited = limited.unwrap_err();
            assert!(limited.contains("AUTH_RATE_LIMITED") && limited.ends_with(": no"));
            let pong = judged(FrameType::Pong, &ack(AUTH), expected);
            assert_eq!(
                pong.unwrap_err(),
                "AUTH was answered by a frame of type 0x07"
            );
        }
    }
}
