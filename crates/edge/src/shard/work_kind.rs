//! [`WorkKind`]: the kinds of work among which a turn is shared.

/// What a shard does beside sending, in the order in which it gets to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum WorkKind {
    /// Those are closed that a fan-out found to be slow or gone: what their sockets report has no
    /// better reason.
    Doomed,
    Events,
    Deadlines,
    Arrivals,
    Tasks,
    Newcomers,
    Drain,
}

impl WorkKind {
    pub(super) const ALL: [Self; 7] = [
        Self::Doomed,
        Self::Events,
        Self::Deadlines,
        Self::Arrivals,
        Self::Tasks,
        Self::Newcomers,
        Self::Drain,
    ];
}
