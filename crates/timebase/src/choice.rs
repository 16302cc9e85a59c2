//! Who agrees with whom. Clocks are compared in pairs, never averaged: a wrong one can then only be outvoted, not dilute the rest.

use crate::sample::Estimate;

/// Where a clock stands among those that have said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stance {
    /// It agrees with a majority, itself counted.
    WithMajority,
    /// There is a majority of clocks from which it differs.
    AgainstMajority,
    /// Neither: too few clocks agree, or differ.
    Undecided,
}

/// The stance of each of `estimates`, where `electorate` clocks have a vote, silent ones included.
pub(crate) fn stances(estimates: &[Estimate], electorate: usize, tolerance_ns: u64) -> Vec<Stance> {
    let majority = electorate / 2 + 1;
    let agreeing: Vec<usize> = estimates
        .iter()
        .map(|one| {
            estimates
                .iter()
                .filter(|other| one.agrees_with(other, tolerance_ns))
                .count()
        })
        .collect();
    // Where everybody differs from everybody, nobody is the wrong one.
    let decided = agreeing.iter().any(|&count| count >= majority);
    let stance = |count| {
        if count >= majority {
            Stance::WithMajority
        } else if decided && estimates.len() - count >= majority {
            Stance::AgainstMajority
        } else {
            Stance::Undecided
        }
    };
    agreeing.into_iter().map(stance).collect()
}
