//! The measurements of `auth`, and the figures derived from them.

use hdrhistogram::Histogram;

use super::connections::SentAuth;
use super::tokens::AuthVerdict;
use crate::figure::{Figure, number};
use crate::generator::{FrameSeen, histogram};
use crate::report::{Distribution, LatenessColumn, LatenessTable, Report};
use crate::tick_arrivals::release_lateness_us;

/// The measurements, by round.
pub(super) struct AuthOutcome {
    /// The lateness of ticks with AUTHs before them, in microseconds.
    with_us: Vec<u64>,
    /// The lateness of ticks without AUTHs before them, in microseconds.
    without_us: Vec<u64>,
    /// The time from an AUTH to its ACK, in nanoseconds.
    accepted: Histogram<u64>,
    /// The time from an AUTH with an unknown token to its ERROR, in nanoseconds.
    refused: Histogram<u64>,
    /// The number of AUTHs sent before their tick's time.
    sent_before: Vec<f64>,
    /// The number of these that were still unanswered at the tick's time.
    under_way: Vec<f64>,
    unanswered: u64,
    answered_wrongly: u64,
}

impl Default for AuthOutcome {
    fn default() -> Self {
        Self {
            with_us: Vec::new(),
            without_us: Vec::new(),
            accepted: histogram(),
            refused: histogram(),
            sent_before: Vec::new(),
            under_way: Vec::new(),
            unanswered: 0,
            answered_wrongly: 0,
        }
    }
}

impl AuthOutcome {
    /// Counts the outcomes of a round's AUTHs, whose tick was due at `epoch_ns`.
    pub(super) fn count_auths(&mut self, auths: Vec<SentAuth>, epoch_ns: u64, report: &mut Report) {
        let (mut sent_before, mut under_way) = (0, 0);
        for auth in auths {
            let before = auth.sent_ns.is_some_and(|sent_ns| sent_ns < epoch_ns);
            let answered_before = auth.answered.as_ref().is_ok_and(|at_ns| *at_ns < epoch_ns);
            sent_before += u64::from(before);
            under_way += u64::from(before && !answered_before);
            match auth.answered {
                Ok(at_ns) => {
                    let took_ns = at_ns.saturating_sub(auth.sent_ns.unwrap_or(at_ns));
                    let latencies = match auth.expected {
                        AuthVerdict::Accepted => &mut self.accepted,
                        AuthVerdict::Refused => &mut self.refused,
                    };
                    latencies.saturating_record(took_ns.max(1));
                }
                Err(fault) => {
                    if fault.is_silence() {
                        self.unanswered += 1;
                    } else {
                        self.answered_wrongly += 1;
                    }
                    report.count_end(fault.to_string());
                }
            }
        }
        self.sent_before.push(number(sent_before));
        self.under_way.push(number(under_way));
    }

    /// Records when the tick `epoch_ms` was released.
    pub(super) fn count_release(&mut self, epoch_ms: i64, with_auths: bool, seen: &[FrameSeen]) {
        let column = if with_auths {
            &mut self.with_us
        } else {
            &mut self.without_us
        };
        column.extend(release_lateness_us(epoch_ms, seen));
    }

    /// Adds the figures to the report.
    pub(super) fn add_to(self, report: &mut Report, auths: u32) {
        let micros = |lateness_us: &[u64]| lateness_us.iter().copied().map(number).collect();
        // Two figures instead of a ratio, since most ticks without AUTHs are late by less than a
        // microsecond.
        report.figures.extend([
            Figure::of(
                "release_late_us",
                "release lateness of ticks after AUTHs",
                "µs",
                micros(&self.with_us),
            ),
            Figure::of(
                "release_late_without_us",
                "release lateness of ticks without AUTHs",
                "µs",
                micros(&self.without_us),
            ),
            Figure::of(
                "auths_sent_before",
                "AUTHs sent before the tick's time",
                "per round",
                self.sent_before,
            ),
            Figure::of(
                "auths_under_way",
                "of which unanswered at the tick's time",
                "per round",
                self.under_way,
            ),
        ]);
        report.distributions.extend(
            [
                Distribution::of("accepted", "ACK after AUTH", &self.accepted),
                Distribution::of("refused", "ERROR after AUTH", &self.refused),
            ]
            .into_iter()
            .flatten(),
        );
        let columns = vec![
            LatenessColumn::of("without AUTHs".into(), self.without_us),
            LatenessColumn::of(format!("with {auths} AUTHs"), self.with_us),
        ];
        report.lateness = Some(LatenessTable::new("release lateness", columns));
        report.count_fault("auth_unanswered", self.unanswered);
        report.count_fault("auth_answered_wrongly", self.answered_wrongly);
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::AuthFault;
    use super::*;
    use crate::generator::FrameTicks;

    fn seen(first_ms: i64, last_ms: i64, sent_unix_us: i64) -> FrameSeen {
        FrameSeen {
            ticks: FrameTicks {
                bare: false,
                first_ms,
                last_ms,
                count: 1,
                sent_unix_us,
            },
            due_ns: 0,
            first_ns: 0,
            last_ns: 0,
            count: 1,
            early: 0,
        }
    }

    #[test]
    fn a_tick_is_released_when_the_last_shard_starts_to_send_it() {
        let mut outcome = AuthOutcome::default();
        let frames = [
            seen(1_000, 1_000, 1_900_000),
            seen(2_000, 2_000, 2_000_004),
            seen(2_000, 3_000, 3_000_070),
        ];
        outcome.count_release(2_000, true, &frames[..2]);
        outcome.count_release(2_000, true, &frames);
        outcome.count_release(3_000, false, &frames);
        outcome.count_release(4_000, false, &frames);
        outcome.count_release(1_000, false, &[seen(1_000, 1_000, 999_990)]);
        assert_eq!(outcome.with_us, [4, 1_000_070]);
        assert_eq!(outcome.without_us, [70, 0]);
    }

    #[test]
    fn every_auth_is_counted_as_answered_or_as_a_fault() {
        let auth = |sent_ns, answered| SentAuth {
            expected: AuthVerdict::Accepted,
            sent_ns,
            answered,
        };
        let auths = vec![
            auth(Some(10), Ok(90)),
            auth(Some(20), Ok(110)),
            auth(Some(100), Ok(120)),
            auth(Some(30), Err(AuthFault::Unanswered)),
            auth(None, Err(AuthFault::Closed)),
            auth(Some(40), Err(AuthFault::WrongAccepted)),
        ];
        let mut report = crate::report::tests::report();
        let mut outcome = AuthOutcome::default();
        outcome.count_auths(auths, 100, &mut report);
        assert_eq!(outcome.accepted.len(), 3);
        assert_eq!((outcome.unanswered, outcome.answered_wrongly), (2, 1));
        assert_eq!((outcome.sent_before[0], outcome.under_way[0]), (4.0, 3.0));
        outcome.add_to(&mut report, 6);
        report.judge(false);
        assert_eq!(
            report.violations,
            ["wrongly answered AUTHs: 1", "unanswered AUTHs: 2"]
        );
    }
}
