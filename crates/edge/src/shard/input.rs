//! A client's bytes: through its session, and what each frame asks for. Answers are appended to the
//! control buffer; nothing is read or sent here.

use std::os::fd::AsRawFd;

use tickstorm_protocol::code::CloseReason;
use tickstorm_protocol::session::server::{Step, pong};
use tickstorm_timebase::Mono;

use super::authentication::{AuthenticatedClient, Judgement, judge};
use super::connection::{Connection, Served, Stage};
use super::context::InputContext;
use super::subscription::{SubscribeOutcome, subscribe};

/// How far a client's bytes were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum InputTaken {
    /// Up to their end, or to where the connection can't go on for now; what is left the session
    /// keeps.
    All,
    /// The control buffer must be sent before the rest is taken.
    ControlFull,
    /// The connection is to be closed.
    Close(CloseReason),
}

/// Takes bytes, those first that the session has kept, and advances `input` past what was used.
pub(super) fn take<S: AsRawFd>(
    connection: &mut Connection<S>,
    input: &mut &[u8],
    context: &mut InputContext<'_>,
) -> InputTaken {
    let (env, at) = (context.env, context.at);
    loop {
        match connection.stage {
            Stage::Handshake { .. } | Stage::Served(_) => {}
            // Nothing that it sends counts any more.
            Stage::Refused { .. } | Stage::Lingering { .. } => return InputTaken::All,
        }
        if context.control.is_full() {
            return InputTaken::ControlFull;
        }
        if connection.is_blocked() {
            connection.session.keep(input);
            return InputTaken::All;
        }
        match connection.session.step(env.limits(), input, at.now) {
            Step::NeedsInput => return InputTaken::All,
            Step::Auth(auth) => match judge(env, connection.peer.ip(), auth, at) {
                Judgement::Accepted(client) => accept(connection, client, context),
                Judgement::Wrong => return InputTaken::Close(CloseReason::AuthFailed),
                Judgement::WrongUntil(due) => refuse(connection, due),
                Judgement::RateLimited => return InputTaken::Close(CloseReason::AuthRateLimited),
            },
            Step::Subscribe(request) => match subscribe(connection, request, context) {
                SubscribeOutcome::Served => {}
                SubscribeOutcome::Waits => *context.has_askers = true,
                SubscribeOutcome::Refused(reason) => return InputTaken::Close(reason),
            },
            Step::Heartbeat { client_time_us } => answer(client_time_us, context),
            Step::Close(reason) => return InputTaken::Close(reason),
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

fn refuse<S>(connection: &mut Connection<S>, due: Mono) {
    let ended = Stage::Lingering { until: due };
    connection.stage = match std::mem::replace(&mut connection.stage, ended) {
        Stage::Handshake { _permit } => Stage::Refused { due, _permit },
        other @ (Stage::Refused { .. } | Stage::Served(_) | Stage::Lingering { .. }) => other,
    };
}

fn answer(client_time_us: i64, context: &mut InputContext<'_>) {
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
