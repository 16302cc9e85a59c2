//! Closing a connection: the reason that is recorded, the ERROR that is sent, and the lingering
//! after it.

use std::cell::LazyCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use tickstorm_protocol::code::{CloseReason, ErrorCode, LogLevel};
use tickstorm_protocol::session::server;
use tickstorm_service::excerpt::Excerpt;
use tickstorm_service::traces;
use tracing::{Level, enabled, info, warn};

use super::connection::{AfterStep, Connection, Farewell};
use super::debugged::log_connection;
use super::driver::Driver;
use super::time::Moment;
use super::traced_handshakes::{HandshakeEnd, trace_handshake};
use crate::feed::{Delivery, FeedFrame, FeedId};
use crate::metrics::SentFrame;
use crate::sys::network::Network;
use crate::sys::proxied::ProxyFault;
use crate::sys::secured::TlsFailure;

/// The most bytes of ticks that are sent in one call with an ERROR. A TLS record holds four times
/// as many.
const LAST_FRAMES_MAX: usize = 4_096;

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
            log_connection!(&self.env, id, peer; %error, "TLS failed");
            if let Some(result) = failure.refusal()
                && let Some(not_logged) = self.env.commons.refusals.note(result, at.mono)
            {
                tracing::info!(
                    connection = %self.env.connection_id(id),
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
        let has_error =
            farewell.may_send_error && self.send_last(connection, &unsent, farewell.reason, at);
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
    /// in which its turn has not come. One that is on the slow path does not get any, and neither
    /// does one with so many that they could keep the ERROR from being sent.
    fn last_frames(&mut self, connection: &Connection<N::Socket>) -> Vec<FeedFrame> {
        let keeps_up = connection
            .served()
            .is_some_and(|served| served.outbox.is_none());
        if !keeps_up {
            return Vec::new();
        }
        let unsent = self.feeds.unsent_frames(connection.key.slot);
        let frames = unsent
            .ok()
            .flatten()
            .map_or_else(Vec::new, |unsent| unsent.frames);
        let bytes: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
        if bytes <= LAST_FRAMES_MAX {
            frames
        } else {
            Vec::new()
        }
    }

    /// Starts ending a connection: takes it out of its feed, and counts and logs the reason and for
    /// how long its client was served. Returns `None` if it is already ending.
    pub(super) fn end(
        &mut self,
        connection: &mut Connection<N::Socket>,
        reason: CloseReason,
        at: Moment,
    ) -> Option<Farewell> {
        let slot = connection.key.slot;
        let (feed, backlog) = (self.feeds.feed_of(slot), self.feeds.backlog(slot));
        let served_for = connection.served_for(at.mono);
        let farewell = connection.end(reason, at.now)?;
        if let Some(time) = served_for {
            self.env.metrics().connections.observe_session(time);
        }
        self.feeds.leave(slot);
        self.env.count_closed(farewell.reason);
        let span = match farewell.client {
            Some(_) => None,
            None => {
                let end = HandshakeEnd::Closed(farewell.reason);
                trace_handshake(&self.env, connection, end, at.mono)
            }
        };
        let _entered = span.as_ref().map(traces::enter);
        self.report_closed(connection, &farewell, feed, backlog, at);
        Some(farewell)
    }

    /// Counts and logs a connection that is refused when it is accepted.
    pub(super) fn record_refusal(&self, id: u64, peer: SocketAddr, reason: CloseReason) {
        self.env.count_closed(reason);
        log_connection!(&self.env, id, peer; reason = reason.label(), "connection refused");
    }

    /// Logs the end of a connection, which had this feed and backlog. At the default level, the
    /// ends of clients that were cut off are logged, as far as there are not too many of them.
    fn report_closed(
        &mut self,
        connection: &Connection<N::Socket>,
        farewell: &Farewell,
        feed: Option<FeedId>,
        backlog_frames: u64,
        at: Moment,
    ) {
        let Farewell { reason, client, .. } = farewell;
        let (id, peer) = (connection.key.id, connection.peer);
        let is_debugged = self.env.debugged.find(id, peer.ip()).is_some();
        let has_line = is_debugged || enabled!(Level::DEBUG);
        let not_logged = match reason.log_level() {
            LogLevel::Debug if !has_line && enabled!(Level::INFO) => {
                let is_cut_off = client.is_some() && is_cut_off(*reason);
                is_cut_off.then(|| self.cut_off.note(at.mono)).flatten()
            }
            LogLevel::Debug | LogLevel::Warn => None,
        };
        let certificate = self.network.client_certificate(&connection.socket);
        // The kernel is asked only if the line is written.
        let traffic = LazyCell::new(|| self.network.traffic(&connection.socket));
        macro_rules! log_end {
            ($log:ident!($($first:tt)*)) => {
                $log!(
                    $($first)*
                    certificate_subject = certificate.map(|shown| display(&shown.subject)),
                    certificate_serial = certificate.map(|shown| display(&shown.serial)),
                    identity = client.as_ref().map(|client| client.identity()),
                    client_id = client.as_ref().map(|client| &*client.id),
                    mode = feed.map(|feed| feed.mode.name()),
                    ahead = feed.map(|feed| feed.delivery == Delivery::Ahead),
                    lasted_ms = millis(at.mono.since(connection.accepted)),
                    backlog_frames,
                    received_bytes = traffic.received_bytes,
                    acknowledged_bytes = traffic.acknowledged_bytes,
                    retransmissions = traffic.retransmissions,
                    reason = reason.label(),
                    "connection closed"
                )
            };
        }
        if let Some(not_logged) = not_logged {
            log_end!(info!(connection = %self.env.connection_id(id), %peer, not_logged,));
        } else if reason.log_level() == LogLevel::Warn && !is_debugged {
            log_end!(warn!(connection = %self.env.connection_id(id), %peer,));
        } else {
            log_end!(log_connection!(&self.env, id, peer;));
        }
    }

    /// Sends the ERROR frame for `reason`, if it has one, after `frames`. Returns true if the
    /// socket accepted all of it.
    fn send_last(
        &mut self,
        connection: &Connection<N::Socket>,
        frames: &[FeedFrame],
        reason: CloseReason,
        at: Moment,
    ) -> bool {
        let (id, peer) = (connection.key.id, connection.peer);
        let Some(error) = self.error_frame(id, peer, reason) else {
            return false;
        };
        let bytes = frames.iter().map(|frame| &frame.bytes[..]);
        let parts: Vec<_> = bytes.chain([&error[..]]).map(IoSlice::new).collect();
        let Ok(taken) = self.network.send_parts(&connection.socket, &parts) else {
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

    /// Sends the ERROR frame for `reason`, if it has one, over a connection that was just accepted.
    /// Returns true if the socket accepted the complete frame.
    pub(super) fn send_error(
        &mut self,
        fd: RawFd,
        id: u64,
        peer: SocketAddr,
        reason: CloseReason,
    ) -> bool {
        let Some(frame) = self.error_frame(id, peer, reason) else {
            return false;
        };
        let sent = self.network.send(fd, &frame);
        if let Ok(taken) = sent {
            self.env.metrics().bytes_sent.inc_by(taken as u64);
            self.env.frames.count_sent(SentFrame::Error);
        }
        sent == Ok(frame.len())
    }

    /// Returns the ERROR frame for `reason`, if it has one, and logs that it is sent.
    fn error_frame(&self, id: u64, peer: SocketAddr, reason: CloseReason) -> Option<Vec<u8>> {
        let code = reason.error_code()?;
        let (message, connection_id) = (reason.to_string(), self.env.connection_id(id).to_string());
        let retry_after_ms = reason.retry_after_ms().map_or(0, rand::random_range);
        log_connection!(
            &self.env, id, peer;
            code = code.as_str(),
            error = message,
            retry_after_ms,
            "sending ERROR"
        );
        let mut frame = Vec::new();
        server::error(code, &message, retry_after_ms, &connection_id, &mut frame);
        Some(frame)
    }
}

/// Returns whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns whether a client that is closed for `reason` was cut off, unlike one that left by
/// itself, and unlike all clients of an edge that drains or whose time has changed.
fn is_cut_off(reason: CloseReason) -> bool {
    match reason.error_code() {
        Some(code) => !matches!(
            code,
            ErrorCode::ServerDraining | ErrorCode::NoTime | ErrorCode::TimeStepped
        ),
        None => matches!(reason, CloseReason::ConnectionLost),
    }
}
