//! Processing of input: passes a client's bytes through its session and acts on each frame. Answers
//! are appended to the control buffer; nothing is read or sent here.

use std::os::fd::AsRawFd;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::{Step, pong};
use tickstorm_timebase::Mono;

use super::authentication::{AuthOutcome, AuthenticatedClient, authenticate};
use super::connection::{Connection, Served, Stage};
use super::context::InputContext;
use super::subscription::{SubscribeOutcome, subscribe};

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
            Stage::Handshake { .. } | Stage::Served(_) => {}
            // Further input is ignored.
            Stage::Refused { .. } | Stage::Lingering { .. } => return InputProgress::All,
        }
        if context.control.is_full() {
            return InputProgress::ControlFull;
        }
        if connection.is_blocked() {
            connection.session.keep(input);
            return InputProgress::All;
        }
        match connection.session.step(env.limits(), input, at.now) {
            Step::NeedsInput => return InputProgress::All,
            Step::Auth(auth) => match authenticate(env, connection.peer.ip(), auth, at) {
                AuthOutcome::Accepted(client) => accept(connection, client, context),
                AuthOutcome::Failed => return InputProgress::Close(CloseReason::AuthFailed),
                AuthOutcome::FailedDelayed(due) => delay_refusal(connection, due),
                AuthOutcome::RateLimited => {
                    return InputProgress::Close(CloseReason::AuthRateLimited);
                }
            },
            Step::Subscribe(request) => match subscribe(connection, request, context) {
                SubscribeOutcome::Served => {}
                SubscribeOutcome::Waits => *context.has_pending_subscribes = true,
                SubscribeOutcome::Refused(reason) => return InputProgress::Close(reason),
            },
            Step::Heartbeat { client_time_us } => answer_heartbeat(client_time_us, context),
            Step::Close(reason) => return InputProgress::Close(reason),
        }
    }
}

fn accept<S>(
    connection: &mut Connection<S>,
    client: Box<AuthenticatedClient>,
    context: &mut InputContext<'_>,
) {
    tracing::debug!(
        connection = connection.key.id,
        peer = %connection.peer,
        identity = client.identity(),
        client_id = client.id,
        client_version = client.version,
        "authenticated"
    );
    let (limits, frames) = (context.env.limits(), context.control.frames());
    connection.session.accept(limits, context.at.now, frames);
    connection.stage = Stage::Served(Served::new(client));
}

fn delay_refusal<S>(connection: &mut Connection<S>, due: Mono) {
    let ended = Stage::Lingering { until: due };
    connection.stage = match std::mem::replace(&mut connection.stage, ended) {
        Stage::Handshake { _permit } => Stage::Refused { due, _permit },
        other @ (Stage::Refused { .. } | Stage::Served(_) | Stage::Lingering { .. }) => other,
    };
}

fn answer_heartbeat(client_time_us: i64, context: &mut InputContext<'_>) {
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
