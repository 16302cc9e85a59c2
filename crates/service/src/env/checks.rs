//! What settings must be to each other. Each check looks only at values that are fine alone: one mistake, one error.

use std::fs::File;
use std::time::Duration;

use super::{Group, Settings, SettingsError, table};
use crate::open_files::{self, Tables};

/// Three rounds, a second apart: with less, one lost answer or none at all makes an edge forget the time.
const HOLDOVER_ADVISED: Duration = Duration::from_secs(3);

/// The frames with which a client begins: SUBSCRIBE, and eight HEARTBEATs over 700 ms.
const OPENING_FRAMES: f64 = 9.0;
/// The seconds' worth of frames that an edge takes in that time: a burst of two seconds', and what those 700 ms bring.
const OPENING_SECONDS: f64 = 2.7;

/// Runs every check that concerns `groups`.
pub(super) fn run(
    settings: &Settings,
    groups: &[Group],
    errors: &mut Vec<SettingsError>,
    warnings: &mut Vec<String>,
) {
    let together = |message: String| SettingsError::Together(message);
    errors.extend(heartbeat(settings).map(together));
    errors.extend(nats_login(settings).map(together));
    errors.extend(nats_certificate(settings).map(together));
    errors.extend(unreadable(settings));
    if groups.contains(&Group::Edge) {
        errors.extend(credentials(settings).map(together));
        errors.extend(previous_password(settings).map(together));
        errors.extend(too_few_shards(settings).map(together));
    }
    warnings.extend(announced_too_late(settings));
    warnings.extend(short_holdover(settings));
    warnings.extend(few_frames(settings));
}

fn heartbeat(settings: &Settings) -> Option<String> {
    let interval = settings.look_up(&table::HEARTBEAT_INTERVAL)?;
    let timeout = settings.look_up(&table::HEARTBEAT_TIMEOUT)?;
    (timeout <= interval).then(|| {
        format!(
            "HEARTBEAT_TIMEOUT={timeout:?} must be greater than HEARTBEAT_INTERVAL={interval:?}"
        )
    })
}

/// NATS takes one login: of two it would be a guess which one is meant.
fn nats_login(settings: &Settings) -> Option<String> {
    let user = settings.look_up(&table::NATS_USER)?;
    let password = settings.look_up(&table::NATS_PASSWORD)?;
    let token = settings.look_up(&table::NATS_TOKEN)?;
    let file = settings.look_up(&table::NATS_CREDS_FILE)?;
    if user.is_some() != password.is_some() {
        return Some("NATS_USER and NATS_PASSWORD go together: set both or none".into());
    }
    let logins = [user.is_some(), token.is_some(), file.is_some()];
    (logins.into_iter().filter(|set| *set).count() > 1).then(|| {
        "NATS_USER, NATS_TOKEN and NATS_CREDS_FILE are three ways to log in: set one of them".into()
    })
}

fn nats_certificate(settings: &Settings) -> Option<String> {
    let certificate = settings.look_up(&table::NATS_CERT_FILE)?;
    let key = settings.look_up(&table::NATS_KEY_FILE)?;
    (certificate.is_some() != key.is_some())
        .then(|| "NATS_CERT_FILE and NATS_KEY_FILE go together: set both or none".into())
}

/// Files that are read again while the process runs: a wrong path is better told before that.
fn unreadable(settings: &Settings) -> Vec<SettingsError> {
    let files = [
        &table::NATS_CREDS_FILE,
        &table::NATS_CA_FILE,
        &table::NATS_CERT_FILE,
        &table::NATS_KEY_FILE,
        &table::STREAM_TOKENS_FILE,
    ];
    let unreadable = |setting| {
        let path = settings.look_up(setting)??;
        let error = File::open(&path).err()?;
        Some(SettingsError::File {
            variable: setting.name().into(),
            path,
            error: error.into(),
        })
    };
    files.into_iter().filter_map(unreadable).collect()
}

fn credentials(settings: &Settings) -> Option<String> {
    let user = settings.look_up(&table::STREAM_USER)?;
    let password = settings.look_up(&table::STREAM_PASS)?;
    let tokens = settings.look_up(&table::STREAM_TOKENS_FILE)?;
    let missing = match (user, password, tokens) {
        (Some(_), Some(_), _) | (None, None, Some(_)) => return None,
        (None, None, None) => {
            "STREAM_USER and STREAM_PASS, or STREAM_TOKENS_FILE, must be set: an edge serves nobody whom it does not know"
        }
        (Some(_), None, _) => "STREAM_USER is set without STREAM_PASS: set both or none",
        (None, Some(_), _) => "STREAM_PASS is set without STREAM_USER: set both or none",
    };
    Some(missing.into())
}

fn previous_password(settings: &Settings) -> Option<String> {
    let password = settings.look_up(&table::STREAM_PASS)?;
    let previous = settings.look_up(&table::STREAM_PASS_PREVIOUS)?;
    (password.is_none() && previous.is_some()).then(|| {
        "STREAM_PASS_PREVIOUS is set without STREAM_PASS: set STREAM_PASS or neither".into()
    })
}

/// By this host's limit, so that it is found before anything is started.
fn too_few_shards(settings: &Settings) -> Option<String> {
    let Tables::PerShard = settings.look_up(&table::FD_TABLES)? else {
        return None;
    };
    let connections = settings.look_up(&table::MAX_CONNECTIONS)? as usize;
    let shards = settings.look_up(&table::SHARDS)?;
    let limit = open_files::limit().ok()?;
    let checked = open_files::check_shards(shards, connections, limit);
    checked.err().map(|error| error.to_string())
}

/// In a process that is clock and edge, both sides of the promise are known.
fn announced_too_late(settings: &Settings) -> Option<String> {
    let ahead = settings.look_up(&table::AHEAD_MS)?;
    let lead = settings.look_up(&table::TICK_LEAD_MS)?;
    (ahead >= lead).then(|| {
        format!(
            "AHEAD_MS={} is not below TICK_LEAD_MS={}: ticks sent ahead will carry quality HOLDOVER",
            ahead.as_millis(),
            lead.as_millis()
        )
    })
}

fn short_holdover(settings: &Settings) -> Option<String> {
    let holdover = settings.look_up(&table::HOLDOVER_MAX)?;
    (holdover < HOLDOVER_ADVISED).then(|| {
        format!(
            "HOLDOVER_MAX={holdover:?} is shorter than three rounds: one lost answer makes the edge forget the time; set 3s or more"
        )
    })
}

/// Clients that do as they are told must not be closed for it. They send HEARTBEAT at two thirds of the interval, or a little more often.
fn few_frames(settings: &Settings) -> Option<String> {
    let rate = settings.look_up(&table::FRAME_RATE_LIMIT)?;
    let interval = settings.look_up(&table::HEARTBEAT_INTERVAL)?;
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
