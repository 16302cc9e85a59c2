//! The metrics of single clocks. The number of series is bounded: the timekeeper knows the clocks
//! in CLOCKS or, without it, at most 64, and the series of a clock that it has forgotten are
//! removed.

use prometheus::{Gauge, GaugeVec, IntGaugeVec, Opts, Registry};
use tickstorm_service::metrics::{RegisterError, collector, int_gauges};
use tickstorm_timebase::{Alarm, ClockId, ClockState, ClockStatus};

use crate::timekeeper::ppm;

/// The metrics of single clocks.
#[derive(Clone)]
pub(crate) struct ClockMetrics {
    offset_seconds: GaugeVec,
    bound_seconds: GaugeVec,
    rate_ppm: GaugeVec,
    state: IntGaugeVec,
    followed: IntGaugeVec,
    alarm: IntGaugeVec,
}

impl ClockMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        Ok(Self {
            offset_seconds: gauges(
                registry,
                "tickstorm_time_clock_offset_seconds",
                "The clock's time minus this edge's authority time, or NaN while either is \
                 unknown.",
            )?,
            bound_seconds: gauges(
                registry,
                "tickstorm_time_clock_bound_seconds",
                "Error bound of this edge's estimate of the clock's time, or +Inf while it has \
                 none.",
            )?,
            rate_ppm: gauges(
                registry,
                "tickstorm_time_clock_rate_ppm",
                "Rate of this machine's own clock minus the clock's, in parts per million, \
                 measured over one to five minutes while the clock agrees with a majority, or NaN \
                 before that.",
            )?,
            state: int_gauges(
                registry,
                "tickstorm_time_clock_state",
                "1 for the state in which this edge sees the clock, 0 for the others: accepted, \
                 false (a falseticker), disagrees, heard or silent.",
                &["clock", "state"],
            )?,
            followed: int_gauges(
                registry,
                "tickstorm_time_clock_followed",
                "1 for the clock whose time is this edge's authority time, else 0.",
                &["clock"],
            )?,
            alarm: int_gauges(
                registry,
                "tickstorm_time_clock_alarm",
                "1 while a clock, and so its NATS login, needs attention for this reason, else 0.",
                &["clock", "reason"],
            )?,
        })
    }

    /// Shows a clock as `status` says. `is_followed` is whether its time is authority time.
    pub(crate) fn show(&self, status: &ClockStatus, is_followed: bool) {
        let clock = status.id.as_str();
        let gauge = |gauges: &GaugeVec| -> Gauge { gauges.with_label_values(&[clock]) };
        let offset_s = status.offset_us.map_or(f64::NAN, seconds);
        gauge(&self.offset_seconds).set(offset_s);
        let bound_s = status
            .bound_us
            .map_or(f64::INFINITY, |us| f64::from(us) / 1e6);
        gauge(&self.bound_seconds).set(bound_s);
        gauge(&self.rate_ppm).set(status.rate_ppb.map_or(f64::NAN, ppm));
        for state in ClockState::ALL {
            let gauge = self.state.with_label_values(&[clock, state.label()]);
            gauge.set(i64::from(status.state == state));
        }
        let followed = self.followed.with_label_values(&[clock]);
        followed.set(i64::from(is_followed));
        for alarm in Alarm::OF_CLOCKS {
            let gauge = self.alarm.with_label_values(&[clock, alarm.label()]);
            gauge.set(i64::from(status.is_raised(alarm)));
        }
    }

    /// Removes the series of a clock.
    pub(crate) fn remove(&self, clock: &ClockId) {
        let clock = clock.as_str();
        // Each fails only if there is no such series.
        for gauges in [&self.offset_seconds, &self.bound_seconds, &self.rate_ppm] {
            let _ = gauges.remove_label_values(&[clock]);
        }
        let _ = self.followed.remove_label_values(&[clock]);
        for state in ClockState::ALL {
            let _ = self.state.remove_label_values(&[clock, state.label()]);
        }
        for alarm in Alarm::OF_CLOCKS {
            let _ = self.alarm.remove_label_values(&[clock, alarm.label()]);
        }
    }
}

fn gauges(registry: &Registry, name: &str, help: &str) -> Result<GaugeVec, RegisterError> {
    let gauges = GaugeVec::new(Opts::new(name, help), &["clock"]).expect("the name is valid");
    collector(registry, name, gauges)
}

/// Returns microseconds as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "an offset of centuries need not be exact to the microsecond"
)]
fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use tickstorm_service::metrics::encode;

    use super::*;

    fn status(clock: &str) -> ClockStatus {
        ClockStatus {
            id: clock.parse().unwrap(),
            rank: Some(0),
            state: ClockState::Accepted,
            is_shared: false,
            is_misbehaving: false,
            is_unheard: false,
            offset_us: Some(-1_500),
            bound_us: Some(250),
            rate_ppb: Some(12_500),
            clock_error_us: None,
            synchronized: None,
            announced_ahead_us: None,
        }
    }

    fn series(registry: &Registry) -> Vec<String> {
        let text = encode(registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.map(|line| line.trim_start_matches("tickstorm_time_clock_"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_clock_is_in_one_state_and_what_is_unknown_is_no_number() {
        let registry = Registry::new();
        let metrics = ClockMetrics::register(&registry).unwrap();
        metrics.show(&status("a"), true);
        let has = |line: &str| {
            let series = series(&registry);
            assert!(
                series.iter().any(|one| one == line),
                "no {line} in {series:#?}"
            );
        };
        has(r#"offset_seconds{clock="a"} -0.0015"#);
        has(r#"bound_seconds{clock="a"} 0.00025"#);
        has(r#"rate_ppm{clock="a"} 12.5"#);
        has(r#"followed{clock="a"} 1"#);
        has(r#"alarm{clock="a",reason="falseticker"} 0"#);
        for now in ClockState::ALL {
            let silent = ClockStatus {
                state: now,
                offset_us: None,
                bound_us: None,
                rate_ppb: None,
                ..status("a")
            };
            metrics.show(&silent, false);
            for state in ClockState::ALL {
                let (label, value) = (state.label(), u8::from(state == now));
                has(&format!(r#"state{{clock="a",state="{label}"}} {value}"#));
            }
            let is_false = u8::from(now == ClockState::False);
            has(&format!(
                r#"alarm{{clock="a",reason="falseticker"}} {is_false}"#
            ));
        }
        has(r#"offset_seconds{clock="a"} NaN"#);
        has(r#"bound_seconds{clock="a"} inf"#);
        has(r#"rate_ppm{clock="a"} NaN"#);
        has(r#"followed{clock="a"} 0"#);
    }

    #[test]
    fn the_series_of_a_clock_that_is_gone_are_removed_and_no_others() {
        let registry = Registry::new();
        let metrics = ClockMetrics::register(&registry).unwrap();
        metrics.show(&status("stays"), true);
        let before = series(&registry);
        metrics.show(&status("goes"), false);
        assert_eq!(series(&registry).len(), 2 * before.len());
        metrics.remove(&"goes".parse().unwrap());
        assert_eq!(series(&registry), before);
        metrics.remove(&"never-seen".parse().unwrap());
        assert_eq!(series(&registry), before);
    }
}
