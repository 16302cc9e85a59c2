//! A further SUBSCRIBE on the same connection.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::Mode;

use super::ticks::{all_after, latest_due, none_early, ready};
use crate::check::server::Server;
use crate::check::stop::{Outcome, fail};

pub(super) async fn mode_switch(server: Arc<Server>) -> Outcome {
    let mut connection = ready(&server).await?;
    let first = connection.subscribe(Mode::Second, None, false).await?;
    let start_ms = first.ack.start_epoch_ms;
    let wait = Duration::from_secs(2);
    connection.ticks_until(start_ms + 2_000, wait).await?;

    // To MINUTE: the seconds before the ACK belong to the old subscription.
    let minute_ms = Mode::Minute.period_ms();
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
    connection.ticks_until(latest, Duration::ZERO).await?;
    connection.listen_for(Duration::from_millis(1_200)).await?;
    let minutes = connection.take_ticks();
    all_after(&minutes, Mode::Minute, second.ack.start_epoch_ms)
        .map_err(|stop| stop.about("after the switch to MINUTE"))?;

    // And back, without losing a second.
    let third = connection
        .subscribe(Mode::Second, Some(last_ms), false)
        .await?;
    all_after(
        &third.before_ack,
        Mode::Minute,
        minutes.last().map_or(point_ms, |tick| tick.epoch_ms),
    )
    .map_err(|stop| stop.about("before the ACK of the switch back"))?;
    let (_, latest) = latest_due(&connection, &third, Mode::Second)?;
    let wait = Duration::from_secs(2);
    connection.ticks_until(latest + 1_000, wait).await?;
    let after = connection.take_ticks();
    all_after(&after, Mode::Second, last_ms)
        .map_err(|stop| stop.about("after the switch back to SECOND"))?;
    Ok(String::new())
}
