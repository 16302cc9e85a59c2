//! How late ticks arrive, and from when on that is a fault of the server.
//!
//! A single late tick is no proof, since any machine may stall. So what most ticks of a case do is
//! judged, after all that this side may have added is subtracted: the error of authority time,
//! which includes half the round trip, and the delay of this process at that moment.

use std::time::Duration;

use crate::check::connection::{Connection, SeenTick};
use crate::check::server::Server;
use crate::check::stop::{Outcome, fail, inconclusive};

/// How late ticks may usually arrive, beyond the tolerance. An edge sends to one client after the
/// other, which takes half a second with 100,000 clients on two cores: see docs/performance.md.
const LATE_MAX: Duration = Duration::from_millis(100);

/// How late ticks were, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spread {
    /// What half of the ticks did not exceed.
    usual_us: i64,
    most_us: i64,
}

impl Spread {
    /// Sums up how late ticks were; `None` if there were none.
    fn of(mut late_us: Vec<i64>) -> Option<Self> {
        late_us.sort_unstable();
        let usual_us = *late_us.get(late_us.len().saturating_sub(1) / 2)?;
        let most_us = *late_us.last()?;
        Some(Self { usual_us, most_us })
    }
}

/// How late the ticks of a connection were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lateness {
    measured: Spread,
    /// The same without what this side may have added.
    certain: Spread,
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "usually {} ms late, at most {} ms; for certain, {} and {} ms",
            millis(self.measured.usual_us),
            millis(self.measured.most_us),
            millis(self.certain.usual_us),
            millis(self.certain.most_us)
        )
    }
}

/// Returns the time from which on ticks are late, in microseconds.
fn limit_us(server: &Server) -> i64 {
    let limit = LATE_MAX + server.tolerance();
    i64::try_from(limit.as_micros()).unwrap_or(i64::MAX)
}

/// Returns how late a tick was, as measured and for certain, in microseconds. The latter is
/// negative if it may have been early.
fn late_us(server: &Server, connection: &Connection, tick: &SeenTick) -> Outcome<(i64, i64)> {
    let (earliest_us, latest_us) = connection.unix_us_at(tick.read_at)?;
    let error_us = (latest_us - earliest_us) / 2;
    if error_us > limit_us(server) {
        inconclusive!(
            "authority time is only known to ±{} ms, so it is not known whether ticks are late",
            millis(error_us)
        );
    }
    let delay = server.delay_at(tick.read_at);
    let delay_us = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
    let earliest_us = earliest_us.saturating_sub(tick.epoch_ms.saturating_mul(1_000));
    let measured_us = earliest_us.saturating_add(error_us);
    Ok((measured_us, earliest_us.saturating_sub(delay_us)))
}

/// Returns how late these ticks were.
pub(super) fn measured(
    server: &Server,
    connection: &Connection,
    ticks: &[SeenTick],
) -> Outcome<Lateness> {
    let late: Outcome<Vec<_>> = ticks
        .iter()
        .map(|tick| late_us(server, connection, tick))
        .collect();
    let (measured, certain) = late?.into_iter().unzip();
    let (Some(measured), Some(certain)) = (Spread::of(measured), Spread::of(certain)) else {
        fail!("no tick came");
    };
    Ok(Lateness { measured, certain })
}

/// Fails if the ticks are usually late.
pub(super) fn usually_in_time(server: &Server, late: Lateness) -> Outcome<()> {
    let limit_us = limit_us(server);
    if late.certain.usual_us > limit_us {
        fail!("ticks are {late}; {} ms are allowed", limit_us / 1_000);
    }
    Ok(())
}

/// Fails if a single tick is late and others show that it is not because of a stall: either they
/// are late as well, or the one that was due at the same time was not. Otherwise returns a note.
pub(super) fn single_in_time(
    server: &Server,
    single: Lateness,
    others: Lateness,
    same_time: Lateness,
) -> Outcome {
    judge_single(
        limit_us(server),
        single.certain.most_us,
        others.certain.usual_us,
        same_time.certain.most_us,
    )?;
    let (measured, certain) = (single.measured.most_us, single.certain.most_us);
    Ok(format!(
        "{} ms late; for certain, {} ms",
        millis(measured),
        millis(certain)
    ))
}

fn judge_single(limit_us: i64, single_us: i64, others_us: i64, same_time_us: i64) -> Outcome<()> {
    if single_us <= limit_us {
        return Ok(());
    }
    let seen = format!(
        "for certain, the tick is {} ms late, the SECOND tick of that time {} ms, and others \
         usually {} ms; {} ms are allowed",
        millis(single_us),
        millis(same_time_us),
        millis(others_us),
        limit_us / 1_000
    );
    if others_us > limit_us || single_us.saturating_sub(same_time_us) > limit_us {
        fail!("{seen}");
    }
    inconclusive!("{seen}. This may have been a stall");
}

/// Writes microseconds as milliseconds, not below zero.
fn millis(us: i64) -> String {
    let us = us.max(0);
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::stop::Stop;

    const LIMIT_US: i64 = 250_000;

    #[test]
    fn what_most_ticks_do_is_usual() {
        let one_late = Spread::of(vec![1_000, 900_000, 2_000, 3_000, 2_500]).unwrap();
        assert_eq!((one_late.usual_us, one_late.most_us), (2_500, 900_000));
        let most_late = Spread::of(vec![400_000, 1_000, 401_000, 402_000, 403_450]).unwrap();
        assert_eq!(most_late.usual_us, 401_000);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn what_is_measured_and_what_is_certain_are_shown() {
        let late = Lateness {
            measured: Spread::of(vec![401_000, 403_450]).unwrap(),
            certain: Spread::of(vec![-3_000, 363_320]).unwrap(),
        };
        assert_eq!(
            late.to_string(),
            "usually 401.00 ms late, at most 403.45 ms; for certain, 0.00 and 363.32 ms"
        );
    }

    #[test]
    fn a_single_late_tick_fails_only_if_others_prove_it() {
        let judge = |single, others, same| judge_single(LIMIT_US, single, others, same);
        assert!(judge(250_000, 0, 0).is_ok());
        assert!(matches!(judge(400_000, 1_000, 2_000), Err(Stop::Failed(_))));
        let all_late = judge(400_000, 400_000, 400_000);
        assert!(matches!(all_late, Err(Stop::Failed(_))));
        let stall = judge(400_000, 1_000, 390_000);
        assert!(matches!(stall, Err(Stop::Inconclusive(_))));
    }
}
