//! The metric of how long the bus takes, which both daemons have. A process with a clock and an
//! edge has it twice, so a label tells the two apart.

use prometheus::{Histogram, HistogramOpts, Registry};

use crate::metrics::{RegisterError, collector};

const NAME: &str = "tickstorm_bus_round_trip_seconds";

/// The upper bounds of the buckets: from a server on the same host to the longest time for which an
/// edge remembers its requests.
const BUCKETS_S: [f64; 14] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 10.0,
];

/// A message, and what comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundTrip {
    /// An edge's time request, until a clock's answer.
    Request,
    /// A clock's announcement, until the clock hears it itself.
    Announcement,
}

impl RoundTrip {
    /// Returns the value of the label `message`.
    const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Announcement => "announcement",
        }
    }
}

/// Registers the histogram of these round trips.
///
/// # Errors
/// Returns an error if it is registered already.
pub fn round_trips(registry: &Registry, of: RoundTrip) -> Result<Histogram, RegisterError> {
    let opts = HistogramOpts::new(
        NAME,
        "Time from a message to what comes back over NATS: from a request of an edge to a clock's \
         answer, or from an announcement of a clock until the clock hears it itself.",
    );
    let opts = opts
        .const_label("message", of.label())
        .buckets(BUCKETS_S.to_vec());
    let histogram =
        Histogram::with_opts(opts).map_err(|source| RegisterError::new(NAME, source))?;
    collector(registry, NAME, histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::encode;

    #[test]
    fn a_clock_and_an_edge_in_one_process_have_both() {
        let registry = Registry::new();
        let request = round_trips(&registry, RoundTrip::Request).unwrap();
        let announcement = round_trips(&registry, RoundTrip::Announcement).unwrap();
        assert!(round_trips(&registry, RoundTrip::Request).is_err());
        request.observe(0.001);
        announcement.observe(0.5);
        announcement.observe(20.0);
        let text = encode(&registry).unwrap();
        for line in [
            "tickstorm_bus_round_trip_seconds_count{message=\"request\"} 1",
            "tickstorm_bus_round_trip_seconds_sum{message=\"request\"} 0.001",
            "tickstorm_bus_round_trip_seconds_count{message=\"announcement\"} 2",
        ] {
            assert!(text.lines().any(|has| has == line), "no {line} in {text}");
        }
        assert_eq!(text.matches("# HELP").count(), 1, "{text}");
    }
}
