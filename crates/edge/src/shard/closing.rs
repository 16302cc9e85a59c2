//! Closing a connection: the reason that is recorded, the ERROR that is sent, and the lingering
//! after it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;

use tickstorm_protocol::code::{CloseReason, LogLevel};
use tickstorm_protocol::session::server;
use tickstorm_service::excerpt::Excerpt;
use tracing::field::display;

use super::connection::{AfterStep, Connection, Farewell};
use super::driver::Driver;
use super::time::Moment;
use crate::feed::FeedFrame;
use crate::metrics::SentFrame;
use crate::sys::network::{ClientCertificate, Network};
use crate::sys::proxied::ProxyFault;
use crate::sys::secured::TlsFailure;

impl<N: Network> Driver<N> {
    /// Closes a connection because reading or writing failed.
    pub(super) fn fail(
        &mut self,
        connection: &mut Connection<N::Socket>,
        error: &io::Error,
        at: Moment,
    ) -> AfterStep {
        let reason = self.reason_of(connection, error);
        if let Some(failure) = TlsFailure::of(error) {
            let (id, peer) = (connection.key.id, connection.peer);
            let error = Excerpt(failure);
            tracing::debug!(connection = id, %peer, %error, "TLS failed");
            if let Some(result) = failure.refusal()
                && let Some(not_logged) = self.env.commons.refusals.note(result, at.mono)
            {
                tracing::info!(
                    %peer,
                    reason = result.label(),
                    %error,
                    not_logged,
                    "client certificate refused"
                );
            }
        }
        if let Some(fault) = ProxyFault::of(error) {
            self.report_proxy_fault(connection, fault, at);
        }
        self.close(connection, reason, at)
    }

    /// Returns the close reason for a connection whose socket has failed.
    pub(super) fn reason_of(
        &self,
        connection: &Connection<N::Socket>,
        error: &io::Error,
    ) -> CloseReason {
        if TlsFailure::of(error).is_some() {
            return CloseReason::TlsFailed;
        }
        if ProxyFault::of(error).is_some() {
            return CloseReason::ProxyHeader;
        }
        // TCP_USER_TIMEOUT also ends a connection whose peer is alive but keeps its window closed.
        // A subscriber always has output in flight before keepalive would probe it, so a timeout
        // means that it did not read.
        let has_outbox = connection
            .served()
            .is_some_and(|served| served.outbox.is_some());
        let is_pending = has_outbox || self.feeds.has_joined(connection.key.slot);
        if error.kind() == io::ErrorKind::TimedOut && is_pending {
            CloseReason::SlowConsumer
        } else {
            CloseReason::ConnectionLost
        }
    }

    /// Starts closing a connection: takes it out of its feed, sends an ERROR if the reason has one
    /// and it can be sent, and lets the connection linger, because closing a socket with unread
    /// input would send a reset that could destroy the ERROR in flight. A connection that is
    /// already lingering is closed immediately, and so is any other if too many linger.
    pub(super) fn close(
        &mut self,
        connection: &mut Connection<N::Socket>,
        reason: CloseReason,
        at: Moment,
    ) -> AfterStep {
        let unsent = self.last_frames(connection);
        let Some(farewell) = self.end(connection, reason, at) else {
            return AfterStep::Gone;
        };
        // An alert must not be destroyed by a reset, any more than an ERROR.
        let has_alert = farewell.reason == CloseReason::TlsFailed;
        let has_error = farewell.may_send_error
            && self.send_last(&connection.socket, &unsent, farewell.reason, at);
        if !has_alert && !has_error {
            return AfterStep::Gone;
        }
        self.network.shut_down_sending(&connection.socket);
        let Some(permit) = self.lingering.enter() else {
            return AfterStep::Gone;
        };
        connection.linger(permit);
        if !farewell.was_reading {
            self.rearm(connection);
        }
        self.arm(connection);
        AfterStep::Stays
    }

    /// Returns the frames that a subscriber is still to be sent before an ERROR: those of a fan-out
    /// in which its turn has not come. One that is on the slow path does not get any.
    fn last_frames(&mut self, connection: &Connection<N::Socket>) -> Vec<FeedFrame> {
        let keeps_up = connection
            .served()
            .is_some_and(|served| served.outbox.is_none());
        if !keeps_up {
            return Vec::new();
        }
        let unsent = self.feeds.unsent_frames(connection.key.slot);
        unsent
            .ok()
            .flatten()
            .map_or_else(Vec::new, |unsent| unsent.frames)
    }

    /// Starts ending a connection: takes it out of its feed, and counts and logs the reason and
    /// for how long its client was served.
    /// Returns `None` if it is already ending.
    pub(super) fn end(
        &mut self,
        connection: &mut Connection<N::Socket>,
        reason: CloseReason,
        at: Moment,
    ) -> Option<Farewell> {
        let served_for = connection.served_for(at.mono);
        let farewell = connection.end(reason, at.now)?;
        if let Some(time) = served_for {
            self.env.metrics().connections.observe_session(time);
        }
        self.feeds.leave(connection.key.slot);
        let certificate = self.network.client_certificate(&connection.socket);
        let (id, peer) = (connection.key.id, connection.peer);
        self.record(id, peer, certificate, farewell.reason);
        Some(farewell)
    }

    /// Counts and logs the closing of a connection.
    pub(super) fn record(
        &self,
        id: u64,
        peer: SocketAddr,
        certificate: Option<&ClientCertificate>,
        reason: CloseReason,
    ) {
        self.env.count_closed(reason);
        let reason_label = reason.label();
        let subject = certificate.map(|certificate| display(&certificate.subject));
        let serial = certificate.map(|certificate| display(&certificate.serial));
        match reason.log_level() {
            LogLevel::Debug => tracing::debug!(
                connection = id,
                %peer,
                certificate_subject = subject,
                certificate_serial = serial,
                reason = reason_label,
                "connection closed"
            ),
            LogLevel::Warn => tracing::warn!(
                connection = id,
                %peer,
                certificate_subject = subject,
                certificate_serial = serial,
                reason = reason_label,
                "connection closed"
            ),
        }
    }

    /// Sends the ERROR frame for `reason`, if it has one, after `frames`. Returns true if the
    /// socket accepted all of it.
    fn send_last(
        &mut self,
        socket: &N::Socket,
        frames: &[FeedFrame],
        reason: CloseReason,
        at: Moment,
    ) -> bool {
        let Some(error) = error_frame(reason) else {
            return false;
        };
        let bytes = frames.iter().map(|frame| &frame.bytes[..]);
        let parts: Vec<_> = bytes.chain([&error[..]]).map(IoSlice::new).collect();
        let Ok(taken) = self.network.send_parts(socket, &parts) else {
            return false;
        };
        self.env.metrics().bytes_sent.inc_by(taken as u64);
        let mut left = taken;
        for frame in frames {
            if left == 0 {
                return false;
            }
            self.env.count_frame(frame, at.mono);
            left = left.saturating_sub(frame.bytes.len());
        }
        if left > 0 {
            self.env.frames.count_sent(SentFrame::Error);
        }
        left == error.len()
    }

    /// Sends the ERROR frame for `reason`, if it has one. Returns true if the socket accepted the
    /// complete frame.
    pub(super) fn send_error(&mut self, fd: RawFd, reason: CloseReason) -> bool {
        let Some(frame) = error_frame(reason) else {
            return false;
        };
        let sent = self.network.send(fd, &frame);
        if let Ok(taken) = sent {
            self.env.metrics().bytes_sent.inc_by(taken as u64);
            self.env.frames.count_sent(SentFrame::Error);
        }
        sent == Ok(frame.len())
    }
}

/// Returns the ERROR frame for `reason`, if it has one.
fn error_frame(reason: CloseReason) -> Option<Vec<u8>> {
    let code = reason.error_code()?;
    let retry_after_ms = reason.retry_after_ms().map_or(0, rand::random_range);
    let mut frame = Vec::new();
    server::error(code, &reason.to_string(), retry_after_ms, &mut frame);
    Some(frame)
}
