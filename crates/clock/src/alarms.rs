//! The conditions of a clock that an operator should look into, and when each of them is logged.

use std::time::Duration;

use tickstorm_timebase::Mono;

/// The time after which an alarm that lasts is logged again.
const REPEAT: Duration = Duration::from_secs(3_600);

/// A condition that an operator should look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockAlarm {
    /// The kernel reports that nothing disciplines the host's clock.
    Undisciplined,
    /// Another clock announces ticks under this clock's id.
    SharedId,
}

impl ClockAlarm {
    /// All alarms.
    pub(crate) const ALL: [Self; 2] = [Self::Undisciplined, Self::SharedId];

    /// Returns the value of the label `reason` of `tickstorm_clock_alarm`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Undisciplined => "undisciplined",
            Self::SharedId => "shared_id",
        }
    }

    /// Returns a sentence for operators that says what the alarm means.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Undisciplined => {
                "The kernel reports that nothing disciplines the host's clock, so its time may be \
                 off by any amount."
            }
            Self::SharedId => {
                "Another clock announces ticks under this clock's id, so edges will trust neither."
            }
        }
    }

    /// Returns sentences that tell operators what to do.
    pub(crate) const fn action(self) -> &'static str {
        match self {
            Self::Undisciplined => {
                "Run chrony or another time service on the host, and look at chronyc tracking."
            }
            Self::SharedId => {
                "Give each clock its own CLOCK_ID. If each has one, replace this clock's NATS \
                 login, which someone else uses."
            }
        }
    }

    /// Logs that the alarm is raised.
    pub(crate) fn log(self) {
        let (reason, message) = (self.label(), self.message());
        match self {
            Self::Undisciplined => tracing::warn!(
                reason,
                "{message} Run chrony or another time service on the host. With REQUIRE_SYNC=true, \
                 the clock is silent until it is disciplined."
            ),
            Self::SharedId => tracing::warn!(
                reason,
                "{message} Give each clock a CLOCK_ID of its own: the default is the host's name, \
                 which all clocks on one host share. If each has one, someone else uses this \
                 clock's NATS login."
            ),
        }
    }
}

/// The alarms that are raised, and when they were logged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AlarmLog {
    logged: [Option<Mono>; ClockAlarm::ALL.len()],
}

impl AlarmLog {
    /// Notes which alarms are raised now. Returns those to log: immediately, and once an hour while
    /// they last.
    pub(crate) fn note(&mut self, raised: &[ClockAlarm], now: Mono) -> Vec<ClockAlarm> {
        let mut due = Vec::new();
        for (alarm, logged) in ClockAlarm::ALL.into_iter().zip(&mut self.logged) {
            if !raised.contains(&alarm) {
                *logged = None;
            } else if logged.is_none_or(|at| now.since(at) >= REPEAT) {
                *logged = Some(now);
                due.push(alarm);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::ClockAlarm::{SharedId, Undisciplined};
    use super::*;

    #[test]
    fn an_alarm_is_logged_at_once_and_hourly_while_it_lasts() {
        let mut log = AlarmLog::default();
        let mut due = |minute: u64, raised: &[ClockAlarm]| {
            log.note(raised, Mono::ZERO + Duration::from_secs(minute * 60))
        };
        assert_eq!(due(0, &[Undisciplined]), [Undisciplined]);
        assert_eq!(due(30, &[Undisciplined, SharedId]), [SharedId]);
        assert_eq!(due(59, &[Undisciplined, SharedId]), []);
        assert_eq!(due(60, &[Undisciplined, SharedId]), [Undisciplined]);
        assert_eq!(due(61, &[]), []);
        assert_eq!(due(62, &[SharedId]), [SharedId]);
    }
}
