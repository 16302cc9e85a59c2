//! Checks that the edge's settings fit together. Each check considers only values that are valid on
//! their own, so that one mistake causes one error.

use std::time::Duration;

use tickstorm_service::env::{Findings, Settings};
use tickstorm_service::fd_limit;

use super::{
    FD_TABLES, FRAME_RATE_LIMIT, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, HOLDOVER_MAX,
    MAX_CONNECTIONS, SHARDS, STREAM_PASS, STREAM_PASS_PREVIOUS, STREAM_TOKENS_FILE, STREAM_USER,
};
use crate::fd_budget::{self, FdTables, TooFewShards};

/// The shortest advisable HOLDOVER_MAX: three rounds, one second apart. With less, the edge loses
/// the time if a single answer is lost, or even if none is.
const HOLDOVER_ADVISED: Duration = Duration::from_secs(3);

/// The frames with which a client starts: SUBSCRIBE, and eight HEARTBEATs over 700 ms.
const OPENING_FRAMES: f64 = 9.0;
/// Multiplied by FRAME_RATE_LIMIT, the frames that an edge accepts in that time: a burst worth two
/// seconds, and another 700 ms worth of frames.
const OPENING_SECONDS: f64 = 2.7;

/// Settings that are valid on their own but contradict each other.
#[derive(Debug, thiserror::Error)]
enum Contradiction {
    #[error("HEARTBEAT_TIMEOUT={timeout:?} must be greater than HEARTBEAT_INTERVAL={interval:?}")]
    HeartbeatTimeout {
        interval: Duration,
        timeout: Duration,
    },
    #[error(
        "STREAM_USER and STREAM_PASS, or STREAM_TOKENS_FILE, must be set: an edge serves only \
         authenticated clients"
    )]
    NoCredentials,
    #[error("STREAM_USER is set without STREAM_PASS: set both or neither")]
    NoPassword,
    #[error("STREAM_PASS is set without STREAM_USER: set both or neither")]
    NoUser,
    #[error(
        "STREAM_PASS_PREVIOUS is set without STREAM_PASS: set STREAM_PASS too, or unset \
         STREAM_PASS_PREVIOUS"
    )]
    OnlyPreviousPassword,
    #[error(transparent)]
    TooFewShards(#[from] TooFewShards),
}

/// Runs every check.
pub(super) fn run(settings: &Settings, findings: &mut Findings) {
    let refuse = |findings: &mut Findings, error: Option<Contradiction>| {
        if let Some(error) = error {
            findings.refuse(error);
        }
    };
    refuse(findings, heartbeat(settings));
    findings.refuse_unreadable(settings, &STREAM_TOKENS_FILE);
    refuse(findings, credentials(settings));
    refuse(findings, previous_password(settings));
    refuse(findings, too_few_shards(settings));
    let warnings = [short_holdover(settings), few_frames(settings)];
    for warning in warnings.into_iter().flatten() {
        findings.warn(warning);
    }
}

fn heartbeat(settings: &Settings) -> Option<Contradiction> {
    let interval = settings.look_up(&HEARTBEAT_INTERVAL)?;
    let timeout = settings.look_up(&HEARTBEAT_TIMEOUT)?;
    (timeout <= interval).then_some(Contradiction::HeartbeatTimeout { interval, timeout })
}

fn credentials(settings: &Settings) -> Option<Contradiction> {
    let user = settings.look_up(&STREAM_USER)?;
    let password = settings.look_up(&STREAM_PASS)?;
    let tokens = settings.look_up(&STREAM_TOKENS_FILE)?;
    match (user, password, tokens) {
        (Some(_), Some(_), _) | (None, None, Some(_)) => None,
        (None, None, None) => Some(Contradiction::NoCredentials),
        (Some(_), None, _) => Some(Contradiction::NoPassword),
        (None, Some(_), _) => Some(Contradiction::NoUser),
    }
}

fn previous_password(settings: &Settings) -> Option<Contradiction> {
    let password = settings.look_up(&STREAM_PASS)?;
    let previous = settings.look_up(&STREAM_PASS_PREVIOUS)?;
    (password.is_none() && previous.is_some()).then_some(Contradiction::OnlyPreviousPassword)
}

/// Uses this host's open-file limit, so that the mistake is found before anything is started.
fn too_few_shards(settings: &Settings) -> Option<Contradiction> {
    let FdTables::PerShard = settings.look_up(&FD_TABLES)? else {
        return None;
    };
    let connections = settings.look_up(&MAX_CONNECTIONS)? as usize;
    let shards = settings.look_up(&SHARDS)?;
    let limit = fd_limit::hard().ok()?;
    let checked = fd_budget::check_shards(shards, connections, limit);
    checked.err().map(Contradiction::from)
}

fn short_holdover(settings: &Settings) -> Option<String> {
    let holdover = settings.look_up(&HOLDOVER_MAX)?;
    (holdover < HOLDOVER_ADVISED).then(|| {
        format!(
            "HOLDOVER_MAX={holdover:?} is shorter than three rounds: the edge loses the time if a \
             single answer is lost; set it to 3s or more"
        )
    })
}

/// Clients must not be closed for following the protocol. They send HEARTBEAT at two thirds of the
/// interval, or slightly more often.
fn few_frames(settings: &Settings) -> Option<String> {
    let rate = settings.look_up(&FRAME_RATE_LIMIT)?;
    let interval = settings.look_up(&HEARTBEAT_INTERVAL)?;
    let per_second = f64::from(rate);
    if per_second * interval.as_secs_f64() < 2.0 {
        return Some(format!(
            "FRAME_RATE_LIMIT={rate} allows fewer than two frames per \
             HEARTBEAT_INTERVAL={interval:?}: clients are closed for sending their heartbeats on \
             time"
        ));
    }
    (per_second * OPENING_SECONDS < OPENING_FRAMES).then(|| {
        format!(
            "FRAME_RATE_LIMIT={rate} has no room for the eight heartbeats at the start of a \
             connection: each client is closed once, and sends fewer only after it has \
             reconnected; set it to 4 or more"
        )
    })
}
