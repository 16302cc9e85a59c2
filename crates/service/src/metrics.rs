//! Metrics: how they come onto a registry and how they are written down. What is measured belongs to those who measure it.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A metric could not be registered: its name is taken, or no name at all.
#[derive(Debug, thiserror::Error)]
#[error("metric {name} can't be registered")]
pub struct RegisterError {
    name: String,
    source: prometheus::Error,
}

/// Makes a registry that says which version this is: `tickstorm_build_info`.
///
/// # Errors
/// Never in effect: the registry is new.
pub fn registry() -> Result<Registry, RegisterError> {
    let registry = Registry::new();
    let name = "tickstorm_build_info";
    let build = int_gauges(
        &registry,
        name,
        "The version that runs, always 1.",
        &["version"],
    )?;
    build.with_label_values(&[crate::VERSION]).set(1);
    Ok(registry)
}

/// Writes all metrics of `registry` in Prometheus's text format.
///
/// # Errors
/// Where a metric family is empty or mixed, which no helper here can make.
pub fn encode(registry: &Registry) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// Registers a counter.
///
/// # Errors
/// Where the name is taken or no name.
pub fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, RegisterError> {
    register(registry, name, IntCounter::new(name, help))
}

/// Registers counters told apart by `labels`.
///
/// # Errors
/// Where the name is taken or no name.
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

/// Registers a gauge of fractions, as of seconds.
///
/// # Errors
/// Where the name is taken or no name.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, RegisterError> {
    register(registry, name, Gauge::new(name, help))
}

/// Registers a gauge of whole numbers.
///
/// # Errors
/// Where the name is taken or no name.
pub fn int_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, RegisterError> {
    register(registry, name, IntGauge::new(name, help))
}

/// Registers gauges of whole numbers told apart by `labels`.
///
/// # Errors
/// Where the name is taken or no name.
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

/// Registers a histogram with the upper bounds `buckets`, ascending.
///
/// # Errors
/// Where the name is taken or no name, or where the buckets do not ascend.
pub fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, RegisterError> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, name, Histogram::with_opts(opts))
}

/// Registers `collector`, which finds its values when it is asked for them; `name` is for the error.
///
/// # Errors
/// Where a name is taken.
pub fn collector<C: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    collector: C,
) -> Result<C, RegisterError> {
    register(registry, name, Ok(collector))
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    metric: prometheus::Result<M>,
) -> Result<M, RegisterError> {
    metric
        .and_then(|metric| registry.register(Box::new(metric.clone())).map(|()| metric))
        .map_err(|source| RegisterError {
            name: name.into(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::ErrorChain;

    #[test]
    fn a_new_registry_tells_the_version() {
        let text = encode(&registry().unwrap()).unwrap();
        let line = format!("tickstorm_build_info{{version=\"{}\"}} 1\n", crate::VERSION);
        assert!(text.ends_with(&line), "{text}");
    }

    #[test]
    fn every_kind_of_metric_is_written_with_its_labels() {
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
    fn labels_that_were_never_used_hide_no_other_metric() {
        let registry = Registry::new();
        counters(&registry, "unused_total", "U.", &["reason"]).unwrap();
        counter(&registry, "used_total", "U.").unwrap();
        let text = encode(&registry).unwrap();
        assert!(text.contains("\nused_total 0\n"), "{text}");
    }

    #[test]
    fn a_name_that_is_taken_or_no_name_is_refused_by_name() {
        let registry = Registry::new();
        counter(&registry, "a_total", "A.").unwrap();
        for (name, why) in [("a_total", "Duplicate"), ("a-total", "a-total")] {
            let error = counter(&registry, name, "A.").unwrap_err();
            let error = ErrorChain(&error).to_string();
            assert!(
                error.starts_with(&format!("metric {name} can't be registered")),
                "{error}"
            );
            assert!(error.contains(why), "{error}");
        }
    }
}
