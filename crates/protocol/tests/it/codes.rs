//! Tests that error codes and close reasons match the table in the protocol's documentation.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use tickstorm_protocol::EarlierSchema;
use tickstorm_protocol::code::{
    CloseReason, ErrorCode, LogLevel, ReplayLimited, Return, UnknownCode,
};
use tickstorm_protocol::frame::{FrameError, FrameType};

const SOON: Option<RangeInclusive<u32>> = Some(1..=5_000);
/// During a drain, which has already spread the closes.
const SPREAD: Option<RangeInclusive<u32>> = Some(1..=500);
const LATER: Option<RangeInclusive<u32>> = Some(1_000..=10_000);

/// The protocol's table, in its order: each code's name, how a client comes back, and the range of
/// `retry_after_ms`.
const TABLE: &[(&str, Return, Option<RangeInclusive<u32>>)] = &[
    ("BAD_MAGIC", Return::No, None),
    ("UNSUPPORTED_VERSION", Return::No, None),
    ("UNKNOWN_TYPE", Return::No, None),
    ("MESSAGE_TOO_LARGE", Return::No, None),
    ("BAD_CHECKSUM", Return::AtOnce, None),
    ("MALFORMED_PAYLOAD", Return::No, None),
    ("AUTH_REQUIRED", Return::No, None),
    ("AUTH_FAILED", Return::No, None),
    ("ALREADY_AUTHENTICATED", Return::No, None),
    ("AUTH_TIMEOUT", Return::Later, LATER),
    ("AUTH_RATE_LIMITED", Return::Later, LATER),
    ("INVALID_SUBSCRIPTION", Return::RetryResumeOnce, None),
    ("UNEXPECTED_MESSAGE", Return::No, None),
    ("RATE_LIMITED", Return::Later, LATER),
    ("HEARTBEAT_TIMEOUT", Return::AtOnce, SOON),
    ("SLOW_CONSUMER", Return::AtOnce, None),
    ("TIME_STEPPED", Return::AtOnceWithoutResume, SOON),
    ("SERVER_FULL", Return::Elsewhere, LATER),
    ("SERVER_DRAINING", Return::Elsewhere, SPREAD),
    ("NO_TIME", Return::Elsewhere, LATER),
    ("TOO_MANY_CONNECTIONS", Return::Elsewhere, LATER),
    ("INTERNAL", Return::Later, LATER),
];

#[test]
fn each_code_has_the_name_the_return_and_the_range_in_the_table() {
    assert_eq!(TABLE.len(), ErrorCode::ALL.len());
    for (code, (name, come_back, hint)) in ErrorCode::ALL.iter().zip(TABLE) {
        assert_eq!(code.to_string(), *name);
        assert_eq!(name.parse(), Ok(*code));
        assert_eq!(code.label(), name.to_lowercase());
        assert_eq!(code.come_back(), *come_back, "{name}");
        assert_eq!(code.retry_after_ms(), *hint, "{name}");
    }
}

#[test]
fn the_text_of_an_unknown_code_is_kept() {
    let unknown = UnknownCode("OUT_OF_CHEESE".to_owned());
    assert_eq!("OUT_OF_CHEESE".parse::<ErrorCode>(), Err(unknown));
    assert!("bad_magic".parse::<ErrorCode>().is_err());
}

fn reasons() -> Vec<CloseReason> {
    let frame_type = FrameType::Pong;
    let allowed = Duration::from_secs(5);
    vec![
        CloseReason::Frame(FrameError::BadMagic {
            position: 1,
            found: 0x16,
        }),
        CloseReason::Frame(FrameError::UnsupportedVersion { found: 2 }),
        CloseReason::Frame(FrameError::UnknownType { found: 9 }),
        CloseReason::Frame(FrameError::TooLarge {
            claimed: 5_000,
            allowed: 4_096,
        }),
        CloseReason::Frame(FrameError::BadChecksum {
            found: 1,
            computed: 2,
        }),
        CloseReason::MalformedPayload { frame_type },
        CloseReason::AuthRequired { found: 3 },
        CloseReason::AuthFailed,
        CloseReason::AlreadyAuthenticated,
        CloseReason::AuthTimeout { allowed },
        CloseReason::AuthRateLimited,
        CloseReason::UnknownMode { found: 7 },
        CloseReason::EarlierSchema(EarlierSchema::Symbols),
        CloseReason::ResumeTooFar,
        CloseReason::UnexpectedMessage { frame_type },
        CloseReason::RateLimited {
            per_second: 10,
            burst: 200,
        },
        CloseReason::ReplayLimited {
            asked: 600,
            per_minute: 1_200,
            limited: ReplayLimited::Connection,
        },
        CloseReason::HeartbeatTimeout { allowed },
        CloseReason::SlowConsumer,
        CloseReason::TimeStepped,
        CloseReason::ServerFull,
        CloseReason::BuffersFull,
        CloseReason::ServerDraining,
        CloseReason::MovedAway,
        CloseReason::NoTime,
        CloseReason::TooManyConnections,
        CloseReason::Internal,
        CloseReason::Blocked,
        CloseReason::ClientClosed,
        CloseReason::HealthCheck,
        CloseReason::ConnectionLost,
        CloseReason::TlsFailed,
        CloseReason::ProxyHeader,
        CloseReason::Operator,
        CloseReason::Shutdown,
    ]
}

#[test]
fn a_resume_point_too_far_ahead_is_worth_another_try_after_the_edges_next_round() {
    for reason in reasons() {
        let expected = if reason == CloseReason::ResumeTooFar {
            Some(1_100..=2_100)
        } else {
            reason.error_code().and_then(ErrorCode::retry_after_ms)
        };
        assert_eq!(reason.retry_after_ms(), expected, "{reason}");
    }
    let unknown_mode = CloseReason::UnknownMode { found: 7 };
    assert_eq!(unknown_mode.retry_after_ms(), None);
}

#[test]
fn every_code_belongs_to_a_reason_and_every_label_is_listed_once() {
    let reasons = reasons();
    for code in ErrorCode::ALL {
        let found = reasons
            .iter()
            .any(|reason| reason.error_code() == Some(*code));
        assert!(found, "no close reason has the code {code}");
    }
    let used: BTreeSet<_> = reasons.iter().map(|reason| reason.label()).collect();
    let listed: Vec<_> = CloseReason::labels().collect();
    assert_eq!(used, listed.iter().copied().collect());
    assert_eq!(used.len(), listed.len());
}

#[test]
fn only_a_defect_is_logged_as_a_warning() {
    for reason in reasons() {
        let expected = if reason == CloseReason::Internal {
            LogLevel::Warn
        } else {
            LogLevel::Debug
        };
        assert_eq!(reason.log_level(), expected, "{reason:?}");
    }
}

fn assert_contains(reason: CloseReason, parts: &[&str]) {
    let text = reason.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}

#[test]
fn a_client_of_the_earlier_server_is_told_what_is_different() {
    for (sign, shown) in [
        (EarlierSchema::Symbols, "field 2, symbols,"),
        (EarlierSchema::StartTime, "field 3, start_time_ms,"),
        (EarlierSchema::Metadata, "field 4, metadata,"),
        (EarlierSchema::MinuteMode, "mode 2,"),
    ] {
        assert_contains(
            CloseReason::EarlierSchema(sign),
            &[
                shown,
                "earlier Go server",
                "SECOND is 0",
                "MINUTE is 1",
                "docs/migration.md",
            ],
        );
    }
}

#[test]
fn a_reason_says_what_was_wrong_and_what_is_allowed() {
    let bad_magic = FrameError::BadMagic {
        position: 0,
        found: 0x16,
    };
    assert_contains(bad_magic.into(), &["byte 0", "0x16", "0xF5 0x7D", "TLS"]);
    assert_contains(
        FrameError::UnsupportedVersion { found: 2 }.into(),
        &["version 2", "version 1"],
    );
    assert_contains(
        FrameError::UnknownType { found: 9 }.into(),
        &["0x09", "0x01 to 0x07", "0x80"],
    );
    let too_large = FrameError::TooLarge {
        claimed: 5_000,
        allowed: 4_096,
    };
    assert_contains(too_large.into(), &["5000", "4096"]);
    let bad_checksum = FrameError::BadChecksum {
        found: 1,
        computed: 0xAB,
    };
    assert_contains(bad_checksum.into(), &["0x00000001", "0x000000AB", "CRC32C"]);
    let frame_type = FrameType::Subscribe;
    assert_contains(CloseReason::MalformedPayload { frame_type }, &["SUBSCRIBE"]);
    assert_contains(CloseReason::AuthRequired { found: 3 }, &["AUTH", "0x03"]);
    assert_contains(
        CloseReason::UnknownMode { found: 7 },
        &["mode 7", "SECOND (0)", "MINUTE (1)"],
    );
    assert_contains(
        CloseReason::ResumeTooFar,
        &["resume_after_epoch_ms", "15 s"],
    );
    let too_many_frames = CloseReason::RateLimited {
        per_second: 10,
        burst: 200,
    };
    assert_contains(
        too_many_frames,
        &["10 frames per second", "200", "a SUBSCRIBE counts as ten"],
    );
    for (limited, whose) in [
        (ReplayLimited::Connection, "a connection"),
        (ReplayLimited::Address, "an address"),
    ] {
        let too_many_ticks = CloseReason::ReplayLimited {
            asked: 600,
            per_minute: 1_200,
            limited,
        };
        assert_contains(
            too_many_ticks,
            &["600", "1200", whose, "in a minute", "resume_after_epoch_ms"],
        );
    }
    let allowed = Duration::from_millis(20_500);
    assert_contains(
        CloseReason::HeartbeatTimeout { allowed },
        &["20.5s", "HEARTBEAT"],
    );
    assert_contains(CloseReason::AuthTimeout { allowed }, &["20.5s", "AUTH"]);
}
