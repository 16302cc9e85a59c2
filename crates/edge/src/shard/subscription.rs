//! Handling of SUBSCRIBE: charges for a replay and starts it, takes the client out of its old feed,
//! and lets it join the new one. The rules themselves are in [`tickstorm_timebase::plan`] and in
//! [`super::replay_budget`]; this module applies them to a connection and the feeds.

use std::os::fd::AsRawFd;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Epoch, Mono, Plan, Request, plan};

use super::connection::Connection;
use super::context::InputContext;
use super::control_buffer::ControlBuffer;
use super::debugged::log_connection;
use super::env::Env;
use super::feeds::Feeds;
use super::outbox::Outbox;
use super::replay::Replay;
use super::replay_budget::ChargedAddress;
use crate::admission::Address;
use crate::feed::FeedId;
use crate::metrics::SentFrame;

/// The outcome of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum SubscribeOutcome {
    /// It was served, and its ACK was appended to the control frames.
    Served,
    /// It must wait until the time is known.
    Waits,
    /// The connection must be closed.
    Refused(CloseReason),
}

/// Serves a SUBSCRIBE immediately if the time is known and none waits before it; otherwise queues
/// it. ACKs are appended to the control buffer.
pub(super) fn subscribe<S: AsRawFd>(
    connection: &mut Connection<S>,
    request: Request,
    context: &mut InputContext<'_>,
) -> SubscribeOutcome {
    let Some(served) = connection.served_mut() else {
        return SubscribeOutcome::Waits;
    };
    match context.env.ticking_authority(context.at.mono) {
        Some(authority) if !served.has_pending_subscribes() => {
            serve(connection, &[request], authority, context)
        }
        Some(_) | None => {
            served.defer(request, context.env, context.at.now);
            log_connection!(
                context.env, connection.key.id, connection.peer;
                mode = request.mode.name(),
                ahead = request.ahead,
                "SUBSCRIBE waits for the time"
            );
            SubscribeOutcome::Waits
        }
    }
}

/// Serves all queued SUBSCRIBEs of a connection, if the time is known.
pub(super) fn serve_pending_subscribes<S: AsRawFd>(
    connection: &mut Connection<S>,
    context: &mut InputContext<'_>,
) -> SubscribeOutcome {
    let authority = context.env.ticking_authority(context.at.mono);
    let (Some(authority), Some(served)) = (authority, connection.served_mut()) else {
        return SubscribeOutcome::Waits;
    };
    let requests = served.take_pending_subscribes();
    serve(connection, &requests, authority, context)
}

/// Answers all requests in order and serves the last one. A partially written frame is completed;
/// the rest of the previous subscription is dropped.
fn serve<S: AsRawFd>(
    connection: &mut Connection<S>,
    requests: &[Request],
    authority: &Authority,
    context: &mut InputContext<'_>,
) -> SubscribeOutcome {
    let InputContext {
        env,
        feeds,
        control,
        at,
        ..
    } = context;
    let Some((request, earlier)) = requests.split_last() else {
        return SubscribeOutcome::Waits;
    };
    for request in earlier {
        let Some(plan) = plan_for(request, authority, env, feeds, at.mono) else {
            return SubscribeOutcome::Refused(CloseReason::ResumeTooFar);
        };
        acknowledge(connection, plan.start, env, control);
    }
    let Some(plan) = plan_for(request, authority, env, feeds, at.mono) else {
        return SubscribeOutcome::Refused(CloseReason::ResumeTooFar);
    };
    let replay = Replay::from_plan(request.mode, &plan);
    if let Err(reason) = charge(connection, replay.as_ref(), env, at.mono) {
        return SubscribeOutcome::Refused(reason);
    }
    acknowledge(connection, plan.start, env, control);
    log_connection!(
        env, connection.key.id, connection.peer;
        mode = request.mode.name(),
        ahead = request.ahead,
        resume_after_epoch_ms = request.resume_after.map(Epoch::as_ms),
        start_epoch_ms = plan.start.as_ms(),
        replayed_ticks = replay.as_ref().map(Replay::ticks),
        "subscribed"
    );
    let (slot, fd) = (connection.key.slot, connection.socket.as_raw_fd());
    feeds.leave(slot);
    let Some(served) = connection.served_mut() else {
        return SubscribeOutcome::Waits;
    };
    if replay.is_some() {
        served.outbox.get_or_insert_with(|| Outbox::new(at.now));
    }
    if let Some(outbox) = served.outbox.as_deref_mut() {
        outbox.set_replay(replay);
    }
    let is_behind = served.outbox.is_some();
    feeds.enter(slot, fd, feed_of(request), plan.start, is_behind);
    SubscribeOutcome::Served
}

/// Appends the ACK of a SUBSCRIBE to the control frames.
fn acknowledge<S>(
    connection: &mut Connection<S>,
    start: Epoch,
    env: &Env,
    control: &mut ControlBuffer,
) {
    let session = &mut connection.session;
    session.subscribed(env.limits(), start, control.frames());
    env.frames.count_sent(SentFrame::Ack);
}

/// Charges a replay to the connection and, unless its client is a known device, to its address.
fn charge<S>(
    connection: &mut Connection<S>,
    replay: Option<&Replay>,
    env: &Env,
    now: Mono,
) -> Result<(), CloseReason> {
    let address = Address::from(connection.peer.ip());
    let (Some(replay), Some(served)) = (replay, connection.served_mut()) else {
        return Ok(());
    };
    let charged = ChargedAddress {
        address,
        budgets: &env.commons.replays,
    };
    let charged = (!served.has_cookie()).then_some(charged);
    let window = env.settings().feeds.resume_window;
    let budget = &mut served.replay_budget;
    budget.charge(replay.past_ticks(), charged, window, now)
}

fn plan_for(
    request: &Request,
    authority: &Authority,
    env: &Env,
    feeds: &Feeds,
    mono: Mono,
) -> Option<Plan> {
    let at_time = feeds.last(FeedId::at_time(request.mode));
    let ahead = request
        .ahead
        .then(|| feeds.last(FeedId::ahead(request.mode)));
    // After a stall the at-time feed sends first, so it may have got further than the ahead feed.
    // The replay must not include ticks that the ahead feed has yet to send.
    let released = ahead.unwrap_or(Epoch::from_ms(i64::MAX)).min(at_time);
    let time = authority.time_at(mono);
    let window = env.settings().feeds.resume_window;
    plan(request, time, released, ahead, window).ok()
}

fn feed_of(request: &Request) -> FeedId {
    if request.ahead {
        FeedId::ahead(request.mode)
    } else {
        FeedId::at_time(request.mode)
    }
}
