//! Metrics of the TLS files: the time until they expire, and the alarms. They are computed when
//! metrics are collected, so that they are current even if a file system hangs.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};
use tickstorm_service::metrics::{RegisterError, collector};
use tickstorm_timebase::{HostClock as _, SystemHost};
use tokio::sync::watch;

use super::state::{TlsAlarm, TlsState};

/// The gauges, and the state that they are computed from.
#[derive(Clone)]
pub(crate) struct TlsFileMetrics {
    expiry: IntGaugeVec,
    alarm: IntGaugeVec,
    state: watch::Receiver<TlsState>,
}

impl TlsFileMetrics {
    /// Registers the gauges.
    pub(crate) fn register(
        registry: &Registry,
        state: watch::Receiver<TlsState>,
    ) -> Result<(), RegisterError> {
        const NAME: &str = "tickstorm_tls_expiry_seconds";
        let gauges = |name: &str, help, label| {
            IntGaugeVec::new(Opts::new(name, help), &[label]).expect("the name is valid")
        };
        let metrics = Self {
            expiry: gauges(
                NAME,
                "Time until the first certificate or revocation list of a TLS file expires, by \
                 this host's clock; negative after that.",
                "file",
            ),
            alarm: gauges(
                "tickstorm_tls_alarm",
                "1 while the TLS files need attention for this reason, else 0.",
                "reason",
            ),
            state,
        };
        collector(registry, NAME, metrics).map(|_| ())
    }

    fn update(&self) {
        let now = SystemHost::new(0).read().unix;
        let state = self.state.borrow();
        for file in state.files() {
            let label = [file.file.label()];
            match file.seconds_left(now) {
                Some(left_s) => self.expiry.with_label_values(&label).set(left_s),
                // There is no gauge, or that of an earlier file.
                None => drop(self.expiry.remove_label_values(&label)),
            }
        }
        for alarm in TlsAlarm::ALL {
            let is_raised = i64::from(state.is_raised(alarm, now));
            self.alarm
                .with_label_values(&[alarm.label()])
                .set(is_raised);
        }
    }
}

impl Collector for TlsFileMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.expiry.desc(), self.alarm.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        [self.expiry.collect(), self.alarm.collect()].concat()
    }
}
