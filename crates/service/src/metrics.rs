//! Metrics: registers them and encodes them for Prometheus. The crates that measure something
//! decide which metrics there are.

use std::thread;

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::{REVISION, VERSION, process_metrics};

/// The content type of the text that [`encode`] returns.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The error when a metric could not be registered, because its name is taken or invalid.
#[derive(Debug, thiserror::Error)]
#[error("cannot register the metric {name}")]
pub struct RegisterError {
    name: String,
    source: prometheus::Error,
}

/// Creates a registry that already has the metrics of the program, `tickstorm_build_info`, and of
/// its process.
///
/// # Errors
/// Never in practice, since no name is taken in a new registry.
pub fn registry() -> Result<Registry, RegisterError> {
    let registry = Registry::new();
    let build = int_gauges(
        &registry,
        "tickstorm_build_info",
        "Always 1; the labels are the running version, the revision of its source, and the \
         compiler and target of the build.",
        &["version", "revision", "rust", "target"],
    )?;
    build.with_label_values(&BUILD).set(1);
    process_metrics::register(&registry)?;
    Ok(registry)
}

/// The values of the labels of `tickstorm_build_info`. `build.rs` sets the last two.
const BUILD: [&str; 4] = [
    VERSION,
    REVISION,
    env!("TICKSTORM_RUST_VERSION"),
    env!("TICKSTORM_TARGET"),
];

/// Encodes all metrics of `registry` in Prometheus's text format. This takes a millisecond or more;
/// between metrics, other threads that wait for this core may run.
///
/// # Errors
/// Returns an error if a metric family is empty or mixes types, which the functions in this module
/// can't cause.
pub fn encode(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = String::new();
    for family in registry.gather() {
        TextEncoder::new().encode_utf8(&[family], &mut text)?;
        thread::yield_now();
    }
    Ok(text)
}

/// Registers a counter.
///
/// # Errors
/// Returns an error if the name is taken or invalid.
pub fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, RegisterError> {
    register(registry, name, IntCounter::new(name, help))
}

/// Registers counters that differ in their `labels`.
///
/// # Errors
/// Returns an error if the name is taken or invalid.
pub fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, RegisterError> {
    register(
        registry,
        name,
        IntCounterVec::new(Opts::new(name, help), labels),
    )
}

/// Registers a gauge for fractional values, such as seconds.
///
/// # Errors
/// Returns an error if the name is taken or invalid.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, RegisterError> {
    register(registry, name, Gauge::new(name, help))
}

/// Registers a gauge for whole numbers.
///
/// # Errors
/// Returns an error if the name is taken or invalid.
pub fn int_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, RegisterError> {
    register(registry, name, IntGauge::new(name, help))
}

/// Registers gauges for whole numbers that differ in their `labels`.
///
/// # Errors
/// Returns an error if the name is taken or invalid.
pub fn int_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, RegisterError> {
    register(
        registry,
        name,
        IntGaugeVec::new(Opts::new(name, help), labels),
    )
}

/// Registers a histogram; `buckets` are the upper bounds of its buckets, in ascending order.
///
/// # Errors
/// Returns an error if the name is taken or invalid, or the buckets do not ascend.
pub fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, RegisterError> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, name, Histogram::with_opts(opts))
}

/// Registers `collector`, which gathers its values when they are requested. `name` is used in the
/// error only.
///
/// # Errors
/// Returns an error if one of its names is taken.
pub fn collector<C: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    collector: C,
) -> Result<C, RegisterError> {
    register(registry, name, Ok(collector))
}

/// Registers a collector of several metrics, of which one has this name.
pub(crate) fn register_collector(
    registry: &Registry,
    name: &str,
    collector: Box<dyn Collector>,
) -> Result<(), RegisterError> {
    let registered = registry.register(collector);
    registered.map_err(|source| RegisterError::new(name, source))
}

impl RegisterError {
    pub(crate) fn new(name: &str, source: prometheus::Error) -> Self {
        Self {
            name: name.into(),
            source,
        }
    }
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    metric: prometheus::Result<M>,
) -> Result<M, RegisterError> {
    metric
        .and_then(|metric| registry.register(Box::new(metric.clone())).map(|()| metric))
        .map_err(|source| RegisterError::new(name, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::ErrorChain;

    #[test]
    fn a_new_registry_has_the_build_and_the_process() {
        let text = encode(&registry().unwrap()).unwrap();
        let [version, revision, rust, target] = BUILD;
        let labels =
            format!(r#"revision="{revision}",rust="{rust}",target="{target}",version="{version}""#);
        let line = format!("tickstorm_build_info{{{labels}}} 1\n");
        assert!(text.ends_with(&line), "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        let numbers: Vec<_> = rust.split(['.', '-']).take(3).collect();
        assert!(
            numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()),
            "{rust}"
        );
        assert!(target.starts_with(std::env::consts::ARCH), "{target}");
    }

    #[test]
    fn every_kind_of_metric_is_encoded_with_its_labels() {
        let registry = Registry::new();
        counter(&registry, "a_total", "A.").unwrap().inc_by(3);
        let closed = counters(&registry, "b_total", "B.", &["reason"]).unwrap();
        closed.with_label_values(&["slow_consumer"]).inc();
        gauge(&registry, "c_seconds", "C.").unwrap().set(0.5);
        int_gauge(&registry, "d", "D.").unwrap().set(-2);
        int_gauges(&registry, "e", "E.", &["state"])
            .unwrap()
            .with_label_values(&["false"])
            .set(1);
        histogram(&registry, "f_ms", "F.", &[0.1, 1.0])
            .unwrap()
            .observe(0.5);
        let text = encode(&registry).unwrap();
        for line in [
            "a_total 3",
            "b_total{reason=\"slow_consumer\"} 1",
            "c_seconds 0.5",
            "d -2",
            "e{state=\"false\"} 1",
            "f_ms_bucket{le=\"0.1\"} 0",
            "f_ms_bucket{le=\"1\"} 1",
            "f_ms_count 1",
        ] {
            assert!(
                text.lines().any(|written| written == line),
                "{line} is not in {text}"
            );
        }
    }

    #[test]
    fn a_family_without_values_hides_no_other_metric() {
        let registry = Registry::new();
        counters(&registry, "unused_total", "U.", &["reason"]).unwrap();
        counter(&registry, "used_total", "U.").unwrap();
        let text = encode(&registry).unwrap();
        assert!(text.contains("\nused_total 0\n"), "{text}");
    }

    #[test]
    fn an_error_names_the_metric_whose_name_is_taken_or_invalid() {
        let registry = Registry::new();
        counter(&registry, "a_total", "A.").unwrap();
        for (name, why) in [("a_total", "Duplicate"), ("a-total", "a-total")] {
            let error = counter(&registry, name, "A.").unwrap_err();
            let error = ErrorChain(&error).to_string();
            assert!(
                error.starts_with(&format!("cannot register the metric {name}")),
                "{error}"
            );
            assert!(error.contains(why), "{error}");
        }
    }
}
