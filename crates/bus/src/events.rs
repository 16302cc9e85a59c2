//! Subscriptions: a bounded queue of messages, and beside it what must not be lost where that is full: whether there is a
//! connection, and how many messages were dropped. Every bus delivers through an [`Outlet`]; clocks and edges read [`Events`].

use std::num::NonZeroU64;

use tokio::sync::{mpsc, watch};

use crate::message::DropReason;

/// Messages that a subscriber may leave untaken: what a thousand edges ask of a clock in four seconds. Who stands still for
/// longer has no use for them: answers that late are no samples.
const QUEUE_MESSAGES_MAX: usize = 4_096;

/// What a subscriber hears about its subscription. It is told of ahead of messages that still wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Connected,
    Disconnected,
    Dropped { reason: DropReason, count: u64 },
}

/// How a subscription is, compared with what the subscriber was told last. Of several changes in
/// between, the subscriber hears the outcome.
#[derive(Clone, Copy, Debug, Default)]
struct SubscriptionStatus {
    connected: bool,
    connections: u64,
    dropped: [u64; DropReason::ALL.len()],
}

/// What a clock or an edge hears, in the order of its arrival.
#[derive(Debug)]
pub struct Events<T> {
    messages: mpsc::Receiver<T>,
    status: watch::Receiver<SubscriptionStatus>,
    told: SubscriptionStatus,
}

impl<T: From<Notice>> Events<T> {
    /// The next event; none once the bus is gone. Cancelling the call loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(notice) = self.notice() {
                return Some(notice.into());
            }
            tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(message) => return Some(message),
                    // The last notice may have come together with the end.
                    None => return self.notice().map(T::from),
                },
                Ok(()) = self.status.changed() => {}
            }
        }
    }

    fn notice(&mut self) -> Option<Notice> {
        let status = *self.status.borrow_and_update();
        let told = &mut self.told;
        if (status.connected, status.connections) != (told.connected, told.connections) {
            told.connected = status.connected;
            told.connections = status.connections;
            return Some(if status.connected {
                Notice::Connected
            } else {
                Notice::Disconnected
            });
        }
        let counters = status.dropped.iter().zip(&mut told.dropped);
        DropReason::ALL
            .into_iter()
            .zip(counters)
            .find_map(|(reason, (&total, told))| {
                let count = NonZeroU64::new(total - std::mem::replace(told, total))?.get();
                Some(Notice::Dropped { reason, count })
            })
    }
}

/// The bus's end of a subscription.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    messages: mpsc::Sender<T>,
    status: watch::Sender<SubscriptionStatus>,
}

impl<T> Outlet<T> {
    /// Both ends of a new subscription.
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
                told: SubscriptionStatus::default(),
            },
        )
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    /// Delivers a message, or counts why there is none or no room for it.
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

    /// Tells whether there is a connection.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.status.send_if_modified(|status| {
            let changed = status.connected != connected;
            status.connected = connected;
            status.connections += u64::from(changed && connected);
            changed
        });
    }
}

/// Delivers the same to every subscriber, and forgets those that have gone.
pub(crate) fn deliver_to_all<T: Clone>(
    outlets: &mut Vec<Outlet<T>>,
    event: &Result<T, DropReason>,
) {
    outlets.retain(|outlet| !outlet.is_closed());
    outlets
        .iter()
        .for_each(|outlet| outlet.deliver(event.clone()));
}
