//! [`Lingering`]: a shard's bound on the connections that linger. They have given back their
//! permits, so that a flood of connections that are refused takes nothing from other clients.

use std::rc::Rc;

/// The connections of a shard that linger.
pub(super) struct Lingering {
    max: usize,
    /// Shared by the permits, so that the number of references is the number of permits plus one.
    permits: Rc<()>,
}

/// Counts a lingering connection until dropped.
pub(super) struct LingeringPermit {
    _counted: Rc<()>,
}

impl Lingering {
    /// Lets at most `max` connections linger at the same time.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            permits: Rc::new(()),
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Returns the number of permits in use.
    pub(super) fn len(&self) -> usize {
        Rc::strong_count(&self.permits) - 1
    }

    /// Returns a permit for one more connection, or `None` if as many as may linger do. The
    /// connection must then be closed immediately.
    pub(super) fn enter(&self) -> Option<LingeringPermit> {
        (self.len() < self.max).then(|| LingeringPermit {
            _counted: Rc::clone(&self.permits),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_counts_until_it_is_dropped() {
        let mut lingering = Lingering::new(2);
        let kept = [lingering.enter(), lingering.enter()];
        assert!(kept.iter().all(Option::is_some));
        assert!(lingering.enter().is_none());
        lingering.set_max(3);
        assert!(lingering.enter().is_some());
        assert_eq!(lingering.len(), 2);
        drop(kept);
        assert_eq!(lingering.len(), 0);
    }
}
