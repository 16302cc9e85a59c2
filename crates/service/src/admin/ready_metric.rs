//! The metric of readiness. It says what /health/ready would answer, and is computed when metrics
//! are collected, so that no loop has to keep it up to date.

use std::sync::Arc;

use prometheus::{
    IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::Health;
use crate::metrics::{RegisterError, register_collector};

const NAME: &str = "tickstorm_ready";

/// Registers the metric of whether `health` is ready.
///
/// # Errors
/// Returns an error if it is registered already.
pub fn register_ready(registry: &Registry, health: Arc<dyn Health>) -> Result<(), RegisterError> {
    let help = "1 if /health/ready answers that the daemon is ready, else 0.";
    let gauge = IntGauge::new(NAME, help).map_err(|source| RegisterError::new(NAME, source))?;
    register_collector(registry, NAME, Box::new(ReadyMetric { health, gauge }))
}

struct ReadyMetric {
    health: Arc<dyn Health>,
    gauge: IntGauge,
}

impl Collector for ReadyMetric {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::from(self.health.ready().is_empty()));
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::Value;

    use super::*;
    use crate::metrics::encode;

    #[derive(Default)]
    struct Switch(AtomicBool);

    impl Health for Switch {
        fn live(&self) -> Vec<String> {
            Vec::new()
        }

        fn ready(&self) -> Vec<String> {
            let is_on = self.0.load(Ordering::Relaxed);
            (!is_on).then(|| "off".to_owned()).into_iter().collect()
        }

        fn status(&self) -> Value {
            Value::Null
        }
    }

    #[test]
    fn the_metric_is_what_the_component_says_when_it_is_collected() {
        let (registry, health) = (Registry::new(), Arc::new(Switch::default()));
        register_ready(&registry, Arc::clone(&health) as _).unwrap();
        for is_on in [false, true, false] {
            health.0.store(is_on, Ordering::Relaxed);
            let text = encode(&registry).unwrap();
            let line = format!("tickstorm_ready {}\n", u8::from(is_on));
            assert!(text.ends_with(&line), "{text}");
        }
        assert!(register_ready(&registry, health).is_err());
    }
}
