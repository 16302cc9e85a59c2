//! SUBSCRIBE: what a client gets first, where it joins its feed, and what it leaves. The rules
//! themselves are timebase's ([`tickstorm_timebase::plan`]); here they are applied to a connection
//! and the feeds.

use std::os::fd::AsRawFd;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Epoch, Mono, Plan, Request, plan};

use super::connection::Connection;
use super::context::InputContext;
use super::env::Env;
use super::feeds::Feeds;
use super::outbox::Outbox;
use super::replay::Replay;
use crate::feed::FeedId;

/// What came of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum SubscribeOutcome {
    /// Its ACK is among the control frames.
    Served,
    /// It waits until the time is known.
    Waits,
    /// The connection is to be closed.
    Refused(CloseReason),
}

/// Acts on a SUBSCRIBE: now, or when the time is known and those before it are served. Appends ACKs
/// to the control buffer.
pub(super) fn subscribe<S: AsRawFd>(
    connection: &mut Connection<S>,
    request: Request,
    context: &mut InputContext<'_>,
) -> SubscribeOutcome {
    let Some(served) = connection.served_mut() else {
        return SubscribeOutcome::Waits;
    };
    match context.env.ticking_authority(context.at.mono) {
        Some(authority) if served.asked.is_empty() => {
            serve(connection, &[request], authority, context)
        }
        Some(_) | None => {
            served.ask(request, context.env);
            SubscribeOutcome::Waits
        }
    }
}

/// Serves the SUBSCRIBEs that have waited for the time, as far as it is known.
pub(super) fn serve_asked<S: AsRawFd>(
    connection: &mut Connection<S>,
    context: &mut InputContext<'_>,
) -> SubscribeOutcome {
    let authority = context.env.ticking_authority(context.at.mono);
    let (Some(authority), Some(served)) = (authority, connection.served_mut()) else {
        return SubscribeOutcome::Waits;
    };
    let asked = std::mem::take(&mut served.asked);
    serve(connection, &asked, authority, context)
}

/// Answers each request in order; the last one is served. A frame half sent is finished, the rest
/// of the old subscription is dropped.
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
    let mut last = None;
    for request in requests {
        let Some(plan) = plan_for(request, authority, env, feeds, at.mono) else {
            return SubscribeOutcome::Refused(CloseReason::ResumeTooFar);
        };
        connection
            .session
            .subscribed(env.limits(), plan.start, control.frames());
        last = Some((request, plan));
    }
    let Some((request, plan)) = last else {
        return SubscribeOutcome::Waits;
    };
    let (slot, fd) = (connection.key.slot, connection.socket.as_raw_fd());
    feeds.leave(slot);
    let Some(served) = connection.served_mut() else {
        return SubscribeOutcome::Waits;
    };
    let replay = Replay::of(request.mode, &plan);
    if let Some(outbox) = served.outbox.as_mut() {
        outbox.set_replay(replay);
    } else if replay.is_some() {
        let mut outbox = Outbox::new(at.now);
        outbox.set_replay(replay);
        served.outbox = Some(outbox);
    }
    let is_behind = served.outbox.is_some();
    feeds.enter(slot, fd, feed_of(request), plan.start, is_behind);
    SubscribeOutcome::Served
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
    // After a stall the feed at its time sends first: what the ahead feed has yet to send is not to
    // be replayed too.
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
