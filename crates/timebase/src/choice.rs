//! Determines which clocks agree with one another. They are compared in pairs and never averaged,
//! so a wrong clock can be outvoted but cannot pull the others along.

use crate::sample::BoundedOffset;

/// A clock's position relative to the other clocks that have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stance {
    /// It agrees with a majority, counting itself.
    WithMajority,
    /// It differs from a majority, and some other clock agrees with one.
    AgainstMajority,
    /// Neither of the two.
    Undecided,
}

/// A clock that has answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voter {
    pub(crate) estimate: BoundedOffset,
    /// The difference up to which the clock agrees with others. The lesser of two tolerances
    /// applies to a pair.
    pub(crate) tolerance_ns: u64,
}

impl Voter {
    fn agrees_with(&self, other: &Self) -> bool {
        let tolerance_ns = self.tolerance_ns.min(other.tolerance_ns);
        self.estimate.agrees_with(&other.estimate, tolerance_ns)
    }
}

/// Returns the stance of each of `voters`, given that `electorate` clocks have a vote, including
/// silent ones.
pub(crate) fn stances(voters: &[Voter], electorate: usize) -> Vec<Stance> {
    let majority = electorate / 2 + 1;
    let agreeing: Vec<usize> = voters
        .iter()
        .map(|one| voters.iter().filter(|other| one.agrees_with(other)).count())
        .collect();
    // If all clocks differ from one another, none of them can be called wrong.
    let decided = agreeing.iter().any(|&count| count >= majority);
    let stance = |count| {
        if count >= majority {
            Stance::WithMajority
        } else if decided && voters.len() - count >= majority {
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
        let voters: Vec<Voter> = offsets_ms.iter().map(|ms| voter(*ms, 20)).collect();
        stances(&voters, electorate)
    }

    fn voter(offset_ms: i64, tolerance_ms: u64) -> Voter {
        Voter {
            estimate: BoundedOffset {
                offset_ns: offset_ms * 1_000_000,
                bound_ns: 0,
            },
            tolerance_ns: tolerance_ms * 1_000_000,
        }
    }

    #[test]
    fn a_clock_that_differs_from_a_majority_is_against_it() {
        assert_eq!(
            stances_ms(&[0, 0, 21], 3),
            [WithMajority, WithMajority, AgainstMajority]
        );
        assert_eq!(stances_ms(&[0, 0, 20], 3), [WithMajority; 3]);
    }

    #[test]
    fn the_lesser_of_two_tolerances_counts() {
        let both = [voter(0, 25), voter(25, 25)];
        assert_eq!(stances(&both, 2), [WithMajority; 2]);
        let one = [voter(0, 25), voter(25, 20)];
        assert_eq!(stances(&one, 2), [Undecided; 2]);
    }

    #[test]
    fn no_clock_is_outvoted_if_all_differ() {
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
        // The first agrees only with the second, and differs from two of four.
        let expected = [Undecided, WithMajority, WithMajority, WithMajority];
        assert_eq!(stances_ms(&[0, 20, 40, 40], 4), expected);
    }
}
