//! Checks that the edge's settings fit together. Each check considers only values that are valid on
//! their own, so that one mistake causes one error.

use std::time::Duration;

use tickstorm_service::byte_size::ByteSize;
use tickstorm_service::duration::Written;
use tickstorm_service::env::{Findings, Settings};
use tickstorm_service::fd_limit;
use tickstorm_service::nats;

use super::{
    CLOCKS, COOKIE_KEY_FILE, FD_TABLES, FRAME_RATE_LIMIT, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT,
    HOLDOVER_MAX, IP_ALLOWLIST_FILE, IP_BLOCKLIST_FILE, MAX_BUFFERED_BYTES, MAX_CONNECTIONS,
    PROXY_PROTOCOL, PROXY_TRUSTED, ProxyProtocol, SHARDS, STREAM_PASS, STREAM_PASS_PREVIOUS,
    STREAM_TOKENS_FILE, STREAM_USER, TLS_CA_FILE, TLS_CERT_FILE, TLS_CLIENT_AUTH, TLS_CRL_FILE,
    TLS_ENABLED, TLS_KEY_FILE,
};
use crate::fd_budget::{self, FdTables, TooFewShards};
use crate::tls::ClientAuth;

/// The shortest advisable HOLDOVER_MAX: three rounds, one second apart. With less, the edge loses
/// the time if a single answer is lost, or even if none is.
const HOLDOVER_ADVISED: Duration = Duration::from_secs(3);

/// The lowest advisable FRAME_RATE_LIMIT. While an edge does not know the time, clients send a
/// HEARTBEAT each second, some of them a little sooner. The frames with which a client starts fit
/// into a burst, however low the limit.
const FRAME_RATE_ADVISED: u32 = 2;

/// The least product of HEARTBEAT_INTERVAL in milliseconds and FRAME_RATE_LIMIT: two frames.
const TWO_FRAMES: u64 = 2_000;

/// The least share of MAX_BUFFERED_BYTES for a shard: sixteen connections, each with a partial TLS
/// record of any length. The default is enough for the most shards.
const SHARE_MIN: ByteSize = ByteSize::kib(256);

/// Settings that are valid on their own but contradict each other.
#[derive(Debug, thiserror::Error)]
enum Contradiction {
    #[error("HEARTBEAT_TIMEOUT={timeout:?} must be greater than HEARTBEAT_INTERVAL={interval:?}")]
    HeartbeatTimeout {
        interval: Duration,
        timeout: Duration,
    },
    #[error(
        "HEARTBEAT_INTERVAL={interval:?} is too short for FRAME_RATE_LIMIT={rate}: clients, which \
         send HEARTBEAT about every two thirds of it, would be closed with RATE_LIMITED for it. \
         There must be at least two frames per interval: set HEARTBEAT_INTERVAL to {interval_min} \
         or more, and HEARTBEAT_TIMEOUT above it, or FRAME_RATE_LIMIT to {rate_min} or more"
    )]
    HeartbeatRate {
        interval: Duration,
        rate: u32,
        interval_min: Written,
        rate_min: u32,
    },
    #[error(
        "STREAM_USER and STREAM_PASS, or STREAM_TOKENS_FILE, must be set: an edge serves only \
         authenticated clients"
    )]
    NoCredentials,
    #[error(
        "CLOCKS must name the clocks that may vote, such as clock-0,clock-1,clock-2, because \
         NATS_URL names {hosts}: an edge without it lets everyone vote who may publish there"
    )]
    NoClocks { hosts: String },
    #[error("STREAM_USER is set without STREAM_PASS: set both or neither")]
    NoPassword,
    #[error("STREAM_PASS is set without STREAM_USER: set both or neither")]
    NoUser,
    #[error(
        "STREAM_PASS_PREVIOUS is set without STREAM_PASS: set STREAM_PASS too, or unset \
         STREAM_PASS_PREVIOUS"
    )]
    OnlyPreviousPassword,
    #[error("TLS_ENABLED=true needs {0}")]
    NoTlsFile(&'static str),
    #[error("{0} is set without TLS_ENABLED=true: clients would connect in plain text")]
    TlsFileWithoutTls(&'static str),
    #[error("TLS_CLIENT_AUTH=require_verify needs TLS_CA_FILE")]
    NoAuthorities,
    #[error("{0} is set without TLS_CLIENT_AUTH=require_verify, so it would have no effect")]
    NoClientAuth(&'static str),
    #[error("TLS_CLIENT_AUTH=require_verify needs TLS_ENABLED=true")]
    ClientAuthWithoutTls,
    #[error(
        "PROXY_PROTOCOL=on needs PROXY_TRUSTED, the networks of the load balancers that send \
         PROXY headers"
    )]
    NoBalancers,
    #[error("PROXY_TRUSTED is set without PROXY_PROTOCOL=on, so it would have no effect")]
    NoProxyProtocol,
    #[error(
        "MAX_BUFFERED_BYTES={max} divided among SHARDS={shards} leaves less than {SHARE_MIN} for \
         each shard: set it to at least {SHARE_MIN} times SHARDS"
    )]
    SmallBuffers { max: ByteSize, shards: usize },
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
    refuse(findings, no_clocks(settings));
    refuse(findings, heartbeat(settings));
    refuse(findings, heartbeat_rate(settings));
    for file in [
        &STREAM_TOKENS_FILE,
        &COOKIE_KEY_FILE,
        &IP_ALLOWLIST_FILE,
        &IP_BLOCKLIST_FILE,
    ] {
        findings.refuse_unreadable(settings, file);
    }
    refuse(findings, credentials(settings));
    refuse(findings, previous_password(settings));
    refuse(findings, too_few_shards(settings));
    refuse(findings, proxy(settings));
    refuse(findings, small_buffers(settings));
    tls(settings)
        .into_iter()
        .for_each(|error| findings.refuse(error));
    for file in [&TLS_CERT_FILE, &TLS_KEY_FILE, &TLS_CA_FILE, &TLS_CRL_FILE] {
        findings.refuse_unreadable(settings, file);
    }
    let warnings = [
        short_holdover(settings),
        few_frames(settings),
        everyone_is_trusted(settings),
    ];
    for warning in warnings.into_iter().flatten() {
        findings.warn(warning);
    }
}

fn no_clocks(settings: &Settings) -> Option<Contradiction> {
    let clocks = settings.look_up(&CLOCKS)?;
    let hosts = nats::hosts_beyond_loopback(settings)?;
    (clocks.is_empty() && !hosts.is_empty()).then(|| Contradiction::NoClocks {
        hosts: hosts.join(", "),
    })
}

fn heartbeat(settings: &Settings) -> Option<Contradiction> {
    let interval = settings.look_up(&HEARTBEAT_INTERVAL)?;
    let timeout = settings.look_up(&HEARTBEAT_TIMEOUT)?;
    (timeout <= interval).then_some(Contradiction::HeartbeatTimeout { interval, timeout })
}

/// Clients must not be closed for following the protocol. They send HEARTBEAT at two thirds of the
/// interval, or up to a tenth sooner, and now and then another frame.
fn heartbeat_rate(settings: &Settings) -> Option<Contradiction> {
    let interval = settings.look_up(&HEARTBEAT_INTERVAL)?;
    let rate = settings.look_up(&FRAME_RATE_LIMIT)?;
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    (interval_ms.saturating_mul(rate.into()) < TWO_FRAMES).then(|| Contradiction::HeartbeatRate {
        interval,
        rate,
        interval_min: Written(Duration::from_millis(TWO_FRAMES.div_ceil(rate.into()))),
        rate_min: u32::try_from(TWO_FRAMES.div_ceil(interval_ms)).unwrap_or(u32::MAX),
    })
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

fn proxy(settings: &Settings) -> Option<Contradiction> {
    let protocol = settings.look_up(&PROXY_PROTOCOL)?;
    let trusted = settings.look_up(&PROXY_TRUSTED)?;
    match (protocol, trusted) {
        (ProxyProtocol::On, None) => Some(Contradiction::NoBalancers),
        (ProxyProtocol::Off, Some(_)) => Some(Contradiction::NoProxyProtocol),
        (ProxyProtocol::On, Some(_)) | (ProxyProtocol::Off, None) => None,
    }
}

fn everyone_is_trusted(settings: &Settings) -> Option<String> {
    let network = settings.look_up(&PROXY_TRUSTED)??.universal()?;
    Some(format!(
        "PROXY_TRUSTED contains {network}, which is every address: a client that reaches the edge \
         without a load balancer could claim any address"
    ))
}

/// A file that is set is never ignored: without TLS, passwords would travel in plain text although
/// the operator expects otherwise.
fn tls(settings: &Settings) -> Vec<Contradiction> {
    let is_set = |file| matches!(settings.look_up(file), Some(Some(_)));
    let needed = [
        ("TLS_CERT_FILE", &TLS_CERT_FILE),
        ("TLS_KEY_FILE", &TLS_KEY_FILE),
    ];
    let of_clients = [
        ("TLS_CA_FILE", &TLS_CA_FILE),
        ("TLS_CRL_FILE", &TLS_CRL_FILE),
    ];
    let (Some(is_enabled), Some(client_auth)) = (
        settings.look_up(&TLS_ENABLED),
        settings.look_up(&TLS_CLIENT_AUTH),
    ) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, file) in needed {
        match (is_enabled, settings.look_up(file)) {
            (true, Some(None)) => found.push(Contradiction::NoTlsFile(name)),
            (false, Some(Some(_))) => found.push(Contradiction::TlsFileWithoutTls(name)),
            (_, _) => {}
        }
    }
    match client_auth {
        ClientAuth::RequireVerify if !is_enabled => found.push(Contradiction::ClientAuthWithoutTls),
        ClientAuth::RequireVerify if matches!(settings.look_up(&TLS_CA_FILE), Some(None)) => {
            found.push(Contradiction::NoAuthorities);
        }
        ClientAuth::RequireVerify => {}
        ClientAuth::None => {
            let unused = of_clients.into_iter().filter(|(_, file)| is_set(file));
            found.extend(unused.map(|(name, _)| Contradiction::NoClientAuth(name)));
        }
    }
    found
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

fn small_buffers(settings: &Settings) -> Option<Contradiction> {
    let max = settings.look_up(&MAX_BUFFERED_BYTES)?;
    let shards = settings.look_up(&SHARDS)?;
    let share = max.bytes() / u64::try_from(shards.max(1)).unwrap_or(u64::MAX);
    (share < SHARE_MIN.bytes()).then_some(Contradiction::SmallBuffers { max, shards })
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

fn few_frames(settings: &Settings) -> Option<String> {
    let rate = settings.look_up(&FRAME_RATE_LIMIT)?;
    (rate < FRAME_RATE_ADVISED).then(|| {
        format!(
            "FRAME_RATE_LIMIT={rate} has no room for the heartbeats that clients send each second \
             while an edge does not know the time: each client may be closed once, and sends fewer \
             only after it has reconnected; set it to {FRAME_RATE_ADVISED} or more"
        )
    })
}
