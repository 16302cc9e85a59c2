//! A further SUBSCRIBE on the same connection.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::Mode;

use super::resume::{MARGIN_MS, window_ms};
use super::ticks::{all_after, latest_due, none_early, ready};
use crate::check::connection::SUBSCRIBE_COST;
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure, fail};

pub(super) async fn mode_switch(server: Arc<Server>) -> Outcome {
    let window_ms = window_ms(&server).await?;
    let mut connection = ready(&server).await?;
    let first = connection.subscribe(Mode::Second, None, false).await?;
    let start_ms = first.ack.start_epoch_ms;
    let wait = Duration::from_secs(2);
    connection.ticks_until(start_ms + 2_000, wait).await?;

    // To MINUTE: the seconds before the ACK belong to the old subscription.
    let minute_ms = Mode::Minute.period_ms();
    connection.wait_for_frames(SUBSCRIBE_COST).await?;
    let point_ms = (start_ms / minute_ms - 3) * minute_ms;
    let second = connection
        .subscribe(Mode::Minute, Some(point_ms), false)
        .await?;
    let mut seconds = connection.take_ticks();
    seconds.extend(second.before_ack.iter().cloned());
    all_after(&seconds, Mode::Second, start_ms)
        .map_err(|stop| stop.about("before the ACK of the switch"))?;
    none_early(&connection, &seconds)?;
    let Some(last_ms) = seconds.last().map(|tick| tick.epoch_ms) else {
        fail!("no tick came before the switch");
    };

    let (_, latest) = latest_due(&connection, &second, Mode::Minute)?;
    if latest > second.ack.start_epoch_ms {
        connection.ticks_until(latest, Duration::ZERO).await?;
    }
    connection.listen_for(Duration::from_millis(1_200)).await?;
    connection.wait_for_frames(SUBSCRIBE_COST).await?;
    let minutes = connection.take_ticks();
    all_after(&minutes, Mode::Minute, second.ack.start_epoch_ms)
        .map_err(|stop| stop.about("after the switch to MINUTE"))?;

    // And back, without losing a second, if the server replays that much.
    let (_, now_us) = connection.unix_us_at(Server::now())?;
    let is_in_window = now_us / 1_000 - last_ms < window_ms - MARGIN_MS;
    let point_ms = is_in_window.then_some(last_ms);
    let third = connection.subscribe(Mode::Second, point_ms, false).await?;
    let start_ms = third.ack.start_epoch_ms;
    if let Some(point_ms) = point_ms {
        ensure!(
            start_ms == point_ms,
            "start_epoch_ms is {start_ms} instead of the resume point {point_ms}"
        );
    }
    all_after(
        &third.before_ack,
        Mode::Minute,
        minutes
            .last()
            .map_or(second.ack.start_epoch_ms, |tick| tick.epoch_ms),
    )
    .map_err(|stop| stop.about("before the ACK of the switch back"))?;
    let (_, latest) = latest_due(&connection, &third, Mode::Second)?;
    let wait = Duration::from_secs(2);
    connection.ticks_until(latest + 1_000, wait).await?;
    let after = connection.take_ticks();
    all_after(&after, Mode::Second, start_ms)
        .map_err(|stop| stop.about("after the switch back to SECOND"))?;
    Ok(String::new())
}
