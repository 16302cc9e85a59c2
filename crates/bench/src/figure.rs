//! The figures of a report: medians over rounds, and their ratios to the baseline.

use serde::Serialize;

/// The time, in seconds, after which a run counts as warm, so that memory and open files should not
/// grow any more.
const WARM_AFTER: f64 = 300.0;

/// One figure of the edge, and the baseline's if it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// The identifier for scripts.
    pub(crate) id: &'static str,
    /// The name for people.
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    /// The edge's median over all rounds.
    pub(crate) edge: Option<f64>,
    /// The baseline's median over all rounds.
    pub(crate) limit: Option<f64>,
    /// The median of the ratios of each round of the edge to the baseline round beside it.
    pub(crate) ratio: Option<f64>,
    /// The values by round.
    pub(crate) edge_rounds: Vec<f64>,
    pub(crate) limit_rounds: Vec<f64>,
}

impl Figure {
    /// Creates a figure from its values by round.
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

    /// Creates a figure from a single value, if it is known.
    pub(crate) fn single(
        id: &'static str,
        label: &'static str,
        unit: &'static str,
        value: Option<f64>,
    ) -> Self {
        Self::of(id, label, unit, Vec::from_iter(value))
    }

    /// Adds the baseline's values by round.
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

/// Returns how much a series has grown since it was warm, or `None` if it never became warm.
pub(crate) fn growth(points: &[(f64, f64)]) -> Option<f64> {
    let warm = points.iter().find(|point| point.0 >= WARM_AFTER)?;
    points.last().map(|last| last.1 - warm.1)
}

/// Returns the median; of an even number of values, the mean of the middle two.
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

/// Converts an integer; exact up to 2^53, which no count here reaches.
pub(crate) fn number(whole: u64) -> f64 {
    whole as f64
}

/// Converts a count that is kept as a floating-point number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and counts have no fraction"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// Converts nanoseconds to milliseconds.
pub(crate) fn millis(nanos: u64) -> f64 {
    number(nanos) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 100.0]), Some(3.0));
    }

    #[test]
    fn the_ratio_pairs_neighbouring_rounds_so_that_drift_cancels_out() {
        let figure = Figure::of("id", "label", "µs", vec![2.0, 4.0, 8.0]);
        let figure = figure.against(vec![1.0, 2.0, 4.0]);
        assert_eq!((figure.edge, figure.limit), (Some(4.0), Some(2.0)));
        assert_eq!(figure.ratio, Some(2.0));
    }
}
