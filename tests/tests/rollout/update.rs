//! The order in which Kubernetes replaces a Deployment's pods, as a pure function of their numbers.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The next step of a Deployment's rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RolloutStep {
    /// Create a new pod.
    Create,
    /// Terminate an old pod.
    Delete,
    /// Wait until one more new pod is available.
    Await,
    /// The rollout is complete: all pods are new and available.
    Done,
}

/// A Deployment in a rollout. Old pods are always available; terminating pods are not counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rollout {
    /// The number of pods that the Deployment should have.
    pub(crate) wanted: u32,
    /// The number of pods that it may have in addition.
    pub(crate) surge: u32,
    /// The number of pods by which the available ones may fall below `wanted`.
    pub(crate) unavailable: u32,
    /// The number of old pods.
    pub(crate) old: u32,
    /// The number of new pods.
    pub(crate) new: u32,
    /// The number of new pods that are available.
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

/// Returns the number of pods that `number` stands for: itself, or a percentage of `wanted`,
/// rounded up or down.
pub(crate) fn share(number: &IntOrString, wanted: u32, rounds_up: bool) -> u32 {
    match number {
        IntOrString::Int(number) => (*number).try_into().expect("a number that is not negative"),
        IntOrString::String(share) => {
            let percent: u32 = share
                .strip_suffix('%')
                .and_then(|share| share.parse().ok())
                .expect("a percentage");
            if rounds_up {
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

    /// Returns all steps of a rollout in which each new pod becomes available as soon as it is
    /// awaited.
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
    fn with_a_surge_of_one_pods_are_replaced_one_at_a_time() {
        use RolloutStep::{Await, Create, Delete, Done};
        assert_eq!(steps(1, 1, 0), [Create, Await, Delete, Done]);
        assert_eq!(
            steps(2, 1, 0),
            [Create, Await, Delete, Create, Await, Delete, Done]
        );
    }

    #[test]
    fn every_rollout_completes_within_its_bounds() {
        for (wanted, surge, unavailable) in [(3, 0, 1), (5, 2, 2), (4, 4, 0), (3, 1, 3)] {
            assert_eq!(
                steps(wanted, surge, unavailable).last(),
                Some(&RolloutStep::Done)
            );
        }
    }

    #[test]
    fn a_percentage_is_rounded_up_for_surge_and_down_for_unavailable() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(
            (share(&quarter, 3, true), share(&quarter, 3, false)),
            (1, 0)
        );
        assert_eq!(share(&IntOrString::Int(2), 3, true), 2);
    }
}
