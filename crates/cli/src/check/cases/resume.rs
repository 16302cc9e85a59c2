//! Subscriptions with a resume point.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_protocol::ErrorCode;
use tickstorm_timebase::Mode;

use super::ticks::{all_after, is_replay, latest_due, none_early, ready, replay_only_if_late};
use crate::check::bytes;
use crate::check::connection::{Connection, SUBSCRIBE_COST, SeenTick, Subscribed};
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure, fail, inconclusive, skip};

/// The longest window that an edge can be configured to, and the rounding to a tick.
const WINDOW_MS_MAX: i64 = 3_605_000;
/// How much less far back than the window a resume point is, since SUBSCRIBE takes its time.
pub(super) const MARGIN_MS: i64 = 3_000;
/// How old the last tick of a connection is at most when the next one subscribes, apart from
/// [`MARGIN_MS`].
const LAST_TICK_AGE_MS: i64 = 2_000;

/// Returns authority time in milliseconds, as well as it is known.
fn now_ms(connection: &Connection) -> Outcome<i64> {
    let (earliest_us, latest_us) = connection.unix_us_at(Server::now())?;
    Ok(i64::midpoint(earliest_us, latest_us) / 1_000)
}

/// Resumes after `point_ms`, receives all ticks up to `further` after those that are due, and
/// checks them.
async fn resumed(
    server: &Arc<Server>,
    connection: &mut Connection,
    mode: Mode,
    point_ms: i64,
    further: i64,
) -> Outcome<(Subscribed, Vec<SeenTick>)> {
    let subscribed = connection.subscribe(mode, Some(point_ms), false).await?;
    let start_ms = subscribed.ack.start_epoch_ms;
    if start_ms > point_ms {
        let (_, acked_us) = connection.unix_us_at(subscribed.read_at)?;
        if acked_us / 1_000 - point_ms > window_ms(server).await? {
            inconclusive!("the resume point left the window before the ACK: this machine is slow");
        }
    }
    ensure!(
        start_ms == point_ms,
        "start_epoch_ms is {start_ms} instead of the resume point {point_ms}"
    );
    let (_, latest) = latest_due(connection, &subscribed, mode)?;
    let last_ms = latest + further * mode.period_ms();
    let wait_ms = u64::try_from(further * mode.period_ms()).unwrap_or(0);
    if last_ms > start_ms {
        let wait = Duration::from_millis(wait_ms);
        connection.ticks_until(last_ms, wait).await?;
    }
    let ticks = connection.take_ticks();
    check_resumed(connection, &subscribed, mode, &ticks)?;
    Ok((subscribed, ticks))
}

/// Checks that all ticks after the start are there, and that those that were due are REPLAY.
fn check_resumed(
    connection: &Connection,
    subscribed: &Subscribed,
    mode: Mode,
    ticks: &[SeenTick],
) -> Outcome<()> {
    all_after(ticks, mode, subscribed.ack.start_epoch_ms)?;
    none_early(connection, ticks)?;
    let (earliest, latest) = latest_due(connection, subscribed, mode)?;
    for tick in ticks.iter().filter(|tick| tick.epoch_ms <= earliest) {
        ensure!(
            is_replay(tick),
            "tick {} was due before SUBSCRIBE, but its quality is {} instead of REPLAY",
            tick.epoch_ms,
            tick.quality
        );
    }
    let later: Vec<_> = ticks
        .iter()
        .filter(|tick| tick.epoch_ms > latest)
        .cloned()
        .collect();
    replay_only_if_late(&later)
}

/// Returns how far back a subscription can surely resume, in milliseconds.
pub(super) async fn window_ms(server: &Arc<Server>) -> Outcome<i64> {
    let measured = server.window_ms(Box::pin(measure_window_ms(server))).await;
    measured.map_err(|stop| stop.about("how far back the server replays"))
}

async fn measure_window_ms(server: &Arc<Server>) -> Outcome<i64> {
    let mut connection = ready(server).await?;
    let subscribed = connection.subscribe(Mode::Second, Some(0), false).await?;
    let back_ms = back_ms(&connection, &subscribed)?;
    // The start may be rounded down to a tick.
    Ok((back_ms - Mode::Second.period_ms()).max(0))
}

/// Returns the time from the start of a subscription to its ACK, in milliseconds.
fn back_ms(connection: &Connection, subscribed: &Subscribed) -> Outcome<i64> {
    let (_, latest_us) = connection.unix_us_at(subscribed.read_at)?;
    Ok(latest_us / 1_000 - subscribed.ack.start_epoch_ms)
}

/// Returns how far back to resume: `wanted_ms`, or less if the window demands it. Skips the case
/// if that is less than `least_ms`.
async fn within_window_ms(server: &Arc<Server>, wanted_ms: i64, least_ms: i64) -> Outcome<i64> {
    let window_ms = window_ms(server).await?;
    let back_ms = wanted_ms.min(window_ms - MARGIN_MS);
    if back_ms < least_ms {
        skip!("the server replays only the last {window_ms} ms or little more");
    }
    Ok(back_ms)
}

pub(super) async fn recent(server: Arc<Server>) -> Outcome {
    let back_ms = within_window_ms(&server, 20_000, 1_000).await?;
    let mut connection = ready(&server).await?;
    // A tick, and no earlier than that.
    let point_ms = (now_ms(&connection)? - back_ms + 999) / 1_000 * 1_000;
    let (_, ticks) = resumed(&server, &mut connection, Mode::Second, point_ms, 2).await?;
    let replayed = ticks.iter().filter(|tick| is_replay(tick)).count();
    Ok(format!("{replayed} ticks replayed"))
}

pub(super) async fn minute(server: Arc<Server>) -> Outcome {
    let period_ms = Mode::Minute.period_ms();
    let back_ms = within_window_ms(&server, 5 * period_ms, 1_000).await?;
    let mut connection = ready(&server).await?;
    let now_ms = now_ms(&connection)?;
    let point_ms = (now_ms / period_ms - 5) * period_ms;
    let point_ms = point_ms.max(now_ms - back_ms);
    if point_ms >= now_ms / period_ms * period_ms {
        skip!("no minute has begun in the last {back_ms} ms, and the server replays little more");
    }
    let (_, ticks) = resumed(&server, &mut connection, Mode::Minute, point_ms, 0).await?;
    Ok(format!("{} ticks replayed", ticks.len()))
}

pub(super) async fn next_connection(server: Arc<Server>) -> Outcome {
    within_window_ms(&server, LAST_TICK_AGE_MS, LAST_TICK_AGE_MS).await?;
    let mut first = ready(&server).await?;
    let subscribed = first.subscribe(Mode::Second, None, false).await?;
    let start_ms = subscribed.ack.start_epoch_ms;
    first
        .ticks_until(start_ms + 1_000, Duration::from_secs(1))
        .await?;
    let mut ticks = first.take_ticks();
    let Some(last) = ticks.last().map(|tick| tick.epoch_ms) else {
        fail!("no tick came");
    };
    drop(first);

    let mut next = ready(&server).await?;
    let (_, resumed_ticks) = resumed(&server, &mut next, Mode::Second, last, 1).await?;
    ticks.extend(resumed_ticks);
    all_after(&ticks, Mode::Second, start_ms)?;

    // Without a tick, the start of the subscription is the resume point.
    let mut without_tick = ready(&server).await?;
    let subscribed = without_tick.subscribe(Mode::Second, None, false).await?;
    let start_ms = subscribed.ack.start_epoch_ms;
    drop(without_tick);
    let mut other = ready(&server).await?;
    resumed(&server, &mut other, Mode::Second, start_ms, 0).await?;
    Ok(String::new())
}

pub(super) async fn any_time(server: Arc<Server>) -> Outcome {
    let back_ms = within_window_ms(&server, 5_000, 1_000).await?;
    for beyond_ms in [-1, 1, 500] {
        let mut connection = ready(&server).await?;
        let point_ms = (now_ms(&connection)? - back_ms) / 1_000 * 1_000 + beyond_ms;
        resumed(&server, &mut connection, Mode::Second, point_ms, 0).await?;
    }
    Ok(String::new())
}

pub(super) async fn far_back(server: Arc<Server>) -> Outcome {
    let mut note = String::new();
    for point_ms in [0, i64::MIN] {
        let mut connection = ready(&server).await?;
        let subscribed = connection
            .subscribe(Mode::Second, Some(point_ms), false)
            .await?;
        let back_ms = back_ms(&connection, &subscribed)?;
        ensure!(
            (0..=WINDOW_MS_MAX).contains(&back_ms),
            "resuming after {point_ms} starts {back_ms} ms before the present"
        );
        let (_, latest) = latest_due(&connection, &subscribed, Mode::Second)?;
        if latest > subscribed.ack.start_epoch_ms {
            connection.ticks_until(latest, Duration::ZERO).await?;
        }
        let ticks = connection.take_ticks();
        check_resumed(&connection, &subscribed, Mode::Second, &ticks)?;
        if !ticks.iter().any(is_replay) {
            return nothing_replayed(&server).await;
        }
        note = format!("the last {} s, {} ticks", back_ms / 1_000, ticks.len());
    }
    Ok(note)
}

/// Tells a server that replays nothing, because it is configured so, from one that ignores resume
/// points.
async fn nothing_replayed(server: &Arc<Server>) -> Outcome {
    let mut connection = ready(server).await?;
    let point_ms = now_ms(&connection)? + 5_000;
    let subscribed = connection
        .subscribe(Mode::Second, Some(point_ms), false)
        .await?;
    if subscribed.ack.start_epoch_ms == point_ms {
        skip!("the server accepts resume points, but replays nothing");
    }
    inconclusive!("no tick was replayed, so the server may ignore resume points");
}

pub(super) async fn ahead(server: Arc<Server>) -> Outcome {
    let mut connection = ready(&server).await?;
    let point_ms = Mode::Second.period_ms() * (now_ms(&connection)? / 1_000 + 3);
    let subscribed = connection
        .subscribe(Mode::Second, Some(point_ms), false)
        .await?;
    ensure!(
        subscribed.ack.start_epoch_ms == point_ms,
        "start_epoch_ms is {} instead of the resume point {point_ms}",
        subscribed.ack.start_epoch_ms
    );
    connection
        .ticks_until(point_ms + 1_000, Duration::from_secs(4))
        .await?;
    let ticks = connection.take_ticks();
    all_after(&ticks, Mode::Second, point_ms)?;
    none_early(&connection, &ticks)?;

    // Just within the limit.
    let mut connection = ready(&server).await?;
    let point_ms = now_ms(&connection)? + 14_500;
    let subscribed = connection
        .subscribe(Mode::Second, Some(point_ms), false)
        .await?;
    ensure!(
        subscribed.ack.start_epoch_ms == point_ms,
        "start_epoch_ms is {} instead of the resume point {point_ms}",
        subscribed.ack.start_epoch_ms
    );
    Ok(String::new())
}

pub(super) async fn too_far_ahead(server: Arc<Server>) -> Outcome {
    for beyond_ms in [16_000, 3_600_000, i64::MAX / 2] {
        let mut connection = ready(&server).await?;
        let point_ms = now_ms(&connection)?.saturating_add(beyond_ms);
        connection.rest(SUBSCRIBE_COST).await?;
        connection.note_subscribe();
        connection
            .send(&bytes::subscribe(Mode::Second, Some(point_ms), false))
            .await;
        let code = ErrorCode::InvalidSubscription;
        let error = connection.refusal(code).await?;
        ensure!(
            error.retry_after_ms > 0,
            "there is no retry_after_ms, though a resume point may be valid later"
        );
    }
    Ok(String::new())
}
