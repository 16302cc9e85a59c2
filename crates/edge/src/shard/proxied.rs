//! The shard's side of the PROXY protocol: a connection gets the address of its client, and faults
//! are reported to the operator.

use std::time::Duration;

use super::connection::{AfterStep, Connection, Stage};
use super::debugged::log_connection;
use super::driver::Driver;
use super::time::Moment;
use crate::sys::network::Network;
use crate::sys::proxied::ProxyFault;

impl<N: Network> Driver<N> {
    /// Gives a connection the address of its client, if a load balancer has just announced it, and
    /// closes it if the client may not connect. Returns `None` if no address was announced. The
    /// client may have arrived while the edge was `stalled`.
    pub(super) fn learn_client_address(
        &mut self,
        connection: &mut Connection<N::Socket>,
        stalled: Duration,
        at: Moment,
    ) -> Option<AfterStep> {
        if !matches!(connection.stage, Stage::Handshake { .. }) {
            return None;
        }
        let client = self.network.take_client_address(&connection.socket)?;
        log_connection!(
            &self.env, connection.key.id, client;
            balancer = %connection.peer,
            "a load balancer has announced its client"
        );
        let since = at.mono.saturating_sub(stalled);
        let admission = &self.env.commons.admission;
        match admission.screen(client.ip(), since, at.mono) {
            Ok(permit) => {
                connection.count_client(client, permit);
                Some(AfterStep::Stays)
            }
            Err(refusal) => {
                connection.peer = client;
                self.env.metrics().connections.count_refused(refusal);
                Some(self.close(connection, refusal.close_reason(), at))
            }
        }
    }

    /// Logs a connection that does not comply with the PROXY protocol.
    pub(super) fn report_proxy_fault(
        &self,
        connection: &Connection<N::Socket>,
        error: ProxyFault,
        at: Moment,
    ) {
        let (id, peer) = (connection.key.id, connection.peer);
        let faults = &self.env.commons.proxy_faults;
        log_connection!(&self.env, id, peer; %error, "the PROXY protocol failed");
        let connection = self.env.connection_id(id);
        match error {
            ProxyFault::Missing
            | ProxyFault::Version1
            | ProxyFault::Invalid
            | ProxyFault::TooLong { .. } => {
                if let Some(not_logged) = faults.note_balancer(at.mono) {
                    tracing::warn!(
                        %connection,
                        %peer,
                        %error,
                        not_logged,
                        "client of a load balancer refused"
                    );
                }
            }
            ProxyFault::NotTrusted => {
                if let Some(not_logged) = faults.note_other(at.mono) {
                    tracing::info!(
                        %connection,
                        %peer,
                        %error,
                        not_logged,
                        "PROXY header refused"
                    );
                }
            }
            ProxyFault::Unfinished => {}
        }
    }
}
