//! How a command ends other than well: one error, printed once, and the exit code that goes with it.

use tickstorm_client::Error;
use tickstorm_client::error::ErrorCode;
use tickstorm_service::exit;

/// Standard output can't be written to: EX_IOERR of sysexits.h.
pub const OUTPUT: u8 = 74;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The reason, for people.
    pub error: anyhow::Error,
}

impl Failure {
    /// Ends with `code` because of `error`.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    /// Ends with `code` because of what `text` says.
    pub fn said(code: u8, text: String) -> Self {
        Self::new(code, anyhow::Error::msg(text))
    }
}

/// What else keeps a command from going on: that the other side is not there (any more).
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(exit::UNAVAILABLE, error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Protocol(_) => exit::PROTOCOL,
            Error::Refused(refusal) => match &refusal.code {
                Ok(code) if blames_the_protocol(*code) => exit::PROTOCOL,
                Ok(_) | Err(_) => exit::NOPERM,
            },
            // Whatever else there may be one day: there is no connection.
            Error::Connect { .. } | Error::Closed { .. } | Error::Timeout { .. } | _ => {
                exit::UNAVAILABLE
            }
        };
        Self::new(code, error)
    }
}

/// Whether an edge says by `code` that this client's bytes were no protocol of its.
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
        | ErrorCode::TooManyConnections
        | ErrorCode::Internal => false,
    }
}
