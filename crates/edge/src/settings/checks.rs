//! What the edge's settings must be to each other. Each check looks only at values that are fine alone: one mistake, one error.

use std::time::Duration;

use tickstorm_service::env::{Findings, Settings};
use tickstorm_service::fd_limit;

use super::{
    FD_TABLES, FRAME_RATE_LIMIT, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, HOLDOVER_MAX,
    MAX_CONNECTIONS, SHARDS, STREAM_PASS, STREAM_PASS_PREVIOUS, STREAM_TOKENS_FILE, STREAM_USER,
};
use crate::fd_budget::{self, FdTables, TooFewShards};

/// Three rounds, a second apart: with less, one lost answer or none at all makes an edge forget the time.
const HOLDOVER_ADVISED: Duration = Duration::from_secs(3);

/// The frames with which a client begins: SUBSCRIBE, and eight HEARTBEATs over 700 ms.
const OPENING_FRAMES: f64 = 9.0;
/// The seconds' worth of frames that an edge takes in that time: a burst of two seconds', and what those 700 ms bring.
const OPENING_SECONDS: f64 = 2.7;

/// Settings that are fine alone and do not go together.
#[derive(Debug, thiserror::Error)]
enum Contradiction {
    #[error("HEARTBEAT_TIMEOUT={timeout:?} must be greater than HEARTBEAT_INTERVAL={interval:?}")]
    HeartbeatTimeout {
        interval: Duration,
        timeout: Duration,
    },
    #[error(
        "STREAM_USER and STREAM_PASS, or STREAM_TOKENS_FILE, must be set: an edge serves nobody whom it does not know"
    )]
    NoCredentials,
    #[error("STREAM_USER is set without STREAM_PASS: set both or none")]
    NoPassword,
    #[error("STREAM_PASS is set without STREAM_USER: set both or none")]
    NoUser,
    #[error("STREAM_PASS_PREVIOUS is set without STREAM_PASS: set STREAM_PASS or neither")]
    OnlyPreviousPassword,
    #[error(transparent)]
    TooFewShards(#[from] TooFewShards),
}

/// Runs every check.
pub(super) fn run(settings: &Settings, findings: &mut Findings) {
    let contradict = |findings: &mut Findings, error: Option<Contradiction>| {
        if let Some(error) = error {
            findings.refuse(error);
        }
    };
    contradict(findings, heartbeat(settings));
    findings.refuse_unreadable(settings, &STREAM_TOKENS_FILE);
    contradict(findings, credentials(settings));
    contradict(findings, previous_password(settings));
    contradict(findings, too_few_shards(settings));
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

/// By this host's limit, so that it is found before anything is started.
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
            "HOLDOVER_MAX={holdover:?} is shorter than three rounds: one lost answer makes the edge forget the time; set 3s or more"
        )
    })
}

/// Clients that do as they are told must not be closed for it. They send HEARTBEAT at two thirds of the interval, or a little more often.
fn few_frames(settings: &Settings) -> Option<String> {
    let rate = settings.look_up(&FRAME_RATE_LIMIT)?;
    let interval = settings.look_up(&HEARTBEAT_INTERVAL)?;
    let per_second = f64::from(rate);
    if per_second * interval.as_secs_f64() < 2.0 {
        return Some(format!(
            "FRAME_RATE_LIMIT={rate} is less than two frames for each HEARTBEAT_INTERVAL={interval:?}: clients that send their heartbeats in time are closed for it"
        ));
    }
    (per_second * OPENING_SECONDS < OPENING_FRAMES).then(|| {
        format!(
            "FRAME_RATE_LIMIT={rate} has no room for the eight heartbeats that open a connection: clients are closed once before they send fewer; set 4 or more"
        )
    })
}
