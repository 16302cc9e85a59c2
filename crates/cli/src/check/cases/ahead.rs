//! Ticks that are sent ahead of their time.

use std::sync::Arc;
use std::time::Duration;

use tickstorm_timebase::Mode;

use super::ticks::{all_after, ready, starts_now};
use crate::check::server::Server;
use crate::check::stop::{Outcome, ensure};

/// The largest lead that an edge can be configured to.
const LEAD_MAX_US: i64 = 5_000_000;
/// How long after the ACK a tick that is due before its lead may arrive.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How much less than its lead a tick may be sent ahead: the edge sends to one client after the
/// other.
const LESS_MAX_US: i64 = 500_000;
/// The number of ticks that arrive with their whole lead.
const COUNT: i64 = 3;

pub(super) async fn ahead(server: Arc<Server>) -> Outcome {
    let mut connection = ready(&server).await?;
    let subscribed = connection.subscribe(Mode::Second, None, true).await?;
    starts_now(&connection, &subscribed, Mode::Second)?;
    let start_ms = subscribed.ack.start_epoch_ms;
    let last_ms = start_ms + LEAD_MAX_US / 1_000 + COUNT * 1_000;
    let wait = Duration::from_secs(8);
    connection.ticks_until(last_ms, wait).await?;
    let ticks = connection.take_ticks();
    all_after(&ticks, Mode::Second, start_ms)?;

    let lead_us = |sent_us: i64, epoch_ms: i64| epoch_ms.saturating_mul(1_000) - sent_us;
    // The last ticks have their whole lead, whatever it is.
    let whole = ticks
        .iter()
        .rev()
        .take(COUNT.unsigned_abs().try_into().unwrap_or(3));
    let leads: Vec<_> = whole
        .map(|tick| lead_us(tick.sent_unix_us, tick.epoch_ms))
        .collect();
    let (least, most) = (leads.iter().min(), leads.iter().max());
    let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
    let allowance = connection.allowance();
    let less_max = LESS_MAX_US + i64::try_from(allowance.as_micros()).unwrap_or(i64::MAX / 2);
    ensure!(
        0 < most && most <= LEAD_MAX_US && most - least <= less_max,
        "ticks are sent {} to {} ms ahead",
        least / 1_000,
        most / 1_000
    );
    for tick in &ticks {
        let epoch_us = tick.epoch_ms.saturating_mul(1_000);
        let (earliest_us, latest_us) = connection.unix_us_at(tick.read_at)?;
        ensure!(
            tick.sent_unix_us <= latest_us,
            "tick {} arrived {} ms ahead, but was sent {} ms ahead, as its batch says",
            tick.epoch_ms,
            (epoch_us - latest_us) / 1_000,
            (epoch_us - tick.sent_unix_us) / 1_000
        );
        ensure!(
            epoch_us - latest_us <= most + less_max,
            "tick {} arrived {} ms ahead, and the last ones {} ms at most",
            tick.epoch_ms,
            (epoch_us - latest_us) / 1_000,
            most / 1_000
        );
        // Its lead begins at this time, or before the ACK.
        let (acked_us, _) = connection.unix_us_at(subscribed.read_at)?;
        let due_us = (epoch_us - most).max(acked_us);
        let late_us = earliest_us - due_us;
        let allowed = AT_ONCE + allowance;
        ensure!(
            late_us <= i64::try_from(allowed.as_micros()).unwrap_or(i64::MAX),
            "tick {} arrived {} ms after its lead had begun",
            tick.epoch_ms,
            late_us / 1_000
        );
    }
    Ok(format!("{} to {} ms ahead", least / 1_000, most / 1_000))
}
