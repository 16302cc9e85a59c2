//! What operators are told about a daemon's connection to NATS: alarms, metrics, and a part of
//! /status. A connection may be open and bring nothing, which `nats` in a clock's /status does not
//! show.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use serde_json::{Value, json};
use tickstorm_bus::{Bus, LinkReport};

use crate::metrics::{RegisterError, register_collector};

/// A condition of the connection to NATS that an operator should look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkAlarm {
    /// Nothing comes back over it.
    Silent,
    /// The server refuses a subscription, or messages.
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
                "NATS refuses a subscription that this process needs, or messages that it sends, \
                 so its login lacks a permission."
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
            Self::Refused => !report.refused.is_empty() || !report.refused_publishes.is_empty(),
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
    let refused_publishes = report.refused_publishes.iter().map(|refused| {
        json!({ "subject": refused.subject, "last_refused_s_ago": refused.ago.as_secs() })
    });
    json!({
        "server": report.server,
        "heard": report.is_heard,
        "refused": report.refused,
        "refused_publishes": refused_publishes.collect::<Vec<_>>(),
        "silent_links": report.silent_links,
    })
}

/// Registers the metrics of the connection, which are read from `bus` whenever they are collected.
///
/// # Errors
/// Returns an error if they are registered already.
pub fn register(registry: &Registry, bus: Arc<dyn Bus>) -> Result<(), RegisterError> {
    let metrics = LinkMetrics::new();
    let metrics = metrics.map_err(|source| RegisterError::new(CONNECTED, source))?;
    let collector = LinkCollector {
        bus,
        metrics,
        updating: Mutex::new(()),
    };
    register_collector(registry, CONNECTED, Box::new(collector))
}

const CONNECTED: &str = "tickstorm_nats_connected";

struct LinkMetrics {
    connected: IntGauge,
    server: IntGaugeVec,
    connects: IntCounter,
    disconnects: IntCounter,
    silent_links: IntCounter,
    alarm: IntGaugeVec,
}

impl LinkMetrics {
    fn new() -> prometheus::Result<Self> {
        let gauges = |name, help, label| IntGaugeVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            connected: IntGauge::new(
                CONNECTED,
                "1 while this process is connected to NATS, else 0.",
            )?,
            server: gauges(
                "tickstorm_nats_server_info",
                "Always 1; the label is the NATS server that this process is connected to. There \
                 is none without a connection.",
                "server",
            )?,
            connects: IntCounter::new(
                "tickstorm_nats_connects_total",
                "Connections to NATS that were made.",
            )?,
            disconnects: IntCounter::new(
                "tickstorm_nats_disconnects_total",
                "Connections to NATS that have ended, because they were lost or given up.",
            )?,
            silent_links: IntCounter::new(
                "tickstorm_nats_silent_links_total",
                "Connections to NATS that were given up because nothing came back over them: to an \
                 edge no answer of a clock of CLOCKS, to a clock not its own announcements.",
            )?,
            alarm: gauges(
                "tickstorm_nats_alarm",
                "1 while the connection to NATS needs attention for this reason, else 0: \
                 nats_silent if nothing comes back, nats_refused if a subscription or messages are \
                 refused.",
                "reason",
            )?,
        })
    }

    fn update(&self, report: &LinkReport) {
        self.connected.set(i64::from(report.is_connected));
        self.server.reset();
        if let Some(server) = &report.server {
            self.server.with_label_values(&[server]).set(1);
        }
        for (counter, count) in [
            (&self.connects, report.connects),
            (&self.disconnects, report.disconnects),
            (&self.silent_links, report.silent_links),
        ] {
            // The report starts again at 0 when the bus is stopped.
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        for alarm in LinkAlarm::ALL {
            let gauge = self.alarm.with_label_values(&[alarm.label()]);
            gauge.set(i64::from(alarm.is_raised(report)));
        }
    }

    fn all(&self) -> [&dyn Collector; 6] {
        [
            &self.connected,
            &self.server,
            &self.connects,
            &self.disconnects,
            &self.silent_links,
            &self.alarm,
        ]
    }
}

/// Brings the metrics up to date when they are collected.
struct LinkCollector {
    bus: Arc<dyn Bus>,
    metrics: LinkMetrics,
    /// Locked meanwhile, since several requests may do so at the same time.
    updating: Mutex<()>,
}

impl Collector for LinkCollector {
    fn desc(&self) -> Vec<&Desc> {
        let all = self.metrics.all().into_iter();
        all.flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.update(&self.bus.link_report());
        let all = self.metrics.all().into_iter();
        all.flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tickstorm_bus::{MemoryBus, RefusedPublish};

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
        report.refused.clear();
        bus.set_link_report("edge", report.clone());
        expect(4, 0, 0);
        report.refused_publishes = vec![RefusedPublish {
            subject: "tickstorm.v1.time".to_owned(),
            ago: Duration::from_millis(1_500),
        }];
        bus.set_link_report("edge", report.clone());
        expect(4, 0, 1);
        let raised: Vec<_> = alarms(&report).map(LinkAlarm::label).collect();
        assert_eq!(raised, ["nats_refused"]);
        let expected = json!({ "subject": "tickstorm.v1.time", "last_refused_s_ago": 1 });
        assert_eq!(status(&report)["refused_publishes"], json!([expected]));
        assert!(register(&registry, Arc::new(bus.link("other"))).is_err());
    }

    #[test]
    fn the_server_is_shown_only_while_there_is_a_connection_and_connections_are_counted() {
        let (registry, bus) = (Registry::new(), MemoryBus::new());
        register(&registry, Arc::new(bus.link("edge"))).unwrap();
        let expect = |connected: u8, server: Option<&str>, connects: u64, disconnects: u64| {
            let text = crate::metrics::encode(&registry).unwrap();
            let servers: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("tickstorm_nats_server_info"))
                .collect();
            let expected =
                server.map(|server| format!("tickstorm_nats_server_info{{server=\"{server}\"}} 1"));
            assert_eq!(servers, Vec::from_iter(expected.as_deref()), "{text}");
            for line in [
                format!("tickstorm_nats_connected {connected}"),
                format!("tickstorm_nats_connects_total {connects}"),
                format!("tickstorm_nats_disconnects_total {disconnects}"),
            ] {
                assert!(text.lines().any(|has| has == line), "no {line} in {text}");
            }
        };
        // The bus in memory has no servers.
        expect(1, None, 1, 0);
        bus.cut("edge");
        expect(0, None, 1, 1);
        bus.restore("edge");
        expect(1, None, 2, 1);
        let report = |server: Option<&str>, connects, disconnects| LinkReport {
            is_connected: server.is_some(),
            server: server.map(str::to_owned),
            connects,
            disconnects,
            ..LinkReport::default()
        };
        for (server, connects, disconnects) in [
            (Some("nats-0:4222"), 3, 2),
            (None, 3, 3),
            (Some("nats-1:4222"), 4, 3),
            (Some("nats-2:4222"), 5, 4),
        ] {
            bus.set_link_report("edge", report(server, connects, disconnects));
            expect(u8::from(server.is_some()), server, connects, disconnects);
        }
        // When the bus is stopped, its report is empty.
        bus.set_link_report("edge", LinkReport::default());
        expect(0, None, 5, 4);
    }

    #[test]
    fn each_alarm_has_a_sentence() {
        for alarm in LinkAlarm::ALL {
            assert!(alarm.message().ends_with('.'), "{alarm:?}");
            assert!(alarm.action().ends_with('.'), "{alarm:?}");
        }
    }
}
