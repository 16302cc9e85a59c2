//! Reports handshakes that have ended to be traced. Without a collector of traces, this is one look
//! at an empty option.

use tickstorm_protocol::code::CloseReason;
use tickstorm_service::traces::SpanContext;
use tickstorm_timebase::Mono;

use super::authentication::AuthenticatedClient;
use super::connection::Connection;
use super::env::Env;
use crate::traces::{Handshake, HandshakeOutcome};

/// The end of a handshake.
#[derive(Clone, Copy)]
pub(super) enum HandshakeEnd<'a> {
    /// The client has authenticated.
    Served(&'a AuthenticatedClient),
    /// The connection is closed for this reason.
    Closed(CloseReason),
}

/// Reports that a connection's handshake has ended at `mono`, if it is traced. Returns the place of
/// its span, for the log lines about it.
#[inline]
pub(super) fn trace_handshake<S>(
    env: &Env,
    connection: &Connection<S>,
    end: HandshakeEnd<'_>,
    mono: Mono,
) -> Option<SpanContext> {
    let traces = env.traces.as_ref()?;
    let (is_served, outcome) = match end {
        HandshakeEnd::Served(client) => (
            true,
            HandshakeOutcome::Served {
                identity: client.identity().into(),
                client_id: client.id.clone(),
                client_version: client.version.clone(),
                has_cookie: client.has_cookie(),
            },
        ),
        // The balancer's health checks are no handshakes.
        HandshakeEnd::Closed(CloseReason::HealthCheck) => return None,
        HandshakeEnd::Closed(reason) => (false, HandshakeOutcome::Closed(reason.label())),
    };
    let context = traces.handshake(is_served, mono)?;
    traces.ended(Handshake {
        context: context.clone(),
        connection: env.connection_id(connection.key.id),
        peer: connection.peer,
        has_tls: env.commons.tls.is_some(),
        accepted: connection.accepted,
        ended: mono,
        outcome,
    });
    Some(context)
}
