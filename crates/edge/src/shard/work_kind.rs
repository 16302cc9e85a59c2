//! [`WorkKind`]: the kinds of work that share a turn.

/// A kind of work other than the fan-out, in the order in which a shard gets to them.
#[derive(Clone, Copy, Debug)]
pub(super) enum WorkKind {
    /// Closing connections that a fan-out found to be slow or broken. This comes first, because
    /// their sockets' events would give no better close reason.
    Doomed,
    /// Closing connections because all together hold too much unfinished input. Nothing more is
    /// read meanwhile.
    Evictions,
    Events,
    Deadlines,
    Arrivals,
    /// Steps of TLS handshakes, unless a tick is almost due.
    Handshakes,
    /// Work on all connections. What is only for operators waits while ticks are sent.
    Tasks,
    Accepts,
    /// Sending clients away, unless a tick is almost due.
    Departures,
    /// Replays, unless a tick is almost due, for at most a fifth of the time.
    Replays,
}

impl WorkKind {
    pub(super) const ALL: [Self; 10] = [
        Self::Doomed,
        Self::Evictions,
        Self::Events,
        Self::Deadlines,
        Self::Arrivals,
        Self::Handshakes,
        Self::Tasks,
        Self::Accepts,
        Self::Departures,
        Self::Replays,
    ];
}
