//! Subscriptions. Each consists of a bounded queue of messages and a status that is not lost if the
//! queue is full: whether there is a connection, and how many messages were dropped. Every bus
//! delivers through an [`Outlet`]; clocks and edges read [`Events`].

use std::collections::BTreeMap;

use tickstorm_timebase::ClockId;
use tokio::sync::{mpsc, watch};

use crate::message::DropReason;

/// The maximum number of queued messages of a subscriber: the requests of a thousand edges to a
/// clock in four seconds. Later messages would be useless to a subscriber that stalls for longer,
/// since an answer that late yields no sample.
const QUEUE_MESSAGES_MAX: usize = 4_096;

/// A change of a subscription's status. It is returned ahead of queued messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Connected,
    Disconnected,
    Dropped {
        reason: DropReason,
        clock: Option<ClockId>,
        count: u64,
    },
}

/// The numbers of dropped messages, by the clock from whose login they came, if it is known, and by
/// reason. A subscription knows a bounded number of clocks.
type Drops = BTreeMap<(Option<ClockId>, DropReason), u64>;

/// The status of a subscription. [`Events`] compares it with the status that was last reported, so
/// several changes in between are reported as one.
#[derive(Debug, Default)]
struct SubscriptionStatus {
    connected: bool,
    /// The number of connections made, which reveals that a connection was lost and made again.
    connections: u64,
    dropped: Drops,
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
        let status = self.status.borrow_and_update();
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
        status.dropped.iter().find_map(|(key, &total)| {
            let before = reported.dropped.get(key).copied().unwrap_or_default();
            if total == before {
                return None;
            }
            reported.dropped.insert(key.clone(), total);
            let (clock, reason) = key.clone();
            Some(Notice::Dropped {
                reason,
                clock,
                count: total - before,
            })
        })
    }
}

/// The bus's side of a subscription.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    messages: mpsc::Sender<T>,
    status: watch::Sender<SubscriptionStatus>,
    /// The messages dropped since [`Self::flush`].
    dropped: Drops,
}

impl<T> Outlet<T> {
    /// Creates both sides of a subscription.
    pub(crate) fn new(connected: bool) -> (Self, Events<T>) {
        let (messages, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let (status, watched) = watch::channel(SubscriptionStatus::default());
        let outlet = Self {
            messages,
            status,
            dropped: Drops::new(),
        };
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

    /// Delivers a message, or counts it as dropped if the queue is full.
    pub(crate) fn deliver(&mut self, message: T) {
        if self.messages.try_send(message).is_err() {
            self.drop_message(DropReason::Full, None);
        }
    }

    /// Counts a message that was dropped, which came from the login of `clock`, if that is known.
    /// The subscriber is notified by [`Self::flush`].
    pub(crate) fn drop_message(&mut self, reason: DropReason, clock: Option<&ClockId>) {
        *self.dropped.entry((clock.cloned(), reason)).or_default() += 1;
    }

    /// Notifies the subscriber of dropped messages. The bus calls this after each batch of messages
    /// and not after each message, so that a flood does not keep the subscriber busy.
    pub(crate) fn flush(&mut self) {
        if self.dropped.is_empty() {
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        self.status.send_modify(|status| {
            for (key, count) in dropped {
                *status.dropped.entry(key).or_default() += count;
            }
        });
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
