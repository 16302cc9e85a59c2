//! What operators are told about a daemon's connection to NATS: alarms, metrics, and a part of
//! /status. A connection may be open and bring nothing, which `nats` in a clock's /status does not
//! show.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use serde_json::{Value, json};
use tickstorm_bus::{Bus, LinkReport};

use crate::metrics::{RegisterError, register_collector};

/// A condition of the connection to NATS that an operator should look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkAlarm {
    /// Nothing comes back over it.
    Silent,
    /// The server refuses a subscription.
    Refused,
}

impl LinkAlarm {
    /// All alarms.
    pub const ALL: [Self; 2] = [Self::Silent, Self::Refused];

    /// Returns the value of the label `reason` of `tickstorm_nats_alarm`, which /status also uses.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Silent => "nats_silent",
            Self::Refused => "nats_refused",
        }
    }

    /// Returns a sentence for operators that says what the alarm means.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Silent => {
                "Over the connection to NATS, no clock of CLOCKS answers an edge, or a clock's own \
                 announcements do not come back, so other servers are tried. If the alarm \
                 `unheard` is raised as well, CLOCKS names the wrong clocks."
            }
            Self::Refused => {
                "NATS refuses a subscription that this process needs, so its login lacks a \
                 permission."
            }
        }
    }

    /// Returns sentences that tell operators what to do.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::Silent => {
                "If all edges raise it, look at the clocks. If some do, look at the NATS server \
                 that they are connected to, and at its routes."
            }
            Self::Refused => {
                "Give the login the permissions that it needs, and send SIGHUP to the NATS server."
            }
        }
    }

    fn is_raised(self, report: &LinkReport) -> bool {
        match self {
            Self::Silent => report.is_silent,
            Self::Refused => !report.refused.is_empty(),
        }
    }
}

/// Returns the alarms that are raised.
pub fn alarms(report: &LinkReport) -> impl Iterator<Item = LinkAlarm> + '_ {
    let all = LinkAlarm::ALL.into_iter();
    all.filter(|alarm| alarm.is_raised(report))
}

/// Returns the part of /status that describes the connection.
#[must_use]
pub fn status(report: &LinkReport) -> Value {
    json!({
        "server": report.server,
        "heard": report.is_heard,
        "refused": report.refused,
        "silent_links": report.silent_links,
    })
}

/// Registers the metrics of the connection, which are read from `bus` whenever they are collected.
///
/// # Errors
/// Returns an error if they are registered already.
pub fn register(registry: &Registry, bus: Arc<dyn Bus>) -> Result<(), RegisterError> {
    let name = "tickstorm_nats_silent_links_total";
    let help = "Connections to NATS that were given up because nothing came back over them: to an \
                edge no answer of a clock of CLOCKS, to a clock not its own announcements.";
    let silent_links = IntCounter::new(name, help);
    let silent_links = silent_links.map_err(|source| RegisterError::new(name, source))?;
    let alarm = Opts::new(
        "tickstorm_nats_alarm",
        "1 while the connection to NATS needs attention for this reason, else 0.",
    );
    let alarm = IntGaugeVec::new(alarm, &["reason"]);
    let alarm = alarm.map_err(|source| RegisterError::new(name, source))?;
    let collector = LinkCollector {
        bus,
        silent_links,
        alarm,
        updating: Mutex::new(()),
    };
    register_collector(registry, name, Box::new(collector))
}

/// Brings the metrics up to date when they are collected.
struct LinkCollector {
    bus: Arc<dyn Bus>,
    silent_links: IntCounter,
    alarm: IntGaugeVec,
    /// Locked meanwhile, since several requests may do so at the same time.
    updating: Mutex<()>,
}

impl Collector for LinkCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut descs = self.silent_links.desc();
        descs.extend(self.alarm.desc());
        descs
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let report = self.bus.link_report();
        let counted = self.silent_links.get();
        self.silent_links
            .inc_by(report.silent_links.saturating_sub(counted));
        for alarm in LinkAlarm::ALL {
            let is_raised = alarm.is_raised(&report);
            let gauge = self.alarm.with_label_values(&[alarm.label()]);
            gauge.set(i64::from(is_raised));
        }
        let mut families = self.silent_links.collect();
        families.extend(self.alarm.collect());
        families
    }
}

#[cfg(test)]
mod tests {
    use tickstorm_bus::MemoryBus;

    use super::*;

    #[test]
    fn the_metrics_say_what_the_bus_reports() {
        let (registry, bus) = (Registry::new(), MemoryBus::new());
        register(&registry, Arc::new(bus.link("edge"))).unwrap();
        let text = || crate::metrics::encode(&registry).unwrap();
        let expect = |links: u64, silent: u8, refused: u8| {
            let text = text();
            for line in [
                format!("tickstorm_nats_silent_links_total {links}"),
                format!("tickstorm_nats_alarm{{reason=\"nats_silent\"}} {silent}"),
                format!("tickstorm_nats_alarm{{reason=\"nats_refused\"}} {refused}"),
            ] {
                assert!(text.lines().any(|has| has == line), "no {line} in {text}");
            }
        };
        expect(0, 0, 0);
        let mut report = LinkReport {
            is_silent: true,
            silent_links: 3,
            ..LinkReport::default()
        };
        bus.set_link_report("edge", report.clone());
        expect(3, 1, 0);
        expect(3, 1, 0);
        report.is_silent = false;
        report.silent_links = 4;
        report.refused = vec!["tickstorm.v1.time".to_owned()];
        bus.set_link_report("edge", report.clone());
        expect(4, 0, 1);
        let raised: Vec<_> = alarms(&report).map(LinkAlarm::label).collect();
        assert_eq!(raised, ["nats_refused"]);
        assert_eq!(status(&report)["refused"][0], "tickstorm.v1.time");
        assert!(register(&registry, Arc::new(bus.link("other"))).is_err());
    }

    #[test]
    fn each_alarm_has_a_sentence() {
        for alarm in LinkAlarm::ALL {
            assert!(alarm.message().ends_with('.'), "{alarm:?}");
            assert!(alarm.action().ends_with('.'), "{alarm:?}");
        }
    }
}
