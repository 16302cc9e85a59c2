//! Numbers of a report: medians over rounds, and their ratio to the yardstick's.

use serde::Serialize;

/// From here on a soak may not grow, in seconds.
const WARM_AFTER: f64 = 300.0;

/// A figure of the edge, and of the yardstick where there is one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What scripts know it by.
    pub(crate) id: &'static str,
    /// What people know it by.
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    /// The median over all rounds.
    pub(crate) edge: Option<f64>,
    /// The yardstick's.
    pub(crate) limit: Option<f64>,
    /// The median of the rounds' own ratios, each of a round to the yardstick's beside it.
    pub(crate) ratio: Option<f64>,
    /// By round.
    pub(crate) edge_rounds: Vec<f64>,
    pub(crate) limit_rounds: Vec<f64>,
}

impl Figure {
    /// The median of `rounds`.
    pub(crate) fn of(
        id: &'static str,
        label: &'static str,
        unit: &'static str,
        rounds: Vec<f64>,
    ) -> Self {
        Self {
            id,
            label,
            unit,
            edge: median(&rounds),
            limit: None,
            ratio: None,
            edge_rounds: rounds,
            limit_rounds: Vec::new(),
        }
    }

    /// A single value, which may not be known.
    pub(crate) fn single(
        id: &'static str,
        label: &'static str,
        unit: &'static str,
        value: Option<f64>,
    ) -> Self {
        Self::of(id, label, unit, Vec::from_iter(value))
    }

    /// With the yardstick's rounds beside.
    pub(crate) fn against(mut self, limit_rounds: Vec<f64>) -> Self {
        self.limit = median(&limit_rounds);
        let pairs = self.edge_rounds.iter().zip(&limit_rounds);
        let ratios = pairs
            .filter(|(_, limit)| **limit > 0.0)
            .map(|(edge, limit)| edge / limit);
        self.ratio = median(&Vec::from_iter(ratios));
        self.limit_rounds = limit_rounds;
        self
    }
}

/// By how much a series has grown since it was warm; none before.
pub(crate) fn growth(points: &[(f64, f64)]) -> Option<f64> {
    let warm = points.iter().find(|point| point.0 >= WARM_AFTER)?;
    points.last().map(|last| last.1 - warm.1)
}

/// The middle one; of an even number the mean of both in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len().is_multiple_of(2) {
        Some(f64::midpoint(sorted[middle - 1], upper))
    } else {
        Some(upper)
    }
}

/// As a floating-point number: exact up to 2^53, which no count here reaches.
pub(crate) fn number(whole: u64) -> f64 {
    whole as f64
}

/// A count that came as a floating-point number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates, and what is counted is no fraction"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// Nanoseconds as milliseconds.
pub(crate) fn millis(nanos: u64) -> f64 {
    number(nanos) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 100.0]), Some(3.0));
    }

    #[test]
    fn a_ratio_is_that_of_neighbours_so_that_drift_does_not_count() {
        let figure = Figure::of("id", "label", "µs", vec![2.0, 4.0, 8.0]);
        let figure = figure.against(vec![1.0, 2.0, 4.0]);
        assert_eq!((figure.edge, figure.limit), (Some(4.0), Some(2.0)));
        assert_eq!(figure.ratio, Some(2.0));
    }
}
