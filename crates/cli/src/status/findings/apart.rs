//! How far the times of edges are apart: several edges measure the same clock, and so its offsets
//! tell their times from each other, without a clock that all of them would have to trust.

use std::collections::BTreeSet;

use super::super::answer::{Authority, Edge, SeenClock};
use super::super::text::{clean, span};

/// The times of all edges, compared by one clock.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Apart {
    pub(in super::super) clock: String,
    /// The edge whose time is the furthest ahead.
    pub(in super::super) ahead: String,
    /// The edge whose time is the furthest behind.
    pub(in super::super) behind: String,
    /// How far these two are apart, in microseconds.
    pub(in super::super) apart_us: u64,
    /// The sum of the error bounds of both, in microseconds.
    pub(in super::super) bounds_us: u64,
    /// Whether both edges follow the same clock.
    follow_the_same: bool,
}

impl Apart {
    /// Returns whether the bounds do not explain the difference.
    pub(in super::super) const fn is_beyond_bounds(&self) -> bool {
        self.apart_us > self.bounds_us
    }
}

/// The comparison by all clocks, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct TimesApart {
    pub(super) by_clock: Vec<Apart>,
    pub(super) problems: Vec<String>,
    pub(super) remarks: Vec<String>,
}

/// The measurement of a clock by an edge.
#[derive(Clone, Copy)]
struct Measured<'a> {
    edge: &'a str,
    following: Option<&'a str>,
    offset_us: i64,
    /// The error bound of the offset: that of the edge's own time, and that of the clock's.
    bound_us: u64,
}

impl<'a> Measured<'a> {
    fn by(edge: &'a Edge, clock: &str) -> Option<Self> {
        let Authority {
            bound_us,
            following,
            ..
        } = edge.authority.as_ref()?;
        let seen = edge.clocks.iter().find(|seen| seen.id == clock)?;
        Some(Self {
            edge: &edge.id,
            following: following.as_deref(),
            offset_us: seen.offset_us?,
            bound_us: seen.bound_us?.saturating_add(*bound_us),
        })
    }
}

impl TimesApart {
    pub(super) fn of(edges: &[&Edge]) -> Self {
        let clocks = edges.iter().flat_map(|edge| &edge.clocks);
        let clocks: BTreeSet<_> = clocks.map(|SeenClock { id, .. }| &**id).collect();
        let by_clock = clocks.into_iter().filter_map(|clock| compare(edges, clock));
        let mut times = Self {
            by_clock: by_clock.collect(),
            ..Self::default()
        };
        for apart in times.by_clock.iter().filter(|one| one.is_beyond_bounds()) {
            let Apart {
                clock,
                ahead,
                behind,
                apart_us,
                bounds_us,
                ..
            } = apart;
            let (apart_by, bounds) = (span(*apart_us), span(*bounds_us));
            let text = format!(
                "by {clock}, the time of {ahead} is {apart_by} ahead of that of {behind}, and \
                 their error bounds explain {bounds}"
            );
            if apart.follow_the_same {
                times.problems.push(text);
            } else {
                let allowed = "; they follow different clocks, which may differ by \
                               CLOCK_TOLERANCE_MS";
                times.remarks.push(format!("{text}{allowed}"));
            }
        }
        times
    }
}

/// Compares all edges that have measured this clock, if there are at least two.
fn compare(edges: &[&Edge], clock: &str) -> Option<Apart> {
    let measured = || edges.iter().filter_map(|edge| Measured::by(edge, clock));
    // The larger the offset of the clock, the further behind is the edge.
    let ahead = measured().min_by_key(|one| one.offset_us)?;
    let behind = measured()
        .filter(|one| one.edge != ahead.edge)
        .max_by_key(|one| one.offset_us)?;
    Some(Apart {
        clock: clean(clock),
        ahead: clean(ahead.edge),
        behind: clean(behind.edge),
        apart_us: behind.offset_us.abs_diff(ahead.offset_us),
        bounds_us: ahead.bound_us.saturating_add(behind.bound_us),
        follow_the_same: ahead.following.is_some() && ahead.following == behind.following,
    })
}
