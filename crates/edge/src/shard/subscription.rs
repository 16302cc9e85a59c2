//! SUBSCRIBE: what a client gets first, where it joins its feed, and what it leaves. The rules themselves are timebase's
//! ([`tickstorm_timebase::plan`]); here they are carried out.

use std::os::fd::AsRawFd;
use std::rc::Rc;

use tickstorm_protocol::code::CloseReason;
use tickstorm_timebase::{Authority, Epoch, Plan, Request, plan};

use super::connection::{Connection, Place};
use super::outbox::{Outbox, Replay};
use super::{FeedIndex, Shard};
use crate::feed::{Arrival, CHUNK};

impl Shard {
    /// Acts on a SUBSCRIBE: now, or when the time is known and those before it are served.
    pub(super) fn subscribe(self: &Rc<Self>, connection: &Rc<Connection>, request: Request) {
        let mut state = connection.state.borrow_mut();
        match self.authority(self.time.mono()) {
            Some(authority) if state.asked.is_empty() => {
                drop(state);
                self.serve(connection, &[request], &authority);
            }
            Some(_) | None => {
                state.asked.push(request);
                self.has_askers.set(true);
            }
        }
    }

    /// The time is known: all that waited for it get their ACKs, in chunks, between which everybody else gets a turn.
    pub(super) async fn serve_askers(self: Rc<Self>) {
        for chunk in self.all().chunks(CHUNK) {
            let Some(authority) = self.authority(self.time.mono()) else {
                self.has_askers.set(true);
                return;
            };
            for connection in chunk {
                let asked = std::mem::take(&mut connection.state.borrow_mut().asked);
                if !asked.is_empty() {
                    self.serve(connection, &asked, &authority);
                    self.resume_reading(connection);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Answers each request in order; the last one is served. A frame half sent is finished, the rest of the old subscription
    /// is dropped.
    fn serve(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        requests: &[Request],
        authority: &Authority,
    ) {
        let mut frames = self.frames.take();
        let mut last = None;
        for request in requests {
            let Some(plan) = self.plan(request, authority) else {
                self.send_control(connection, frames);
                self.close(connection, CloseReason::ResumeTooFar);
                return;
            };
            connection.state.borrow_mut().session.subscribed(
                self.limits(),
                plan.start,
                &mut frames,
            );
            last = Some((request, plan));
        }
        let Some((request, plan)) = last else { return };
        self.leave(connection);
        let replay = Replay::of(request.mode, &plan);
        let mut state = connection.state.borrow_mut();
        if let Some(outbox) = state.outbox.as_mut() {
            outbox.set_replay(replay);
            drop(state);
            self.take_place(connection, request, plan.start);
            self.send_control(connection, frames);
        } else if replay.is_some() {
            let mut outbox = Outbox::new(self.time.now());
            outbox.push_control(&frames);
            outbox.set_replay(replay);
            drop(state);
            self.take_place(connection, request, plan.start);
            self.start_writing(connection, outbox);
        } else {
            drop(state);
            self.take_place(connection, request, plan.start);
            self.send_control(connection, frames);
        }
    }

    fn plan(&self, request: &Request, authority: &Authority) -> Option<Plan> {
        let feeds = self.feeds.borrow();
        let last = |ahead| {
            let FeedIndex(index) = FeedIndex::of(request.mode, ahead);
            feeds[usize::from(index)].last()
        };
        let ahead = request.ahead.then(|| last(true));
        // After a stall the feed at its time sends first: what the ahead feed has yet to send is not to be replayed too.
        let released = ahead.unwrap_or(Epoch::from_ms(i64::MAX)).min(last(false));
        let time = authority.time_at(self.time.mono());
        plan(
            request,
            time,
            released,
            ahead,
            self.settings().feeds.resume_window,
        )
        .ok()
    }

    /// Joins the feed behind its last frame, or waits until it passes a resume point that lies ahead of it.
    fn take_place(&self, connection: &Connection, request: &Request, start: Epoch) {
        let index = FeedIndex::of(request.mode, request.ahead);
        let waits = start > self.feeds.borrow()[usize::from(index.0)].last();
        if waits {
            self.feeds.borrow_mut()[usize::from(index.0)].wait(connection.key.slot, start);
            connection.state.borrow_mut().place = Place::Waiting(index);
        } else {
            let next = self.feeds.borrow()[usize::from(index.0)].ring().head();
            self.join(connection, index, next);
        }
    }

    fn join(&self, connection: &Connection, index: FeedIndex, next: u64) {
        let mut state = connection.state.borrow_mut();
        let mut feeds = self.feeds.borrow_mut();
        let subscribers = feeds[usize::from(index.0)].subscribers();
        let fd = connection.stream.as_raw_fd();
        let position = subscribers.join(fd, connection.key.slot, next, state.outbox.is_some());
        state.place = Place::Joined(index, position);
    }

    /// Lets one in whose resume point the feed has passed.
    pub(super) fn arrive(self: &Rc<Self>, index: FeedIndex, arrival: Arrival) {
        let Some(connection) = self.at(arrival.owner) else {
            return;
        };
        self.join(&connection, index, arrival.next);
        if let Some(own) = arrival.own {
            self.count_frame(&own);
            self.send_control(&connection, own.bytes.into());
        }
    }

    /// Takes a connection out of its feed.
    pub(super) fn leave(&self, connection: &Connection) {
        let mut state = connection.state.borrow_mut();
        match std::mem::replace(&mut state.place, Place::None) {
            Place::None => {}
            Place::Waiting(index) => {
                self.feeds.borrow_mut()[usize::from(index.0)].stop_waiting(connection.key.slot);
            }
            Place::Joined(index, position) => {
                let mut feeds = self.feeds.borrow_mut();
                let moved = feeds[usize::from(index.0)].subscribers().leave(position);
                drop((feeds, state));
                if let Some(owner) = moved {
                    self.take_position(owner, index, position);
                }
            }
        }
    }

    /// Tells a connection that its entry now stands at `position`.
    pub(super) fn take_position(&self, owner: u32, index: FeedIndex, position: u32) {
        if let Some(connection) = self.at(owner) {
            connection.state.borrow_mut().place = Place::Joined(index, position);
        }
    }
}
