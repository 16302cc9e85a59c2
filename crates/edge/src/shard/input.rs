//! Processing of input: passes a client's bytes through its session and acts on each frame. Answers
//! are appended to the control buffer; nothing is read or sent here.

use std::os::fd::AsRawFd;

use super::authentication::{self, AuthOutcome, AuthenticatedClient, authenticate};
use super::connection::{Connection, Served, Stage};
use super::context::InputContext;
use super::debugged::log_connection;
use super::subscription::{SubscribeOutcome, subscribe};
use super::traced_handshakes::{HandshakeEnd, trace_handshake};
use crate::auth::Cookie;
use crate::metrics::SentFrame;
use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::{Greeting, Step, pong};
use tickstorm_service::traces;

/// The result of processing a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum InputProgress {
    /// All bytes were processed, or the connection accepts no more for now. If it is blocked, the
    /// session keeps the bytes that are left.
    All,
    /// The control buffer must be sent before the remaining bytes are processed.
    ControlFull,
    /// The connection must be closed.
    Close(CloseReason),
}

/// Processes the bytes that the session has kept, then `input`, and advances `input` past the bytes
/// used.
pub(super) fn process<S: AsRawFd>(
    connection: &mut Connection<S>,
    input: &mut &[u8],
    context: &mut InputContext<'_>,
) -> InputProgress {
    let (env, at) = (context.env, context.at);
    loop {
        match connection.stage {
            Stage::Handshake { .. } | Stage::Judging { .. } | Stage::Served(_) => {}
            // Further input is ignored.
            Stage::Lingering { .. } => return InputProgress::All,
        }
        if context.control.is_full() {
            return InputProgress::ControlFull;
        }
        if connection.is_blocked() {
            connection.session.keep(input);
            return InputProgress::All;
        }
        let session = &mut connection.session;
        let step = session.step_observed(env.limits(), input, at.now, |frame_type| {
            env.frames.count_received(frame_type.into());
        });
        match step {
            Step::NeedsInput => return InputProgress::All,
            Step::Auth(auth) => {
                let outcome = authenticate(env, connection.peer.ip(), auth, at);
                if let Some(reason) = conclude(connection, outcome, context) {
                    return InputProgress::Close(reason);
                }
            }
            Step::Subscribe(request) => match subscribe(connection, request, context) {
                SubscribeOutcome::Served => {}
                SubscribeOutcome::Waits => *context.has_pending_subscribes = true,
                SubscribeOutcome::Refused(reason) => return InputProgress::Close(reason),
            },
            Step::Heartbeat { client_time_us } => {
                context.round_trips.count_heartbeat();
                answer_heartbeat(client_time_us, context);
            }
            Step::Close(reason) => return InputProgress::Close(reason),
        }
    }
}

/// Continues with the AUTH of a connection whose wait is over.
pub(super) fn judge<S>(
    connection: &mut Connection<S>,
    context: &mut InputContext<'_>,
) -> InputProgress {
    let (env, at) = (context.env, context.at);
    let ended = Stage::Lingering { until: at.now };
    match std::mem::replace(&mut connection.stage, ended) {
        Stage::Judging { waiting, permit } => {
            connection.stage = Stage::Handshake { permit };
            let outcome = authentication::resume(env, connection.peer.ip(), *waiting, at);
            conclude(connection, outcome, context).map_or(InputProgress::All, InputProgress::Close)
        }
        other @ (Stage::Handshake { .. } | Stage::Served(_) | Stage::Lingering { .. }) => {
            connection.stage = other;
            InputProgress::All
        }
    }
}

/// Acts on the outcome of an AUTH. Returns the reason to close the connection, if it must be
/// closed.
fn conclude<S>(
    connection: &mut Connection<S>,
    outcome: AuthOutcome,
    context: &mut InputContext<'_>,
) -> Option<CloseReason> {
    match outcome {
        AuthOutcome::Accepted(client, cookie) => {
            accept(connection, client, cookie.as_ref(), context);
        }
        AuthOutcome::Waits(waiting) => {
            let wait = waiting.due().since(context.at.now);
            log_connection!(
                context.env, connection.key.id, connection.peer;
                ?wait,
                "AUTH waits before it is judged"
            );
            connection.wait(waiting);
        }
        AuthOutcome::Failed => return Some(CloseReason::AuthFailed),
        AuthOutcome::RateLimited => return Some(CloseReason::AuthRateLimited),
    }
    None
}

fn accept<S>(
    connection: &mut Connection<S>,
    mut client: Box<AuthenticatedClient>,
    cookie: Option<&Cookie>,
    context: &mut InputContext<'_>,
) {
    let end = HandshakeEnd::Served(&client);
    let span = trace_handshake(context.env, connection, end, context.at.mono);
    let _entered = span.as_ref().map(traces::enter);
    log_connection!(
        context.env, connection.key.id, connection.peer;
        identity = client.identity(),
        client_id = client.id,
        client_version = client.version,
        cookie = client.has_cookie(),
        "authenticated"
    );
    let (limits, frames) = (context.env.limits(), context.control.frames());
    let greeting = Greeting {
        connection_id: &context.env.connection_id(connection.key.id).to_string(),
        cookie: cookie.map_or(&[][..], Cookie::as_bytes),
    };
    connection
        .session
        .accept(limits, &greeting, context.at.now, frames);
    context.env.frames.count_sent(SentFrame::Ack);
    let handshake = context.at.mono.since(connection.accepted);
    context
        .env
        .metrics()
        .connections
        .observe_handshake(handshake);
    client.note_handshake(handshake);
    connection.stage = Stage::Served(Served::new(client));
    if let Some(latecomers) = context.latecomers {
        latecomers.push(connection.key);
    }
}

fn answer_heartbeat(client_time_us: i64, context: &mut InputContext<'_>) {
    context.env.frames.count_sent(SentFrame::Pong);
    let (mono, frames) = (context.at.mono, context.control.frames());
    match context.env.authority(mono) {
        None => pong(client_time_us, 0, 0, u32::MAX, 0, frames),
        Some(authority) => {
            let unix_us = authority.time_at(mono).as_micros();
            pong(
                client_time_us,
                unix_us,
                unix_us,
                authority.bound_us(mono),
                authority.clock_error_us(),
                frames,
            );
        }
    }
}
