//! One connection: its subscriptions, and the sign that it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{
    Client, ConnectError, ConnectOptions, Event, ServerAddr, ServerError, StatusCode,
    SubscribeError, Subscriber,
};
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use tickstorm_timebase::Mode;
use tokio::sync::mpsc;
use tracing::{Dispatch, dispatcher};

use super::{NatsLink, Switchboard};
use crate::inbound;

/// Complaints of a server that are logged of one connection: permissions that lack are few, and the same text comes with each
/// message.
const COMPLAINTS_MAX: usize = 16;

/// One connection to one server.
pub(super) struct NatsConnection {
    client: Client,
    inbox: String,
    subscriptions: SelectAll<Subscriber>,
    hears_requests: bool,
    hears_ticks: bool,
    signs: mpsc::UnboundedReceiver<ConnectionSign>,
}

/// What async-nats reports besides messages.
enum ConnectionSign {
    Lost,
    Complaint(ServerError),
}

impl NatsConnection {
    pub(super) async fn open(
        options: ConnectOptions,
        addr: ServerAddr,
        switchboard: Arc<Switchboard>,
    ) -> Result<Self, ConnectError> {
        let (tell, signs) = mpsc::unbounded_channel();
        let (lost, tried) = (tell.clone(), AtomicBool::new(false));
        let connecting = options
            // It is called before each attempt. A second one means that the connection is lost, and must never be made: what the
            // client has kept would leave late. Its event could be lost where there are many, this call can't.
            .reconnect_delay_callback(move |_| {
                if tried.swap(true, Ordering::Relaxed) {
                    drop(lost.send(ConnectionSign::Lost));
                    Duration::MAX
                } else {
                    Duration::ZERO
                }
            })
            .event_callback(move |event| {
                match event {
                    Event::ServerError(error) => {
                        drop(tell.send(ConnectionSign::Complaint(error)));
                    }
                    Event::SlowConsumer(_) => switchboard.count_overrun(),
                    Event::Connected
                    | Event::Disconnected
                    | Event::Closed
                    | Event::LameDuckMode
                    | Event::Draining
                    | Event::ClientError(_) => {}
                }
                std::future::ready(())
            })
            .connect(addr);
        let client = Box::pin(connecting).await?;
        Ok(Self {
            inbox: client.new_inbox(),
            client,
            subscriptions: SelectAll::new(),
            hears_requests: false,
            hears_ticks: false,
            signs,
        })
    }

    /// Carries messages until the connection is lost.
    pub(super) async fn carry(mut self, switchboard: &Switchboard, log: Dispatch) {
        let mut complaints = Vec::new();
        if self.subscribe(switchboard).await.is_err() {
            return;
        }
        switchboard.lock().link = Some(NatsLink {
            client: self.client.clone(),
            inbox: self.inbox.clone(),
        });
        self.tell_subscribers(switchboard);
        loop {
            tokio::select! {
                sign = self.signs.recv() => match sign {
                    Some(ConnectionSign::Complaint(error)) => {
                        if complaints.len() < COMPLAINTS_MAX && !complaints.contains(&error) {
                            let text = error.to_string();
                            dispatcher::with_default(&log, || {
                                tracing::warn!(error = text, "NATS complains");
                            });
                            complaints.push(error);
                        }
                    }
                    Some(ConnectionSign::Lost) | None => return,
                },
                Some(message) = self.subscriptions.next() => {
                    // A server's own word that nobody listens to what was asked is no answer.
                    if message.status != Some(StatusCode::NO_RESPONDERS) {
                        let reply_to = message.reply.as_ref().map(|subject| subject.as_str());
                        let inbound = inbound::read(
                            &switchboard.subjects,
                            &self.inbox,
                            &message.subject,
                            reply_to,
                            &message.payload,
                        );
                        if let Some(inbound) = inbound {
                            switchboard.deliver(&inbound);
                        }
                    }
                }
                () = switchboard.wanted.notified() => {
                    if self.subscribe(switchboard).await.is_err() {
                        return;
                    }
                    self.tell_subscribers(switchboard);
                }
            }
        }
    }

    /// Subscribes to what there are subscribers for: permissions may forbid the rest.
    async fn subscribe(&mut self, switchboard: &Switchboard) -> Result<(), SubscribeError> {
        let (clocks, edges) = {
            let endpoints = switchboard.lock();
            (!endpoints.clocks.is_empty(), !endpoints.edges.is_empty())
        };
        let mut subjects = Vec::new();
        if clocks && !self.hears_requests {
            subjects.push(switchboard.subjects.time().to_owned());
            self.hears_requests = true;
        }
        if edges && !self.hears_ticks {
            subjects.extend(Mode::ALL.map(|mode| switchboard.subjects.tick(mode).to_owned()));
            subjects.push(self.inbox.clone());
            self.hears_ticks = true;
        }
        for subject in subjects {
            let subscription = self.client.subscribe(subject).await?;
            self.subscriptions.push(subscription);
        }
        Ok(())
    }

    /// Tells those whose subjects are subscribed to that there is a connection.
    fn tell_subscribers(&self, switchboard: &Switchboard) {
        let endpoints = switchboard.lock();
        if self.hears_requests {
            endpoints
                .clocks
                .iter()
                .for_each(|outlet| outlet.set_connected(true));
        }
        if self.hears_ticks {
            endpoints
                .edges
                .iter()
                .for_each(|outlet| outlet.set_connected(true));
        }
    }
}
