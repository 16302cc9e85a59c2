//! The lateness of releases: one histogram per kind of tick, side by side, as the rows of a
//! Markdown table that can be pasted into a document.

use serde::Serialize;

/// Upper bounds in microseconds: the buckets of the edge's `tickstorm_release_lateness_seconds`.
const BOUNDS_US: [u64; 13] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000,
];

/// A table with one histogram per column.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatenessTable {
    label: &'static str,
    bounds_us: [u64; BOUNDS_US.len()],
    columns: Vec<LatenessColumn>,
}

/// The histogram of one kind of tick. Times are in microseconds, and `None` if there was no tick.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatenessColumn {
    label: String,
    ticks: u64,
    p50_us: Option<u64>,
    p95_us: Option<u64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
    /// Ticks by bucket. The last bucket counts those above all bounds.
    counts: [u64; BOUNDS_US.len() + 1],
}

impl LatenessTable {
    /// Creates a table with these columns; `label` is the heading of the first column.
    pub(crate) fn new(label: &'static str, columns: Vec<LatenessColumn>) -> Self {
        Self {
            label,
            bounds_us: BOUNDS_US,
            columns,
        }
    }

    /// Returns the cells by row. The first row is the heading, the second one Markdown's rule
    /// beneath it.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let row = |head: String, cell: &dyn Fn(&LatenessColumn) -> String| {
            let cells = self.columns.iter().map(cell);
            std::iter::once(head).chain(cells).collect::<Vec<_>>()
        };
        let quantile = |value: Option<u64>| value.map_or_else(String::new, time);
        let mut rows = vec![
            row(self.label.to_owned(), &|column| column.label.clone()),
            row("---".to_owned(), &|_| "---:".to_owned()),
            row("ticks".to_owned(), &|column| column.ticks.to_string()),
            row("p50".to_owned(), &|column| quantile(column.p50_us)),
            row("p95".to_owned(), &|column| quantile(column.p95_us)),
            row("p99".to_owned(), &|column| quantile(column.p99_us)),
            row("max".to_owned(), &|column| quantile(column.max_us)),
        ];
        let mut above = String::from("0");
        for (bucket, bound) in BOUNDS_US.iter().enumerate() {
            let head = format!("{above} to {}", time(*bound));
            rows.push(row(head, &|column| column.counts[bucket].to_string()));
            above = time(*bound);
        }
        rows.push(row(format!("over {above}"), &|column| {
            column.counts[BOUNDS_US.len()].to_string()
        }));
        rows
    }
}

impl LatenessColumn {
    /// Counts ticks by their lateness in microseconds.
    pub(crate) fn of(label: String, mut lateness_us: Vec<u64>) -> Self {
        lateness_us.sort_unstable();
        let mut counts = [0; BOUNDS_US.len() + 1];
        for lateness_us in &lateness_us {
            // The upper bound is inclusive, as in the metric.
            counts[BOUNDS_US.partition_point(|bound| bound < lateness_us)] += 1;
        }
        let at = |percent: usize| {
            let rank = (lateness_us.len() * percent).div_ceil(100);
            lateness_us.get(rank.checked_sub(1)?).copied()
        };
        Self {
            label,
            ticks: lateness_us.len() as u64,
            p50_us: at(50),
            p95_us: at(95),
            p99_us: at(99),
            max_us: at(100),
            counts,
        }
    }
}

/// Formats a time in a fitting unit, exact to the microsecond.
fn time(us: u64) -> String {
    let (unit, name) = match us {
        0..1_000 => (1, "µs"),
        1_000..1_000_000 => (1_000, "ms"),
        1_000_000.. => (1_000_000, "s"),
    };
    let (whole, rest) = (us / unit, us % unit);
    if rest == 0 {
        return format!("{whole} {name}");
    }
    // As many digits as the unit has zeros.
    let fraction = (unit + rest).to_string();
    let fraction = fraction[1..].trim_end_matches('0');
    format!("{whole}.{fraction} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_is_in_one_bucket_and_upper_bounds_are_inclusive() {
        let lateness_us = vec![0, 5, 6, 1_000, 1_001, 2_000_000];
        let column = LatenessColumn::of("ticks".into(), lateness_us);
        assert_eq!(column.counts.iter().sum::<u64>(), 6);
        assert_eq!(column.counts, [2, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]);
        assert_eq!((column.ticks, column.max_us), (6, Some(2_000_000)));
    }

    #[test]
    fn a_quantile_is_the_smallest_value_that_its_share_of_ticks_does_not_exceed() {
        let column = LatenessColumn::of("ticks".into(), (1..=200).rev().collect());
        let quantiles = [column.p50_us, column.p95_us, column.p99_us, column.max_us];
        assert_eq!(quantiles, [Some(100), Some(190), Some(198), Some(200)]);
        let column = LatenessColumn::of("ticks".into(), vec![7]);
        assert_eq!((column.p50_us, column.max_us), (Some(7), Some(7)));
        assert_eq!(LatenessColumn::of("ticks".into(), Vec::new()).p50_us, None);
    }

    #[test]
    fn rows_form_a_markdown_table() {
        let columns = [("quiet", vec![4, 2_500]), ("busy", vec![])];
        let columns =
            columns.map(|(label, lateness_us)| LatenessColumn::of(label.into(), lateness_us));
        let rows = LatenessTable::new("lateness", columns.to_vec()).rows();
        assert_eq!(rows[0], ["lateness", "quiet", "busy"]);
        assert_eq!(rows[1], ["---", "---:", "---:"]);
        assert_eq!(rows[2], ["ticks", "2", "0"]);
        assert_eq!(rows[6], ["max", "2.5 ms", ""]);
        assert_eq!(rows[7], ["0 to 5 µs", "1", "0"]);
        assert_eq!(rows[15], ["1 ms to 2.5 ms", "1", "0"]);
        assert_eq!(rows[20], ["over 1 s", "0", "0"]);
        assert_eq!(rows.len(), 21);
    }

    #[test]
    fn a_time_keeps_its_microseconds() {
        let times = [0, 999, 1_000, 1_045, 100_000, 2_000_000, 1_000_007].map(time);
        assert_eq!(
            times,
            [
                "0 µs",
                "999 µs",
                "1 ms",
                "1.045 ms",
                "100 ms",
                "2 s",
                "1.000007 s"
            ]
        );
    }
}
