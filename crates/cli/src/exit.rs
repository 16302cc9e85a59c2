//! How a command ends other than well: one error, printed once, and the exit code that goes with it.

use tickstorm_client::Error;
use tickstorm_client::error::ErrorCode;
use tickstorm_service::exit;

/// Standard output can't be written to: EX_IOERR of sysexits.h.
pub(crate) const OUTPUT: u8 = 74;

/// What was measured says nothing, and may say something another time: EX_TEMPFAIL of sysexits.h.
pub(crate) const VOID: u8 = 75;

/// What `--help` says about exit codes: those of every command.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done, or ended by Ctrl-C or a closed pipe
  1   tail: a tick was later than --max-late; bench: the edge did not do what it
      promises (a tick lost, twice, early …)
  64  the command line is wrong
  69  the edge can't be reached at first; with --within: not in that time, or the
      connection ended; dev: an address can't be listened on
  70  a defect of the program
  74  the output can't be written
  75  bench: the figures are void, since the load generator was the bottleneck
  76  one side broke the protocol
  77  the edge refused: wrong credentials, an impossible subscription, no room
  78  a setting in the environment is wrong";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// The reason, for people.
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// Ends with `code` because of `error`.
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    /// Ends with `code` because of what `text` says.
    pub(crate) fn said(code: u8, text: String) -> Self {
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
