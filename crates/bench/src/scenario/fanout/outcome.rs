//! The measurements of `fanout`, and the figures derived from them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::figure::{Figure, growth, number, whole};
use crate::orders::BareSends;
use crate::report::{Report, Series};
use crate::tick_arrivals::ArrivalsByTick;

/// The margin that is added to twice the time that a tick took, in milliseconds.
const WINDOW_SPARE_MS: i64 = 20;
/// The delay from the last arrival to the first heartbeat, in milliseconds, so that the generator
/// notices that the tick is over.
const HEARTBEAT_DELAY_MS: i64 = 50;
/// The minimum time for one second's heartbeats, in milliseconds.
const HEARTBEAT_TIME_MIN_MS: i64 = 100;
/// The largest number of points of a series. Beyond it, every second point is dropped.
const POINTS_MAX: usize = 2_000;
/// Notes about what is left out of the figures.
const NOT_TO_ALL: &str = "ticks that did not reach all clients are left out of the medians";
const NOT_IN_TIME: &str = "ticks that reached the last client after the end of the CPU window are \
                           left out of the edge's CPU per message";
const BARE_NOT_ALL: &str =
    "rounds in which the bare loop did not reach all clients are left out of the medians";

/// The measurements, by round.
#[derive(Default)]
pub(super) struct FanoutOutcome {
    pub(super) cpu_us: Vec<f64>,
    pub(super) cores: Vec<f64>,
    pub(super) last_ms: Vec<f64>,
    pub(super) spread_ms: Vec<f64>,
    pub(super) bare_cpu_us: Vec<f64>,
    pub(super) bare_last_ms: Vec<f64>,
    pub(super) bare_spread_ms: Vec<f64>,
    /// The edge's measurements by epoch, so that those of two edges can be paired.
    by_epoch: BTreeMap<i64, TickCosts>,
    pub(super) rss: Thinned,
    pub(super) files: Thinned,
    /// When CPU time is read again at the latest, in milliseconds after the tick was due.
    window_ends_max: i64,
    /// When the last tick counted had reached all clients, in milliseconds after it was due; `None`
    /// before the first.
    arrived_ms: Option<i64>,
}

/// What one tick cost the edge, and how long it took.
#[derive(Clone, Copy, Debug)]
struct TickCosts {
    /// `None` if it took too long to be measured.
    cpu_us: Option<f64>,
    last_ms: f64,
    spread_ms: f64,
}

/// A series whose number of points stays bounded, however long the run.
#[derive(Default)]
pub(super) struct Thinned {
    points: Vec<(f64, f64)>,
    each: u64,
    seen: u64,
}

impl Thinned {
    pub(super) fn push(&mut self, point: (f64, f64)) {
        self.each = self.each.max(1);
        if self.seen.is_multiple_of(self.each) {
            self.points.push(point);
        }
        self.seen += 1;
        if self.points.len() >= POINTS_MAX {
            let mut odd = false;
            self.points.retain(|_| {
                odd = !odd;
                odd
            });
            self.each *= 2;
        }
    }

    /// Returns how much the series has grown since it was warm, or `None` if it never became warm.
    fn growth(&self) -> Option<f64> {
        growth(&self.points)
    }
}

/// The edge's side of the measurements of one round.
pub(super) struct RoundReading {
    pub(super) epoch_ms: i64,
    /// When CPU time was read again, in milliseconds after the tick was due.
    pub(super) window_ends: i64,
    pub(super) cpu_us: Option<u64>,
    pub(super) bare: Option<(i64, BareSends)>,
}

impl FanoutOutcome {
    /// Creates an empty outcome. CPU time is read again at most `window_ends_max` milliseconds
    /// after each tick was due.
    pub(super) fn new(window_ends_max: i64) -> Self {
        Self {
            window_ends_max,
            ..Self::default()
        }
    }

    /// Returns when to read CPU time again in the next round: after twice the time that the last
    /// counted tick took, so that the window of a fast edge contains little else.
    pub(super) fn window_ends(&self) -> i64 {
        let arrived_ms = self.arrived_ms.unwrap_or(self.window_ends_max);
        let twice = arrived_ms.saturating_mul(2);
        twice
            .saturating_add(WINDOW_SPARE_MS)
            .min(self.window_ends_max)
    }

    /// Returns when to send heartbeats within `moments`: after the tick, if it takes as long as the
    /// last counted one.
    pub(super) fn after_last(&self, moments: &Range<i64>) -> Range<i64> {
        let latest = (moments.end - HEARTBEAT_TIME_MIN_MS).max(moments.start);
        let arrived_ms = self.arrived_ms.unwrap_or(0);
        let start = arrived_ms.saturating_add(HEARTBEAT_DELAY_MS);
        start.clamp(moments.start, latest)..moments.end
    }

    /// Counts a round, unless its tick did not reach all clients, in which case it can't be
    /// compared.
    pub(super) fn count(
        &mut self,
        second: &RoundReading,
        rounds: &ArrivalsByTick,
        clients: u64,
        report: &mut Report,
    ) {
        let Some(round) = rounds.of(false, second.epoch_ms) else {
            return;
        };
        if round.count < clients {
            report.note_once(NOT_TO_ALL);
            return;
        }
        let in_time = round.last_ms() <= number(second.window_ends.unsigned_abs());
        self.arrived_ms = Some(i64::try_from(whole(round.last_ms())).unwrap_or(i64::MAX));
        if !in_time {
            report.note_once(NOT_IN_TIME);
        }
        let bare = second
            .bare
            .and_then(|(bare_ms, bare)| Some((rounds.of(true, bare_ms)?, bare)));
        if second.bare.is_some() {
            let complete = bare.filter(|(round, bare)| round.count == clients && bare.stalls == 0);
            let Some((round, bare)) = complete else {
                report.note_once(BARE_NOT_ALL);
                return;
            };
            if in_time {
                self.bare_cpu_us
                    .push(number(bare.cpu_us) / number(bare.sends.max(1)));
            }
            self.bare_last_ms.push(round.last_ms());
            self.bare_spread_ms.push(round.spread_ms());
        }
        let cpu_us = second.cpu_us.filter(|_| in_time);
        let cpu_us = cpu_us.map(|cpu_us| number(cpu_us) / number(round.count));
        self.cpu_us.extend(cpu_us);
        let costs = TickCosts {
            cpu_us,
            last_ms: round.last_ms(),
            spread_ms: round.spread_ms(),
        };
        self.by_epoch.insert(second.epoch_ms, costs);
        self.last_ms.push(round.last_ms());
        self.spread_ms.push(round.spread_ms());
    }

    /// Compares the ticks of an edge with TLS with those of an edge without, which were due a
    /// moment later.
    pub(super) fn against_plain(&self, plain: &Self) -> [Figure; 3] {
        let pairs = |of: fn(&TickCosts) -> Option<f64>| -> (Vec<f64>, Vec<f64>) {
            let both = self.by_epoch.iter().filter_map(|(epoch_ms, costs)| {
                let plain = plain.by_epoch.get(epoch_ms)?;
                Some((of(costs)?, of(plain)?))
            });
            both.unzip()
        };
        let figure = |id, label, unit, (tls, plain): (Vec<f64>, Vec<f64>)| {
            Figure::of(id, label, unit, tls).against(plain)
        };
        [
            figure(
                "cpu_us_per_message_to_plain",
                "TLS to plain: edge CPU per delivered message",
                "µs",
                pairs(|costs| costs.cpu_us),
            ),
            figure(
                "last_arrival_ms_to_plain",
                "TLS to plain: last arrival after the tick was due",
                "ms",
                pairs(|costs| Some(costs.last_ms)),
            ),
            figure(
                "spread_ms_to_plain",
                "TLS to plain: spread from first to last arrival",
                "ms",
                pairs(|costs| Some(costs.spread_ms)),
            ),
        ]
    }

    /// Returns the figures of an edge without TLS that another edge is compared with.
    pub(super) fn plain_figures(self) -> [Figure; 3] {
        let of = Figure::of;
        [
            of(
                "plain_cpu_us_per_message",
                "plain: edge CPU per delivered message",
                "µs",
                self.cpu_us,
            )
            .against(self.bare_cpu_us),
            of(
                "plain_last_arrival_ms",
                "plain: last arrival after the tick was due",
                "ms",
                self.last_ms,
            )
            .against(self.bare_last_ms),
            of(
                "plain_spread_ms",
                "plain: spread from first to last arrival",
                "ms",
                self.spread_ms,
            )
            .against(self.bare_spread_ms),
        ]
    }

    /// Adds the figures to a report.
    pub(super) fn add_to(self, report: &mut Report) {
        let growth = (self.rss.growth(), self.files.growth());
        let of = Figure::of;
        let single = Figure::single;
        report.figures.extend([
            of(
                "cpu_us_per_message",
                "edge CPU per delivered message",
                "µs",
                self.cpu_us,
            )
            .against(self.bare_cpu_us),
            of(
                "last_arrival_ms",
                "last arrival after the tick was due",
                "ms",
                self.last_ms,
            )
            .against(self.bare_last_ms),
            of(
                "spread_ms",
                "spread from first to last arrival",
                "ms",
                self.spread_ms,
            )
            .against(self.bare_spread_ms),
            of(
                "edge_cores",
                "edge CPU over whole rounds",
                "cores",
                self.cores,
            ),
            single(
                "rss_growth_mib",
                "resident memory, growth since minute 5",
                "MiB",
                growth.0,
            ),
            single(
                "files_growth",
                "open files, growth since minute 5",
                "files",
                growth.1,
            ),
        ]);
        report.series.extend([
            Series {
                id: "rss_mib",
                label: "resident memory (MiB)",
                points: self.rss.points,
            },
            Series {
                id: "files",
                label: "open files",
                points: self.files.points,
            },
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_stays_bounded_and_spans_the_whole_run() {
        let mut series = Thinned::default();
        for second in 0..30_000_u64 {
            series.push((number(second), number(second) / 1_000.0));
        }
        assert!(series.points.len() <= POINTS_MAX);
        assert_eq!(series.points[0], (0.0, 0.0));
        let growth = series.growth().expect("the series is warm");
        assert!((29.0..=29.7).contains(&growth), "{growth}");
    }

    #[test]
    fn ticks_of_two_edges_are_paired_by_their_epoch() {
        let outcome = |ticks: &[(i64, Option<f64>, f64)]| FanoutOutcome {
            by_epoch: ticks
                .iter()
                .map(|(epoch_ms, cpu_us, last_ms)| {
                    let costs = TickCosts {
                        cpu_us: *cpu_us,
                        last_ms: *last_ms,
                        spread_ms: 1.0,
                    };
                    (*epoch_ms, costs)
                })
                .collect(),
            ..FanoutOutcome::default()
        };
        let tls = outcome(&[(0, Some(3.0), 30.0), (2, None, 31.0), (4, Some(5.0), 32.0)]);
        let plain = outcome(&[
            (2, Some(1.0), 10.0),
            (4, Some(2.0), 16.0),
            (6, Some(9.0), 9.0),
        ]);
        let [cpu, last, _] = tls.against_plain(&plain);
        assert_eq!((cpu.edge_rounds, cpu.limit_rounds), (vec![5.0], vec![2.0]));
        assert_eq!(last.edge_rounds, [31.0, 32.0]);
        assert_eq!(last.limit_rounds, [10.0, 16.0]);
    }

    #[test]
    fn heartbeats_wait_for_the_tick_unless_it_takes_too_long() {
        let mut measured = FanoutOutcome::new(460);
        for (arrived_ms, start) in [(0, 480), (430, 480), (600, 650), (790, 800), (2_000, 800)] {
            measured.arrived_ms = Some(arrived_ms);
            assert_eq!(measured.after_last(&(480..900)), start..900);
        }
    }

    #[test]
    fn no_growth_is_reported_before_minute_five() {
        let mut series = Thinned::default();
        series.push((299.0, 1.0));
        assert_eq!(series.growth(), None);
    }
}
