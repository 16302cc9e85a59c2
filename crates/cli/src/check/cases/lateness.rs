//! How late ticks arrive, and from when on that is a fault of the server.
//!
//! A single late tick is no proof, since any machine may stall. So what most ticks of a case do is
//! judged, after all that this side may have added is subtracted: the error of authority time,
//! which includes half the round trip, and the delay of this process at that moment.

use std::time::Duration;

use crate::check::connection::{Connection, SeenTick};
use crate::check::server::Server;
use crate::check::stop::{Outcome, Stop, fail, inconclusive};

/// How late ticks may usually arrive, beyond the tolerance. An edge sends to one client after the
/// other, which takes half a second with 100,000 clients on two cores: see docs/performance.md.
const LATE_MAX: Duration = Duration::from_millis(100);

/// How late ticks were, in microseconds, after what this side may have added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lateness {
    /// What half of the ticks did not exceed.
    usual_us: i64,
    most_us: i64,
}

impl Lateness {
    /// Sums up how late ticks were; `None` if there were none.
    fn of(mut late_us: Vec<i64>) -> Option<Self> {
        late_us.sort_unstable();
        let usual_us = *late_us.get(late_us.len().saturating_sub(1) / 2)?;
        let most_us = *late_us.last()?;
        Some(Self { usual_us, most_us })
    }
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (usual, most) = (millis(self.usual_us), millis(self.most_us));
        write!(f, "usually {usual} ms late, at most {most} ms")
    }
}

/// Returns the time from which on ticks are late, in microseconds.
fn limit_us(server: &Server) -> i64 {
    let limit = LATE_MAX + server.tolerance();
    i64::try_from(limit.as_micros()).unwrap_or(i64::MAX)
}

/// Returns how late a tick certainly was, in microseconds; negative if it may have been early.
fn late_us(server: &Server, connection: &Connection, tick: &SeenTick) -> Outcome<i64> {
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
    Ok(earliest_us
        .saturating_sub(tick.epoch_ms.saturating_mul(1_000))
        .saturating_sub(delay_us))
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
    let measured = Lateness::of(late?);
    measured.ok_or_else(|| Stop::Failed("no tick came".into()))
}

/// Fails if the ticks are usually late.
pub(super) fn usually_in_time(server: &Server, late: Lateness) -> Outcome<()> {
    let limit_us = limit_us(server);
    if late.usual_us > limit_us {
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
    let (single_us, same_time_us) = (single.most_us, same_time.most_us);
    judge_single(limit_us(server), single_us, others.usual_us, same_time_us)
}

fn judge_single(limit_us: i64, single_us: i64, others_us: i64, same_time_us: i64) -> Outcome {
    if single_us <= limit_us {
        return Ok(format!("{} ms late", millis(single_us)));
    }
    let seen = format!(
        "the tick is {} ms late, the SECOND tick of that time {} ms, and others usually {} ms; \
         {} ms are allowed",
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

    const LIMIT_US: i64 = 250_000;

    #[test]
    fn what_most_ticks_do_is_usual() {
        let one_late = Lateness::of(vec![1_000, 900_000, 2_000, 3_000, 2_500]).unwrap();
        assert_eq!((one_late.usual_us, one_late.most_us), (2_500, 900_000));
        let most_late = Lateness::of(vec![400_000, 1_000, 401_000, 402_000, 403_450]).unwrap();
        assert_eq!(most_late.usual_us, 401_000);
        assert_eq!(
            most_late.to_string(),
            "usually 401.00 ms late, at most 403.45 ms"
        );
        assert_eq!(Lateness::of(Vec::new()), None);
    }

    #[test]
    fn a_tick_that_is_less_late_than_the_error_is_shown_as_not_late() {
        let unknown = Lateness::of(vec![-3_000]).unwrap();
        assert_eq!(unknown.to_string(), "usually 0.00 ms late, at most 0.00 ms");
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
