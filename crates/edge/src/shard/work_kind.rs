//! [`WorkKind`]: the kinds of work that share a turn.

/// A kind of work other than the fan-out, in the order in which a shard gets to them.
#[derive(Clone, Copy, Debug)]
pub(super) enum WorkKind {
    /// Closing connections that a fan-out found to be slow or broken. This comes first, because
    /// their sockets' events would give no better close reason.
    Doomed,
    Events,
    Deadlines,
    Arrivals,
    /// Steps of TLS handshakes, unless a tick is almost due.
    Handshakes,
    Tasks,
    Accepts,
    Drain,
}

impl WorkKind {
    pub(super) const ALL: [Self; 8] = [
        Self::Doomed,
        Self::Events,
        Self::Deadlines,
        Self::Arrivals,
        Self::Handshakes,
        Self::Tasks,
        Self::Accepts,
        Self::Drain,
    ];
}
