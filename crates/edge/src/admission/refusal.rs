//! [`Refusal`]: why a new connection is refused.

use tickstorm_protocol::code::CloseReason;

/// The reason why a new connection is refused, before its client has sent anything that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// IP_BLOCKLIST or IP_ALLOWLIST.
    Blocked,
    /// MAX_CONNECTIONS_PER_IP or MAX_CONNECT_RATE_PER_IP.
    TooManyConnections,
    /// MAX_CONNECTIONS, or the shard's own limit.
    ServerFull,
    /// The edge drains.
    ServerDraining,
}

impl Refusal {
    /// All reasons, in declaration order.
    pub(crate) const ALL: [Self; 4] = [
        Self::Blocked,
        Self::TooManyConnections,
        Self::ServerFull,
        Self::ServerDraining,
    ];

    /// Returns the reason for which the connection is closed.
    pub(crate) const fn close_reason(self) -> CloseReason {
        match self {
            Self::Blocked => CloseReason::Blocked,
            Self::TooManyConnections => CloseReason::TooManyConnections,
            Self::ServerFull => CloseReason::ServerFull,
            Self::ServerDraining => CloseReason::ServerDraining,
        }
    }

    /// Returns the value of the label `reason` of `tickstorm_connections_refused_total`: the same
    /// as for the connection's end.
    pub(crate) const fn label(self) -> &'static str {
        self.close_reason().label()
    }
}
