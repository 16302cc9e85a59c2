//! The metrics of connections: how many there are in which state, how they begin and end, and how
//! far away their clients are.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge, Registry};
use tickstorm_service::metrics::{
    RegisterError, counter, counters, histogram, int_gauge, int_gauges,
};

use crate::admission::Refusal;

const HANDSHAKE_BUCKETS_S: [f64; 13] = [
    1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From a second to 30 days.
const SESSION_BUCKETS_S: [f64; 12] = [
    1.0,
    10.0,
    60.0,
    300.0,
    900.0,
    3_600.0,
    14_400.0,
    43_200.0,
    86_400.0,
    259_200.0,
    604_800.0,
    2_592_000.0,
];
const ROUND_TRIP_BUCKETS_S: [f64; 13] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0,
];

/// The metrics of connections.
pub(crate) struct ConnectionMetrics {
    by_state: [IntGauge; ConnectionState::ALL.len()],
    pub(crate) accepted: IntCounter,
    refused: [IntCounter; Refusal::ALL.len()],
    max: IntGauge,
    pub(crate) draining: IntGauge,
    handshake: Histogram,
    session: Histogram,
    round_trip: Histogram,
}

/// The state of an open socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    Handshake,
    Authenticated,
    Subscribed,
    Lingering,
}

impl ConnectionState {
    /// All states, in declaration order.
    pub(crate) const ALL: [Self; 4] = [
        Self::Handshake,
        Self::Authenticated,
        Self::Subscribed,
        Self::Lingering,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Authenticated => "authenticated",
            Self::Subscribed => "subscribed",
            Self::Lingering => "lingering",
        }
    }
}

impl ConnectionMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, RegisterError> {
        let by_state = int_gauges(
            registry,
            "tickstorm_connections",
            "Open sockets of clients by state: handshake, authenticated but without a \
             subscription, subscribed, or lingering, which are those that were sent an ERROR.",
            &["state"],
        )?;
        let refused = counters(
            registry,
            "tickstorm_connections_refused_total",
            "New connections that were refused because of a limit, a list or a drain, by reason. \
             They also count in tickstorm_connections_closed_total.",
            &["reason"],
        )?;
        Ok(Self {
            by_state: ConnectionState::ALL
                .map(|state| by_state.with_label_values(&[state.label()])),
            accepted: counter(
                registry,
                "tickstorm_connections_accepted_total",
                "Connections accepted from the system, including those that were then refused.",
            )?,
            refused: Refusal::ALL.map(|refusal| refused.with_label_values(&[refusal.label()])),
            max: int_gauge(
                registry,
                "tickstorm_max_connections",
                "MAX_CONNECTIONS as it is in force: less than the setting if the limit of open \
                 files is too low for it.",
            )?,
            draining: int_gauge(
                registry,
                "tickstorm_draining",
                "1 from when the edge begins to drain, else 0.",
            )?,
            handshake: histogram(
                registry,
                "tickstorm_handshake_seconds",
                "Time from the accept of a connection to that of its AUTH, including TLS and any \
                 wait of the AUTH.",
                &HANDSHAKE_BUCKETS_S,
            )?,
            session: histogram(
                registry,
                "tickstorm_session_seconds",
                "Time from the accept of a client's AUTH to the end of its connection.",
                &SESSION_BUCKETS_S,
            )?,
            round_trip: histogram(
                registry,
                "tickstorm_client_round_trip_seconds",
                "Round-trip time to clients as the system's TCP measures it, at one in 16 of their \
                 HEARTBEATs. Behind a load balancer it is that to the balancer.",
                &ROUND_TRIP_BUCKETS_S,
            )?,
        })
    }

    /// Shows the most connections that the edge admits.
    pub(crate) fn show_max(&self, connections_max: usize) {
        self.max
            .set(i64::try_from(connections_max).unwrap_or(i64::MAX));
    }

    /// Counts a new socket in its state.
    pub(crate) fn enter(&self, state: ConnectionState) {
        self.by_state[state as usize].inc();
    }

    /// Stops counting a socket, which was in this state.
    pub(crate) fn leave(&self, state: ConnectionState) {
        self.by_state[state as usize].dec();
    }

    /// Returns the number of open sockets in a state.
    #[cfg(test)]
    pub(crate) fn in_state(&self, state: ConnectionState) -> i64 {
        self.by_state[state as usize].get()
    }

    /// Counts a connection that was refused.
    pub(crate) fn count_refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].inc();
    }

    /// Returns how many connections were refused for a reason.
    #[cfg(test)]
    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].get()
    }

    /// Records the time from the accept of a connection to that of its AUTH.
    pub(crate) fn observe_handshake(&self, time: Duration) {
        self.handshake.observe(time.as_secs_f64());
    }

    /// Returns the number of handshakes that have succeeded, and the sum of their times in seconds.
    #[cfg(test)]
    pub(crate) fn handshakes(&self) -> (u64, f64) {
        let handshake = &self.handshake;
        (handshake.get_sample_count(), handshake.get_sample_sum())
    }

    /// Records the time from the accept of an AUTH to the end of its connection.
    pub(crate) fn observe_session(&self, time: Duration) {
        self.session.observe(time.as_secs_f64());
    }

    /// Returns the number of sessions that have ended, and the sum of their times in seconds.
    #[cfg(test)]
    pub(crate) fn sessions(&self) -> (u64, f64) {
        (
            self.session.get_sample_count(),
            self.session.get_sample_sum(),
        )
    }

    /// Records the round-trip time to a client.
    pub(crate) fn observe_round_trip(&self, time: Duration) {
        self.round_trip.observe(time.as_secs_f64());
    }

    /// Returns the number of round-trip times recorded, and their sum in seconds.
    #[cfg(test)]
    pub(crate) fn round_trips(&self) -> (u64, f64) {
        let round_trip = &self.round_trip;
        (round_trip.get_sample_count(), round_trip.get_sample_sum())
    }
}
