//! Who agrees with whom. Clocks are compared in pairs, never averaged: a wrong one can then only be outvoted, not dilute the rest.

use crate::sample::BoundedOffset;

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
pub(crate) fn stances(
    estimates: &[BoundedOffset],
    electorate: usize,
    tolerance_ns: u64,
) -> Vec<Stance> {
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

#[cfg(test)]
mod tests {
    use super::Stance::{AgainstMajority, Undecided, WithMajority};
    use super::*;

    fn stances_ms(offsets_ms: &[i64], electorate: usize) -> Vec<Stance> {
        let estimate = |ms: &i64| BoundedOffset {
            offset_ns: ms * 1_000_000,
            bound_ns: 0,
        };
        let estimates: Vec<BoundedOffset> = offsets_ms.iter().map(estimate).collect();
        stances(&estimates, electorate, 20_000_000)
    }

    #[test]
    fn a_clock_that_differs_from_a_majority_stands_against_it() {
        assert_eq!(
            stances_ms(&[0, 0, 21], 3),
            [WithMajority, WithMajority, AgainstMajority]
        );
        assert_eq!(stances_ms(&[0, 0, 20], 3), [WithMajority; 3]);
    }

    #[test]
    fn where_all_differ_nobody_is_the_wrong_one() {
        assert_eq!(stances_ms(&[0, 50, 100], 3), [Undecided; 3]);
        assert_eq!(stances_ms(&[0, 50, 100, 150, 200], 5), [Undecided; 5]);
    }

    #[test]
    fn silent_clocks_count_in_the_majority() {
        assert_eq!(stances_ms(&[0, 0], 3), [WithMajority; 2]);
        assert_eq!(stances_ms(&[0, 0], 4), [Undecided; 2]);
        assert_eq!(stances_ms(&[0], 1), [WithMajority]);
        assert_eq!(stances_ms(&[], 0), []);
    }

    #[test]
    fn a_clock_that_differs_from_too_few_is_not_against_the_majority() {
        // The first agrees with the second only, and differs from two of four.
        let expected = [Undecided, WithMajority, WithMajority, WithMajority];
        assert_eq!(stances_ms(&[0, 20, 40, 40], 4), expected);
    }
}
