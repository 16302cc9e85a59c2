//! Subscriptions. Each consists of a bounded queue of messages and a status that is not lost if the
//! queue is full: whether there is a connection, and how many messages were dropped. Every bus
//! delivers through an [`Outlet`]; clocks and edges read [`Events`].

use std::num::NonZeroU64;

use tokio::sync::{mpsc, watch};

use crate::message::DropReason;

/// The maximum number of queued messages of a subscriber: the requests of a thousand edges to a
/// clock in four seconds. Later messages would be useless to a subscriber that stalls for longer,
/// since an answer that late yields no sample.
const QUEUE_MESSAGES_MAX: usize = 4_096;

/// A change of a subscription's status. It is returned ahead of queued messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Connected,
    Disconnected,
    Dropped { reason: DropReason, count: u64 },
}

/// The status of a subscription. [`Events`] compares it with the status that was last reported, so
/// several changes in between are reported as one.
#[derive(Clone, Copy, Debug, Default)]
struct SubscriptionStatus {
    connected: bool,
    /// The number of connections made, which reveals that a connection was lost and made again.
    connections: u64,
    dropped: [u64; DropReason::ALL.len()],
}

/// The events for a clock or an edge, in order of arrival.
#[derive(Debug)]
pub struct Events<T> {
    messages: mpsc::Receiver<T>,
    status: watch::Receiver<SubscriptionStatus>,
    reported: SubscriptionStatus,
}

impl<T: From<Notice>> Events<T> {
    /// Returns the next event, or `None` once the bus is gone. Cancelling the call loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(notice) = self.notice() {
                return Some(notice.into());
            }
            tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(message) => return Some(message),
                    // The bus may have changed the status just before it went away.
                    None => return self.notice().map(T::from),
                },
                Ok(()) = self.status.changed() => {}
            }
        }
    }

    fn notice(&mut self) -> Option<Notice> {
        let status = *self.status.borrow_and_update();
        let reported = &mut self.reported;
        if (status.connected, status.connections) != (reported.connected, reported.connections) {
            reported.connected = status.connected;
            reported.connections = status.connections;
            return Some(if status.connected {
                Notice::Connected
            } else {
                Notice::Disconnected
            });
        }
        let counters = status.dropped.iter().zip(&mut reported.dropped);
        DropReason::ALL
            .into_iter()
            .zip(counters)
            .find_map(|(reason, (&total, reported))| {
                let count = NonZeroU64::new(total - std::mem::replace(reported, total))?.get();
                Some(Notice::Dropped { reason, count })
            })
    }
}

/// The bus's side of a subscription.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    messages: mpsc::Sender<T>,
    status: watch::Sender<SubscriptionStatus>,
}

impl<T> Outlet<T> {
    /// Creates both sides of a subscription.
    pub(crate) fn new(connected: bool) -> (Self, Events<T>) {
        let (messages, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let (status, watched) = watch::channel(SubscriptionStatus::default());
        let outlet = Self { messages, status };
        if connected {
            outlet.set_connected(true);
        }
        (
            outlet,
            Events {
                messages: queue,
                status: watched,
                reported: SubscriptionStatus::default(),
            },
        )
    }

    /// Returns whether the subscriber is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    /// Delivers a message, or counts it as dropped if it was rejected or the queue is full.
    pub(crate) fn deliver(&self, message: Result<T, DropReason>) {
        let outcome = message.and_then(|message| {
            self.messages
                .try_send(message)
                .map_err(|_| DropReason::Full)
        });
        if let Err(reason) = outcome {
            self.status
                .send_modify(|status| status.dropped[reason as usize] += 1);
        }
    }

    /// Sets whether there is a connection.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.status.send_if_modified(|status| {
            let changed = status.connected != connected;
            status.connected = connected;
            status.connections += u64::from(changed && connected);
            changed
        });
    }
}

/// Delivers an event to every subscriber, and removes subscribers that are gone.
pub(crate) fn deliver_to_all<T: Clone>(
    outlets: &mut Vec<Outlet<T>>,
    event: &Result<T, DropReason>,
) {
    outlets.retain(|outlet| !outlet.is_closed());
    outlets
        .iter()
        .for_each(|outlet| outlet.deliver(event.clone()));
}
