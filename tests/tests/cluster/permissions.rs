//! The permissions that the shipped NATS configuration grants. An ordinary NATS client tries what
//! it may and may not do with the logins of clocks and edges, in a running cluster.

use async_nats::{Client, ConnectError, ConnectOptions, Event, ServerError};
use futures_util::StreamExt as _;
use tickstorm_testkit::PATIENCE;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::engine::{NATS, container, ensure_ready};

const SECOND: &str = "tickstorm.v1.tick.second";
const MINUTE: &str = "tickstorm.v1.tick.minute";
const TIME: &str = "tickstorm.v1.time";
const FORGED: &[u8] = b"forged";

#[tokio::test]
async fn with_an_edges_login_nobody_can_announce_ticks_or_answer_time_requests() {
    ensure_ready();
    let mut edge = Intruder::like("edge").await;
    let mut announcements = edge.client.subscribe(SECOND).await.unwrap();
    for subject in [SECOND, MINUTE, "_INBOX.of.another.edge"] {
        edge.publish(subject).await;
        edge.await_refusal(&format!("Publish to \"{subject}\""))
            .await;
    }
    edge.subscribe_to(TIME).await;
    edge.await_refusal(&format!("Subscription to \"{TIME}\""))
        .await;
    edge.subscribe_to(">").await;
    edge.await_refusal("Subscription to \">\"").await;
    // Nothing but the clocks' announcements has arrived, and they continue to arrive.
    for _ in 0..3 {
        let announcement = timeout(PATIENCE, announcements.next()).await;
        let announcement = announcement.expect("clocks announce").unwrap();
        assert_ne!(&*announcement.payload, FORGED);
    }
}

#[tokio::test]
async fn with_a_clocks_login_nobody_can_send_time_requests_or_unrequested_answers() {
    ensure_ready();
    let mut clock = Intruder::like("clock-0").await;
    for subject in [TIME, "_INBOX.of.an.edge"] {
        clock.publish(subject).await;
        clock
            .await_refusal(&format!("Publish to \"{subject}\""))
            .await;
    }
    for subject in [SECOND, "_INBOX.>"] {
        clock.subscribe_to(subject).await;
        clock
            .await_refusal(&format!("Subscription to \"{subject}\""))
            .await;
    }
    // Publishing to an allowed subject is not refused, so the refusals above were due to
    // permissions. Edges drop and count this payload, since it is not an announcement.
    clock.publish(MINUTE).await;
    clock.client.flush().await.unwrap();
    assert!(clock.refusals.is_empty());
}

#[tokio::test]
async fn nobody_can_connect_without_a_valid_login() {
    ensure_ready();
    let clock = container("clock-0");
    let password = clock.env("NATS_PASSWORD");
    let with = |user: &str, password: &str| {
        ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
    };
    for options in [
        ConnectOptions::new(),
        with("clock", "no"),
        with("edge", &password),
        // The login of the servers, which is valid for routes only.
        with("route", "route_pass"),
    ] {
        let attempt = connect(options).await;
        let error = attempt.expect_err("no connection").to_string();
        assert!(error.contains("authorization violation"), "{error}");
    }
    connect(with("clock", &password)).await.unwrap();
}

/// A NATS client with the login of a clock or an edge.
struct Intruder {
    client: Client,
    /// The errors that the server has sent.
    refusals: UnboundedReceiver<String>,
}

impl Intruder {
    /// Connects with the login of `service`.
    async fn like(service: &str) -> Self {
        let owner = container(service);
        let (user, password) = (owner.env("NATS_USER"), owner.env("NATS_PASSWORD"));
        let (sender, refusals) = unbounded_channel();
        let options = ConnectOptions::with_user_and_password(user, password);
        let client = connect(options.event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                sender.send(text).unwrap();
            }
            std::future::ready(())
        }));
        Self {
            client: client.await.unwrap(),
            refusals,
        }
    }

    async fn publish(&self, subject: &str) {
        let payload = FORGED.into();
        self.client
            .publish(subject.to_owned(), payload)
            .await
            .unwrap();
    }

    async fn subscribe_to(&self, subject: &str) {
        // The subscription itself is not needed: the server reports a refusal as an error event.
        drop(self.client.subscribe(subject.to_owned()).await.unwrap());
    }

    /// Waits until the server reports that `operation` was not permitted.
    async fn await_refusal(&mut self, operation: &str) {
        let refusal = timeout(PATIENCE, self.refusals.recv()).await;
        let refusal = refusal.unwrap_or_else(|_| panic!("{operation} was not refused"));
        let refusal = refusal.unwrap();
        let expected = format!("permissions violation for {operation}");
        assert!(
            refusal.to_lowercase().contains(&expected.to_lowercase()),
            "{refusal}"
        );
    }
}

async fn connect(options: ConnectOptions) -> Result<Client, ConnectError> {
    let url = format!("nats://{}:4222", container(NATS[0]).ip());
    Box::pin(options.connect(url)).await
}
