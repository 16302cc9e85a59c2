//! [`FeedId`]: names one of an edge's four feeds.

use std::time::Duration;

use tickstorm_timebase::Mode;

/// The time at which a feed sends its ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// At their authority time.
    AtTime,
    /// AHEAD_MS before it.
    Ahead,
}

impl Delivery {
    /// Returns the value of the label `delivery` of metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::AtTime => "at_time",
            Self::Ahead => "ahead",
        }
    }
}

/// A feed: its mode, and whether it is sent ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FeedId {
    pub(crate) mode: Mode,
    pub(crate) delivery: Delivery,
}

impl FeedId {
    /// All feeds, in the order of their index.
    pub(crate) const ALL: [Self; 4] = [
        Self::at_time(Mode::Second),
        Self::at_time(Mode::Minute),
        Self::ahead(Mode::Second),
        Self::ahead(Mode::Minute),
    ];

    /// Returns the feed of `mode` that is sent at the ticks' time.
    pub(crate) const fn at_time(mode: Mode) -> Self {
        let delivery = Delivery::AtTime;
        Self { mode, delivery }
    }

    /// Returns the feed of `mode` that is sent ahead of the ticks' time.
    pub(crate) const fn ahead(mode: Mode) -> Self {
        let delivery = Delivery::Ahead;
        Self { mode, delivery }
    }

    /// Returns how long before the ticks' time it sends them, if ahead feeds do so by `ahead`.
    pub(crate) const fn lead(self, ahead: Duration) -> Duration {
        match self.delivery {
            Delivery::AtTime => Duration::ZERO,
            Delivery::Ahead => ahead,
        }
    }

    /// Returns its position in [`FeedId::ALL`].
    pub(crate) const fn index(self) -> usize {
        match (self.delivery, self.mode) {
            (Delivery::AtTime, Mode::Second) => 0,
            (Delivery::AtTime, Mode::Minute) => 1,
            (Delivery::Ahead, Mode::Second) => 2,
            (Delivery::Ahead, Mode::Minute) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feed_is_at_its_index() {
        for (index, id) in FeedId::ALL.into_iter().enumerate() {
            assert_eq!(id.index(), index, "{id:?}");
        }
    }
}
