//! The failure of a command: an error, which is printed once, and the exit code that goes with it.

use tickstorm_client::Error;
use tickstorm_client::error::ErrorCode;
use tickstorm_service::exit;

/// The exit code if standard output can't be written to: EX_IOERR of sysexits.h.
pub const OUTPUT: u8 = 74;

/// The reason that a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The error to print.
    pub error: anyhow::Error,
}

impl Failure {
    /// Creates a failure with the exit code `code` and `error`.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    /// Creates a failure with the exit code `code` and the message `text`.
    pub fn message(code: u8, text: String) -> Self {
        Self::new(code, anyhow::Error::msg(text))
    }
}

/// Any other error that stops a command means that the peer is not available, or is no longer
/// available.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(exit::UNAVAILABLE, error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Protocol(_) => exit::PROTOCOL,
            Error::Tls(_) => exit::CONFIG,
            Error::Refused(refusal) => match &refusal.code {
                Ok(code) if blames_the_protocol(*code) => exit::PROTOCOL,
                Ok(_) | Err(_) => exit::NOPERM,
            },
            // Variants added in the future count as a missing connection.
            Error::Connect { .. } | Error::Closed { .. } | Error::Timeout { .. } | _ => {
                exit::UNAVAILABLE
            }
        };
        Self::new(code, error)
    }
}

/// Returns whether `code` means that this client violated the protocol.
fn blames_the_protocol(code: ErrorCode) -> bool {
    match code {
        ErrorCode::BadMagic
        | ErrorCode::UnsupportedVersion
        | ErrorCode::UnknownType
        | ErrorCode::MessageTooLarge
        | ErrorCode::BadChecksum
        | ErrorCode::MalformedPayload
        | ErrorCode::AuthRequired
        | ErrorCode::AlreadyAuthenticated
        | ErrorCode::UnexpectedMessage => true,
        ErrorCode::AuthFailed
        | ErrorCode::AuthTimeout
        | ErrorCode::AuthRateLimited
        | ErrorCode::InvalidSubscription
        | ErrorCode::RateLimited
        | ErrorCode::HeartbeatTimeout
        | ErrorCode::SlowConsumer
        | ErrorCode::TimeStepped
        | ErrorCode::ServerFull
        | ErrorCode::ServerDraining
        | ErrorCode::NoTime
        | ErrorCode::TooManyConnections
        | ErrorCode::Internal => false,
    }
}
