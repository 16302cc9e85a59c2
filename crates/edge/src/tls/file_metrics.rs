//! Metrics of the TLS files: the time until they expire, and the alarms. They are computed when
//! metrics are collected, so that they are current even if a file system hangs.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};
use tickstorm_service::metrics::{RegisterError, collector};
use tickstorm_service::tls_expiry::register_expiry;
use tickstorm_timebase::{HostClock as _, SystemHost};
use tokio::sync::watch;

use super::state::{TlsAlarm, TlsState};

/// The gauges of the alarms, and the state that they are computed from.
#[derive(Clone)]
pub(crate) struct TlsFileMetrics {
    alarm: IntGaugeVec,
    state: watch::Receiver<TlsState>,
}

impl TlsFileMetrics {
    /// Registers the metrics.
    pub(crate) fn register(
        registry: &Registry,
        state: watch::Receiver<TlsState>,
    ) -> Result<(), RegisterError> {
        const NAME: &str = "tickstorm_tls_alarm";
        register_expiry(registry, state.clone())?;
        let opts = Opts::new(
            NAME,
            "1 while the TLS files need attention for this reason, else 0.",
        );
        let alarm = IntGaugeVec::new(opts, &["reason"]).expect("the name is valid");
        collector(registry, NAME, Self { alarm, state }).map(drop)
    }

    fn update(&self) {
        let now = SystemHost::new(0).read().unix;
        let state = self.state.borrow();
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
        self.alarm.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        self.alarm.collect()
    }
}
