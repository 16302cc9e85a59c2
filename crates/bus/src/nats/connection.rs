//! One connection: its subscriptions, and the detection of its loss.

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

/// The maximum number of different server errors logged per connection. Few permissions can be
/// missing, but a missing one causes the same error for each message.
const ERRORS_LOGGED_MAX: usize = 16;

/// One connection to one server.
pub(super) struct NatsConnection {
    client: Client,
    inbox: String,
    subscriptions: SelectAll<Subscriber>,
    subscribed_to_requests: bool,
    subscribed_to_ticks: bool,
    reports: mpsc::UnboundedReceiver<ClientReport>,
}

/// A report from async-nats that is not a message.
enum ClientReport {
    Lost,
    ServerError(ServerError),
}

impl NatsConnection {
    pub(super) async fn open(
        options: ConnectOptions,
        addr: ServerAddr,
        switchboard: Arc<Switchboard>,
    ) -> Result<Self, ConnectError> {
        let (reporter, reports) = mpsc::unbounded_channel();
        let (lost, attempted) = (reporter.clone(), AtomicBool::new(false));
        let connecting = options
            // async-nats calls this before each attempt to connect. A second call means that the
            // connection is lost. The attempt to reconnect must never be made, since the client
            // would then send buffered messages late. The client's event for a lost connection is
            // not used, since it could be dropped among many other events.
            .reconnect_delay_callback(move |_| {
                if attempted.swap(true, Ordering::Relaxed) {
                    drop(lost.send(ClientReport::Lost));
                    Duration::MAX
                } else {
                    Duration::ZERO
                }
            })
            .event_callback(move |event| {
                match event {
                    Event::ServerError(error) => {
                        drop(reporter.send(ClientReport::ServerError(error)));
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
            subscribed_to_requests: false,
            subscribed_to_ticks: false,
            reports,
        })
    }

    /// Delivers messages until the connection is lost.
    pub(super) async fn serve(mut self, switchboard: &Switchboard, log: Dispatch) {
        let mut logged = Vec::new();
        if self.subscribe(switchboard).await.is_err() {
            return;
        }
        switchboard.lock().link = Some(NatsLink {
            client: self.client.clone(),
            inbox: self.inbox.clone(),
        });
        self.notify_subscribers(switchboard);
        loop {
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(ClientReport::ServerError(error)) => {
                        if logged.len() < ERRORS_LOGGED_MAX && !logged.contains(&error) {
                            let text = error.to_string();
                            dispatcher::with_default(&log, || {
                                tracing::warn!(error = text, "NATS reported an error");
                            });
                            logged.push(error);
                        }
                    }
                    Some(ClientReport::Lost) | None => return,
                },
                Some(message) = self.subscriptions.next() => {
                    // The server's own reply that a request has no subscribers is not an answer.
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
                () = switchboard.new_subscriber.notified() => {
                    if self.subscribe(switchboard).await.is_err() {
                        return;
                    }
                    self.notify_subscribers(switchboard);
                }
            }
        }
    }

    /// Subscribes only to subjects that have subscribers in this process: permissions may forbid
    /// the others.
    async fn subscribe(&mut self, switchboard: &Switchboard) -> Result<(), SubscribeError> {
        let (clocks, edges) = {
            let endpoints = switchboard.lock();
            (!endpoints.clocks.is_empty(), !endpoints.edges.is_empty())
        };
        let mut subjects = Vec::new();
        if clocks && !self.subscribed_to_requests {
            subjects.push(switchboard.subjects.time().to_owned());
            self.subscribed_to_requests = true;
        }
        if edges && !self.subscribed_to_ticks {
            subjects.extend(Mode::ALL.map(|mode| switchboard.subjects.tick(mode).to_owned()));
            subjects.push(self.inbox.clone());
            self.subscribed_to_ticks = true;
        }
        for subject in subjects {
            let subscription = self.client.subscribe(subject).await?;
            self.subscriptions.push(subscription);
        }
        Ok(())
    }

    /// Notifies subscribers that there is a connection, if the server has been asked for their
    /// subjects.
    fn notify_subscribers(&self, switchboard: &Switchboard) {
        let endpoints = switchboard.lock();
        if self.subscribed_to_requests {
            endpoints
                .clocks
                .iter()
                .for_each(|outlet| outlet.set_connected(true));
        }
        if self.subscribed_to_ticks {
            endpoints
                .edges
                .iter()
                .for_each(|outlet| outlet.set_connected(true));
        }
    }
}
