//! The order in which Kubernetes replaces a workload's pods. It knows numbers only.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What a Deployment does next in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RolloutStep {
    /// Make a new pod.
    Create,
    /// End an old pod.
    Delete,
    /// Look again when a new pod is available.
    Await,
    /// Nothing: all are new.
    Done,
}

/// A Deployment in a rollout. Old pods are available all the time; those that end don't count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rollout {
    /// How many pods it is to have.
    pub(crate) wanted: u32,
    /// How many more it may have.
    pub(crate) surge: u32,
    /// How many fewer may be available.
    pub(crate) unavailable: u32,
    /// How many are old.
    pub(crate) old: u32,
    /// How many are new.
    pub(crate) new: u32,
    /// How many of the new ones are available.
    pub(crate) available: u32,
}

impl Rollout {
    pub(crate) fn next(&self) -> RolloutStep {
        if self.new < self.wanted && self.old + self.new < self.wanted + self.surge {
            return RolloutStep::Create;
        }
        if self.old > 0 && self.old + self.available > self.wanted - self.unavailable {
            return RolloutStep::Delete;
        }
        if self.old == 0 && self.available == self.wanted {
            return RolloutStep::Done;
        }
        RolloutStep::Await
    }
}

/// A number of pods: itself, or a share of `wanted`, rounded up or down.
pub(crate) fn share(number: &IntOrString, wanted: u32, up: bool) -> u32 {
    match number {
        IntOrString::Int(number) => (*number).try_into().expect("no negative number"),
        IntOrString::String(share) => {
            let percent: u32 = share
                .strip_suffix('%')
                .and_then(|share| share.parse().ok())
                .expect("a share");
            if up {
                (wanted * percent).div_ceil(100)
            } else {
                wanted * percent / 100
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All steps of a rollout in which each new pod becomes available when it is waited for.
    fn steps(wanted: u32, surge: u32, unavailable: u32) -> Vec<RolloutStep> {
        let mut rollout = Rollout {
            wanted,
            surge,
            unavailable,
            old: wanted,
            new: 0,
            available: 0,
        };
        let mut steps = Vec::new();
        loop {
            let step = rollout.next();
            steps.push(step);
            match step {
                RolloutStep::Create => rollout.new += 1,
                RolloutStep::Delete => rollout.old -= 1,
                RolloutStep::Await => rollout.available += 1,
                RolloutStep::Done => return steps,
            }
            assert!(rollout.old + rollout.new <= wanted + surge);
            assert!(rollout.old + rollout.available >= wanted - unavailable);
        }
    }

    #[test]
    fn one_more_and_none_fewer_is_one_after_the_other() {
        use RolloutStep::{Await, Create, Delete, Done};
        assert_eq!(steps(1, 1, 0), [Create, Await, Delete, Done]);
        assert_eq!(
            steps(2, 1, 0),
            [Create, Await, Delete, Create, Await, Delete, Done]
        );
    }

    #[test]
    fn every_rollout_ends_and_keeps_within_its_bounds() {
        for (wanted, surge, unavailable) in [(3, 0, 1), (5, 2, 2), (4, 4, 0), (3, 1, 3)] {
            assert_eq!(
                steps(wanted, surge, unavailable).last(),
                Some(&RolloutStep::Done)
            );
        }
    }

    #[test]
    fn a_share_that_may_come_is_rounded_up_and_one_that_may_be_away_down() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(
            (share(&quarter, 3, true), share(&quarter, 3, false)),
            (1, 0)
        );
        assert_eq!(share(&IntOrString::Int(2), 3, true), 2);
    }
}
