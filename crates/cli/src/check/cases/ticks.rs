//! Ticks of a subscription that starts now, and what all subscriptions have in common.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::{Mode, Quality};

use super::lateness::{measured, single_in_time, usually_in_time};
use crate::check::bytes::mode_number;
use crate::check::connection::{Connection, SeenTick, Subscribed};
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure, fail, skip};

/// The longest wait for the next full minute, unless this case was chosen.
const MINUTE_WAIT_MAX: Duration = Duration::from_secs(25);
/// A tick that is sent later than this is REPLAY.
const REPLAY_FROM_US: i64 = 1_000_000;

/// Opens a connection that knows authority time and stays alive.
pub(super) async fn ready(server: &Arc<Server>) -> Outcome<Connection> {
    let mut connection = server.authenticated().await?;
    connection.learn_time().await?;
    connection.keep_alive()?;
    Ok(connection)
}

/// Returns the earliest and the latest tick that may have been the last whose time had come when
/// the ACK was sent.
pub(super) fn latest_due(
    connection: &Connection,
    subscribed: &Subscribed,
    mode: Mode,
) -> Outcome<(i64, i64)> {
    let (earliest_us, _) = connection.unix_us_at(subscribed.sent_at)?;
    let (_, latest_us) = connection.unix_us_at(subscribed.read_at)?;
    let floor = |unix_us: i64| unix_us.div_euclid(mode.period_ms() * 1_000) * mode.period_ms();
    Ok((floor(earliest_us), floor(latest_us)))
}

/// Checks that a subscription without a resume point starts at the latest tick whose time has come.
pub(super) fn starts_now(
    connection: &Connection,
    subscribed: &Subscribed,
    mode: Mode,
) -> Outcome<()> {
    let start_ms = subscribed.ack.start_epoch_ms;
    let (earliest, latest) = latest_due(connection, subscribed, mode)?;
    ensure!(
        (earliest..=latest).contains(&start_ms) && start_ms % mode.period_ms() == 0,
        "start_epoch_ms of mode {} is {start_ms}, but the latest tick at that time was {}",
        mode.name(),
        if earliest == latest {
            earliest.to_string()
        } else {
            format!("{earliest} or {latest}")
        }
    );
    Ok(())
}

/// Checks that these are all the ticks of `mode` after `start_ms`, each once and in order.
pub(super) fn all_after(ticks: &[SeenTick], mode: Mode, start_ms: i64) -> Outcome<()> {
    let period_ms = mode.period_ms();
    let mut expected = (start_ms.div_euclid(period_ms) + 1) * period_ms;
    for tick in ticks {
        let (found, name) = (tick.epoch_ms, mode.name());
        ensure!(
            tick.mode == mode_number(mode),
            "tick {found} is of another mode than {name}"
        );
        if found < expected {
            fail!("tick {found} comes again, or is not after {start_ms}; {expected} was next");
        }
        ensure!(
            found == expected,
            "tick {expected} of mode {name} is missing; {found} came instead"
        );
        expected += period_ms;
    }
    Ok(())
}

/// Checks that no tick arrived before its time, and that no batch claims to have been sent later
/// than it arrived.
pub(super) fn none_early(connection: &Connection, ticks: &[SeenTick]) -> Outcome<()> {
    for tick in ticks {
        let (_, latest_us) = connection.unix_us_at(tick.read_at)?;
        let (epoch_ms, sent_us) = (tick.epoch_ms, tick.sent_unix_us);
        let early_us = epoch_ms.saturating_mul(1_000).saturating_sub(latest_us);
        ensure!(
            early_us <= 0,
            "tick {epoch_ms} arrived {} ms before its time",
            early_us / 1_000
        );
        ensure!(
            sent_us >= epoch_ms.saturating_mul(1_000),
            "the batch of tick {epoch_ms} was sent before its time, at {sent_us}, as it says"
        );
        ensure!(
            sent_us <= latest_us,
            "the batch of tick {epoch_ms} arrived before {sent_us}, when it was sent, as it says"
        );
    }
    Ok(())
}

/// Checks that ticks that were sent at their time are not REPLAY, and late ones are.
pub(super) fn replay_only_if_late(ticks: &[SeenTick]) -> Outcome<()> {
    for tick in ticks {
        let late_us = tick.sent_unix_us - tick.epoch_ms.saturating_mul(1_000);
        // At the limit itself, the clock may have been read twice.
        let is_at_the_limit = late_us.abs_diff(REPLAY_FROM_US) < 50_000;
        ensure!(
            is_at_the_limit || is_replay(tick) == (late_us > REPLAY_FROM_US),
            "tick {} was sent {} ms after its time with quality {}",
            tick.epoch_ms,
            late_us / 1_000,
            tick.quality
        );
    }
    Ok(())
}

pub(super) fn is_replay(tick: &SeenTick) -> bool {
    tick_quality(tick) == Quality::Replay
}

fn tick_quality(tick: &SeenTick) -> Quality {
    match tick.quality {
        1 => Quality::Holdover,
        2 => Quality::Replay,
        _ => Quality::Normal,
    }
}

pub(super) async fn second_ticks(server: Arc<Server>) -> Outcome {
    const COUNT: i64 = 5;
    let mut connection = ready(&server).await?;
    let subscribed = connection.subscribe(Mode::Second, None, false).await?;
    ensure!(
        subscribed.before_ack.is_empty(),
        "a tick came before the ACK of the first SUBSCRIBE"
    );
    let start_ms = subscribed.ack.start_epoch_ms;
    let wait = Duration::from_secs(COUNT.unsigned_abs());
    connection
        .ticks_until(start_ms + COUNT * 1_000, wait)
        .await?;
    let ticks = connection.take_ticks();
    all_after(&ticks, Mode::Second, start_ms)?;
    none_early(&connection, &ticks)?;
    replay_only_if_late(&ticks)?;
    let mut worst_us = 0;
    for tick in ticks.iter().filter(|tick| !is_replay(tick)) {
        let (earliest_us, _) = connection.unix_us_at(tick.read_at)?;
        worst_us = worst_us.max(earliest_us - tick.epoch_ms.saturating_mul(1_000));
    }
    ensure!(
        worst_us <= REPLAY_FROM_US + i64::try_from(connection.allowance().as_micros()).unwrap_or(0),
        "a tick that is not REPLAY arrived {} ms after its time",
        worst_us / 1_000
    );
    // Also those that are REPLAY: none is, unless the server was late.
    let late = measured(&server, &connection, &ticks)?;
    usually_in_time(&server, late)?;
    Ok(late.to_string())
}

pub(super) async fn start(server: Arc<Server>) -> Outcome {
    let welcome = &server.welcome()?.ack;
    for mode in [Mode::Second, Mode::Minute] {
        let mut connection = ready(&server).await?;
        let subscribed = connection.subscribe(mode, None, false).await?;
        starts_now(&connection, &subscribed, mode)?;
        let ack = subscribed.ack;
        let same = ack.heartbeat_interval_ms == welcome.heartbeat_interval_ms
            && ack.heartbeat_timeout_ms == welcome.heartbeat_timeout_ms
            && ack.protocol_minor == welcome.protocol_minor;
        ensure!(
            same,
            "the ACK of SUBSCRIBE differs from that of AUTH: {ack:?}"
        );
        let is_of_auth_only =
            ack.connection_id.is_empty() && ack.frame_rate_limit == 0 && ack.cookie.is_empty();
        ensure!(
            is_of_auth_only,
            "the ACK of SUBSCRIBE has fields that only that of AUTH has: {ack:?}"
        );
    }
    Ok(String::new())
}

pub(super) async fn minute_tick(server: Arc<Server>) -> Outcome {
    // SECOND ticks on another connection tell a late tick from a stall.
    let (mut connection, mut other) = (ready(&server).await?, ready(&server).await?);
    other.subscribe(Mode::Second, None, false).await?;
    let subscribed = connection.subscribe(Mode::Minute, None, false).await?;
    let next_ms = subscribed.ack.start_epoch_ms + Mode::Minute.period_ms();
    let (now_us, _) = connection.unix_us_at(Server::now())?;
    let wait_us = u64::try_from(next_ms * 1_000 - now_us).unwrap_or(0);
    let wait = Duration::from_micros(wait_us);
    if wait > MINUTE_WAIT_MAX && !server.waits_for_minute() {
        skip!(
            "the next minute begins in {} s; --only minute-tick waits for it",
            wait.as_secs()
        );
    }
    tokio::try_join!(
        Box::pin(connection.ticks_until(next_ms, wait)),
        Box::pin(other.ticks_until(next_ms, wait)),
    )?;
    let ticks = connection.take_ticks();
    all_after(&ticks, Mode::Minute, subscribed.ack.start_epoch_ms)?;
    none_early(&connection, &ticks)?;
    replay_only_if_late(&ticks)?;
    let seconds = other.take_ticks();
    let same_time: Vec<_> = seconds
        .iter()
        .filter(|tick| tick.epoch_ms == next_ms)
        .cloned()
        .collect();
    let late = measured(&server, &connection, &ticks)?;
    let others = measured(&server, &other, &seconds)?;
    let same_time = measured(&server, &other, &same_time)?;
    single_in_time(&server, late, others, same_time)
}
