//! The permissions that the shipped NATS configuration grants. An ordinary NATS client tries what
//! it may and may not do with the logins of clocks and edges, in a running cluster.

use async_nats::{Client, ConnectError, ConnectOptions, Event, ServerError};
use futures_util::StreamExt as _;
use tickstorm_testkit::PATIENCE;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::engine::{NATS, container, ensure_ready};

const SECOND: &str = "tickstorm.v1.tick.second.clock-0";
const MINUTE: &str = "tickstorm.v1.tick.minute.clock-0";
const SECONDS: &str = "tickstorm.v1.tick.second.*";
const TIME: &str = "tickstorm.v1.time";
const FORGED: &[u8] = b"forged";

#[tokio::test]
async fn with_an_edges_login_nobody_can_announce_ticks_or_answer_time_requests() {
    ensure_ready();
    let mut edge = Intruder::like("edge").await;
    let mut announcements = edge.client.subscribe(SECONDS).await.unwrap();
    edge.assert_cannot_publish(&[
        SECOND,
        MINUTE,
        "tickstorm.v1.tick.second",
        "tickstorm.v1.answer.of-another-edge",
        "tickstorm.v1.answer.of-another-edge.clock-0",
        "_INBOX.of.another.edge",
    ])
    .await;
    edge.assert_cannot_subscribe_to(&[TIME, ">", "tickstorm.v1.>", "_INBOX.>"])
        .await;
    // Nothing but the clocks' announcements has arrived, and they continue to arrive.
    for _ in 0..3 {
        let announcement = timeout(PATIENCE, announcements.next()).await;
        let announcement = announcement.expect("clocks announce").unwrap();
        assert_ne!(&*announcement.payload, FORGED);
    }
}

#[tokio::test]
async fn with_a_clocks_login_nobody_can_speak_for_another_clock_or_send_time_requests() {
    ensure_ready();
    let mut clock = Intruder::like("clock-0").await;
    clock
        .assert_cannot_publish(&[
            "tickstorm.v1.tick.second.clock-1",
            "tickstorm.v1.tick.minute.clock-2",
            "tickstorm.v1.answer.of-an-edge.clock-1",
            // Without a clock's name, or with more than it.
            "tickstorm.v1.tick.second",
            "tickstorm.v1.tick.second.clock-0.x",
            "tickstorm.v1.answer.of-an-edge",
            TIME,
            "_INBOX.of.an.edge",
        ])
        .await;
    clock
        .assert_cannot_subscribe_to(&[
            SECONDS,
            "tickstorm.v1.tick.second.clock-1",
            "tickstorm.v1.answer.*.*",
            "_INBOX.>",
        ])
        .await;
    // Its own subjects are not refused, so the refusals above were due to permissions. Edges drop
    // and count this payload, since it is not an announcement.
    let mut heard = clock.client.subscribe(MINUTE).await.unwrap();
    clock.publish(MINUTE).await;
    let own = timeout(PATIENCE, heard.next()).await;
    assert_eq!(&*own.expect("it hears itself").unwrap().payload, FORGED);
    assert!(clock.refusals.is_empty());
}

#[tokio::test]
async fn nobody_can_connect_without_a_valid_login() {
    ensure_ready();
    let password = container("clock-0").env("NATS_PASSWORD");
    let with = |user: &str, password: &str| {
        ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
    };
    for options in [
        ConnectOptions::new(),
        with("clock-0", "no"),
        // The password of another clock.
        with("clock-1", &password),
        with("edge", &password),
        // The login of the servers, which is valid for routes only.
        with("route", "route_pass"),
    ] {
        let error = refusal(options).await;
        assert!(error.contains("authorization violation"), "{error}");
    }
    connect(with("clock-0", &password)).await.unwrap();
}

/// Returns the error of a connection that is refused. On a machine that is busy, the server's time
/// limit for a login may be over first; then the next attempt counts.
async fn refusal(options: ConnectOptions) -> String {
    for _ in 0..5 {
        let attempt = connect(options.clone()).await;
        let error = attempt.expect_err("no connection").to_string();
        if !error.contains("Authentication Timeout") {
            return error;
        }
    }
    panic!("the server does not judge the login in time");
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

    async fn assert_cannot_publish(&mut self, subjects: &[&str]) {
        for subject in subjects {
            self.publish(subject).await;
            self.await_refusal(&format!("Publish to \"{subject}\""))
                .await;
        }
    }

    async fn assert_cannot_subscribe_to(&mut self, subjects: &[&str]) {
        for subject in subjects {
            self.subscribe_to(subject).await;
            self.await_refusal(&format!("Subscription to \"{subject}\""))
                .await;
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
